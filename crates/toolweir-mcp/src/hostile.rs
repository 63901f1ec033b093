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

/// As [`Quoted`], without the quotes.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for shown in rest.by_ref().take(LONGEST) {
            match shown {
                '"' | '\'' | '\\' => f.write_char(shown)?,
                shown => write!(f, "{}", shown.escape_debug())?,
            }
        }
        match rest.next() {
            Some(_) => f.write_char('…'),
            None => Ok(()),
        }
    }
}

/// A server's last words: as [`Quoted`], but what is cut is the beginning. Programs say at the end
/// what was wrong.
pub(crate) struct LastWords<'a>(pub(crate) &'a str);

impl fmt::Display for LastWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.char_indices().rev().nth(LONGEST - 1);
        let start = start.map_or(0, |(at, _)| at);
        if start > 0 {
            f.write_char('…')?;
        }
        write!(f, "{:?}", &self.0[start..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classify::tests::quick;

    #[test]
    fn of_last_words_the_last_are_kept() {
        let long = format!("{}the reason", "é".repeat(LONGEST));
        let shown = LastWords(&long).to_string();
        assert!(shown.starts_with("…\"é") && shown.ends_with("the reason\""));
        assert_eq!(shown.chars().count(), LONGEST + 3);
        assert_eq!(LastWords("é").to_string(), "\"é\"");
    }

    #[test]
    fn words_are_escaped_and_cut() {
        assert_eq!(Quoted("a\u{1b}[31m\n").to_string(), r#""a\u{1b}[31m\n""#);
        let long = "é".repeat(LONGEST + 1);
        let shown = Quoted(&long).to_string();
        assert!(shown.ends_with("\"…") && shown.chars().count() == LONGEST + 3);
    }

    #[test]
    fn without_quotes_they_are_escaped_and_cut_too() {
        assert_eq!(
            Shown("a\u{1b}[31m\n\"b\"\\").to_string(),
            r#"a\u{1b}[31m\n"b"\"#
        );
        let long = "é".repeat(LONGEST + 1);
        assert_eq!(Shown(&long).to_string().chars().count(), LONGEST + 1);
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_words_are_long_or_write_to_a_terminal(words in "\\PC{0,40}(\\pC|\\PC){0,800}") {
            // The longest escape is `\u{10ffff}`.
            let longest = LONGEST * 10 + 3;
            for shown in [
                Quoted(&words).to_string(),
                Shown(&words).to_string(),
                LastWords(&words).to_string(),
            ] {
                prop_assert!(shown.chars().count() <= longest, "{}", shown);
                prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
            }
        }
    }
}
