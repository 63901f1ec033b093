//! Text from outside, made fit for states, logs and rejections.

use std::{
    error::Error,
    fmt::{self, Write as _},
};

/// How many characters of an error's text are kept.
const LONGEST: usize = 300;

/// How deep a chain of sources is followed. One built by hand may be a loop.
const DEEPEST: usize = 16;

/// What `error` and its sources say, on one line of at most 300 characters.
///
/// Errors repeat what servers sent, so control characters and invisible ones come out escaped, and
/// what is too long is cut. A source that the text before it quotes already is left out.
///
/// ```
/// use toolweir_core::{BoxError, error_text};
///
/// let error = BoxError::from("401\r\nSet-Cookie: a=b");
/// assert_eq!(error_text(&*error), r"401\r\nSet-Cookie: a=b");
/// ```
#[must_use]
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = Bounded::of(&error);
    let sources = std::iter::successors(error.source(), |&source| source.source());
    for source in sources.take(DEEPEST) {
        let source = Bounded::of(&source);
        if !text.kept.contains(&source.kept) {
            text.append(&source);
        }
    }
    text.kept
}

/// What `text` shows, on one line of at most 300 characters, escaped and cut as
/// [`error_text`] does it.
///
/// ```
/// assert_eq!(toolweir_core::shown("done\u{7}"), r"done\u{7}");
/// ```
#[must_use]
pub fn shown(text: &(impl fmt::Display + ?Sized)) -> String {
    Bounded::of(&text).kept
}

/// Keeps the first [`LONGEST`] characters that are written to it.
struct Bounded {
    kept: String,
    left: usize,
}

impl Bounded {
    fn of(error: &dyn fmt::Display) -> Self {
        let mut text = Self {
            kept: String::new(),
            left: LONGEST,
        };
        // It fails when the text is full, and then what it has is what is wanted.
        let _ = write!(text, "{error}");
        text
    }

    fn append(&mut self, source: &Self) {
        let separator = if self.kept.is_empty() { "" } else { ": " };
        // The source is escaped, and escaping what is visible changes nothing.
        let _ = write!(self, "{separator}{}", source.kept);
    }

    fn push(&mut self, character: char) -> fmt::Result {
        if self.left == 0 {
            if !self.kept.ends_with('…') {
                self.kept.push('…');
            }
            return Err(fmt::Error);
        }
        self.left -= 1;
        self.kept.push(character);
        Ok(())
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            if is_visible(character) {
                self.push(character)?;
            } else {
                character.escape_debug().try_for_each(|c| self.push(c))?;
            }
        }
        Ok(())
    }
}

/// Whether a character shows itself, and does not change how others are shown.
fn is_visible(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                // Tags and further variation selectors: whole texts can be hidden in them.
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    #[derive(Debug)]
    struct Wraps(&'static str, Option<BoxError>);

    impl fmt::Display for Wraps {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Wraps {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn sources_follow_their_errors() {
        let error = Wraps("cannot connect", Some("connection refused".into()));
        assert_eq!(error_text(&error), "cannot connect: connection refused");
    }

    #[test]
    fn a_source_that_was_quoted_is_not_repeated() {
        let error = Wraps("cannot connect: refused", Some("refused".into()));
        assert_eq!(error_text(&error), "cannot connect: refused");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let error = BoxError::from("ö".repeat(100_000));
        let text = error_text(&*error);
        assert_eq!(text.chars().count(), LONGEST + 1);
        assert!(text.ends_with("ö…"));
    }

    #[test]
    fn what_is_invisible_is_escaped() {
        let error = BoxError::from("a\u{1b}[31mb\u{202e}c\n");
        assert_eq!(error_text(&*error), r"a\u{1b}[31mb\u{202e}c\n");
    }

    #[test]
    fn no_text_is_smuggled_in_characters_that_nobody_sees() {
        for (hidden, escaped) in [
            ('\u{61c}', r"\u{61c}"),
            ('\u{180e}', r"\u{180e}"),
            ('\u{fff9}', r"\u{fff9}"),
            // A tag that stands for "A", and a variation selector that can stand for any byte.
            ('\u{e0041}', r"\u{e0041}"),
            ('\u{e0100}', r"\u{e0100}"),
        ] {
            assert_eq!(shown(&hidden), escaped);
        }
        assert_eq!(shown("naïve – 日本 ❤️"), "naïve – 日本 ❤️");
    }

    #[test]
    fn a_chain_without_end_is_followed_for_a_bounded_way() {
        let chain = (0..1000).fold(None, |source, _| Some(BoxError::from(Wraps("", source))));
        let error = Wraps("outermost", chain);
        assert_eq!(error_text(&error), "outermost");
    }
}
