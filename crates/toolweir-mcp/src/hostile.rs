//! Text from servers, made fit to be shown: bounded, and without control characters.

use std::fmt::{self, Write as _};

/// What an error message quotes of a server's words.
const LONGEST: usize = 300;

/// A server's words for an error message: quoted, escaped, and cut where they go on.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .0
            .char_indices()
            .nth(LONGEST)
            .map_or(self.0.len(), |(at, _)| at);
        write!(f, "{:?}", &self.0[..end])?;
        if end < self.0.len() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_escaped_and_cut() {
        assert_eq!(Quoted("a\u{1b}[31m\n").to_string(), r#""a\u{1b}[31m\n""#);
        let long = "é".repeat(LONGEST + 1);
        let shown = Quoted(&long).to_string();
        assert!(shown.ends_with("\"…") && shown.chars().count() == LONGEST + 3);
    }
}
