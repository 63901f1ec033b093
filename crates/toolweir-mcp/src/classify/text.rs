//! Rules for what servers say in text alone.

use std::sync::Arc;

use toolweir_core::Outcome;

use super::retry_after;

/// How much of a text the text rules read.
const LONGEST_TEXT: usize = 2000;

/// Rules for servers that tell of a rate limit in text alone, such as `429 Too Many Requests: retry
/// after 3s`. Off unless a server is known to need them: a song may be called "Rate Limit".
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

    /// An error whose text holds `words`, in any case, is a rate limit.
    #[must_use]
    pub fn throttled(mut self, words: impl AsRef<str>) -> Self {
        self.throttled.push(words.as_ref().to_lowercase().into());
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
        let throttled = self.throttled.iter().any(|words| text.contains(&**words));
        throttled.then(|| Outcome::Throttled {
            retry_after: retry_after::in_text(&text),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::classify::tests::quick;

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_text_stops_the_rules(text in ".{0,3000}") {
            let _ = TextRules::common().read(&text);
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
            let first = format!("429{filler}");
            prop_assert!(TextRules::common().read(&first).is_some());
        }
    }
}
