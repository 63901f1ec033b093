//! Rules for what servers say in text alone.

use std::sync::Arc;

use toolweir_core::Outcome;

use super::retry_after;

/// How much of a text the text rules read.
const LONGEST_TEXT: usize = 2000;

/// Rules for servers that tell of a rate limit in text alone, such as `429 Too Many Requests: retry
/// after 3s`. Off unless a server is known to need them: a song may be called "Rate Limit".
///
/// They are read of an error alone, and never say that the tool did nothing: it has run, and what it did
/// before it met the limit, words do not tell. Such a call may be repeated where its tool may be called
/// twice; where a server is known to refuse before it does anything,
/// [`classify_with`](crate::McpServiceBuilder::classify_with) can say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextRules {
    throttled: Vec<Arc<str>>,
}

impl TextRules {
    /// No rules.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            throttled: Vec::new(),
        }
    }

    /// The words that rate-limited servers use: `429`, `too many requests`, `rate limit`.
    #[must_use]
    pub fn common() -> Self {
        Self::none()
            .throttled("429")
            .throttled("too many requests")
            .throttled("rate limit")
    }

    /// An error whose text holds `words`, in any case, is a rate limit. A number stands for itself
    /// alone: `429` is not in `order 14290`, nor in `1,429 tracks`. No words at all are in no text.
    #[must_use]
    pub fn throttled(mut self, words: impl AsRef<str>) -> Self {
        let words = words.as_ref().to_lowercase();
        if !words.is_empty() {
            self.throttled.push(words.into());
        }
        self
    }

    pub(super) fn read(&self, text: &str) -> Option<Outcome> {
        if self.throttled.is_empty() {
            return None;
        }
        let text: String = text
            .chars()
            .take(LONGEST_TEXT)
            .collect::<String>()
            .to_lowercase();
        let throttled = self.throttled.iter().any(|words| holds(&text, words));
        throttled.then(|| Outcome::Throttled {
            retry_after: retry_after::in_text(&text),
        })
    }
}

/// Whether `words` are in `text`, and no number at their ends is part of a longer one, or of a word.
fn holds(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, found)| {
        let (before, after) = (&text[..at], &text[at + found.len()..]);
        let goes_on = |inside: Option<char>, outside: &mut dyn Iterator<Item = char>| {
            inside.is_some_and(char::is_numeric) && is_joined(outside)
        };
        !goes_on(found.chars().next(), &mut before.chars().rev())
            && !goes_on(found.chars().next_back(), &mut after.chars())
    })
}

/// Whether what stands beside a number, from near to far, belongs to it: a letter or a digit, or a
/// separator with more digits behind it.
fn is_joined(beside: &mut dyn Iterator<Item = char>) -> bool {
    match beside.next() {
        Some('.' | ',' | '\'') => beside.next().is_some_and(char::is_numeric),
        Some('_') => true,
        near => near.is_some_and(char::is_alphanumeric),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::classify::tests::quick;

    #[test]
    fn no_words_are_in_no_text() {
        assert_eq!(TextRules::none().throttled(""), TextRules::none());
    }

    #[test]
    fn a_number_stands_for_itself_alone() {
        for text in [
            "429",
            "HTTP 429",
            "429 Too Many",
            "error: 429.",
            "(429)",
            "status=429,retry",
            "code 14290, status 429",
            "\"429\"",
            "é 429 é",
        ] {
            assert!(TextRules::common().read(text).is_some(), "{text}");
        }
        for text in [
            "order 14290 created",
            "order 4290",
            "order 1429",
            "id a429",
            "id 429f",
            "track_429",
            "429_track",
            "1,429 tracks",
            "429.50 EUR",
            "0.429",
            "é429",
            "٣429",
        ] {
            assert_eq!(TextRules::common().read(text), None, "{text}");
        }
    }

    #[test]
    fn words_may_go_on_and_a_number_in_them_may_not() {
        let rules = TextRules::none().throttled("rate limit");
        assert!(rules.read("you are rate limited").is_some());
        let rules = TextRules::none().throttled("error 17");
        assert!(rules.read("Error 17: slow down").is_some());
        assert!(rules.read("error 171").is_none());
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_text_stops_the_rules(text in ".{0,3000}") {
            let _ = TextRules::common().read(&text);
        }

        #[test]
        fn text_full_of_what_the_rules_look_for_stops_them_neither(
            text in "(429|4|2|9|[.,'_é٣ ]){0,2000}",
            rule in "[429é٣.]{0,4}",
        ) {
            let _ = TextRules::common().throttled(rule).read(&text);
        }

        #[test]
        fn no_number_within_a_longer_one_is_a_rate_limit(
            before in "[0-9a-z]{0,8}", after in "[0-9a-z]{0,8}",
        ) {
            prop_assume!(before.len() + after.len() > 0);
            let text = format!("order {before}429{after} created");
            let expected = text.split(' ').any(|word| word == "429");
            let rules = TextRules::none().throttled("429");
            prop_assert_eq!(rules.read(&text).is_some(), expected);
        }

        #[test]
        fn no_number_of_digits_makes_an_impossible_wait(digits in "[0-9.]{0,1990}", unit in "(s|ms|m|min|mo)?") {
            let text = format!("429, retry after {digits}{unit}");
            let Some(Outcome::Throttled { retry_after }) = TextRules::common().read(&text) else {
                return Err(TestCaseError::fail("429 is a rate limit"));
            };
            prop_assert!(retry_after.unwrap_or_default() <= Duration::from_secs(3600));
        }

        #[test]
        fn what_comes_after_a_long_text_is_not_read(filler in "[xİẞ]{2000}") {
            prop_assert_eq!(TextRules::common().read(&format!("{filler}429")), None);
            // Lower case may be longer: `İ` becomes two.
            let first = format!("429 {filler}");
            prop_assert!(TextRules::common().read(&first).is_some());
        }
    }
}
