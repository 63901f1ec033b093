//! How far a call has come, in the server's words.

/// A server may say much; of a message so many characters are kept.
const LONGEST_MESSAGE: usize = 300;

/// How far a call has come, as the server says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done, a finite number that grows from report to report. What it counts is the tool's
    /// own.
    pub done: f64,
    /// How much there is to do, if the server knows.
    pub total: Option<f64>,
    /// What it says to a person, cut where it goes on.
    pub message: Option<String>,
}

impl Progress {
    /// A server's report; `None` where it says how much is done with what is no number.
    pub(crate) fn said(done: f64, total: Option<f64>, message: Option<String>) -> Option<Self> {
        done.is_finite().then(|| Self {
            done,
            total: total.filter(|total| total.is_finite()),
            message: message.map(|text| text.chars().take(LONGEST_MESSAGE).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_no_report() {
        for done in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Progress::said(done, None, None), None);
            let said = Progress::said(1.0, Some(done), None).unwrap();
            assert_eq!((said.done, said.total), (1.0, None));
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let said = Progress::said(1.0, None, Some("é".repeat(1000))).unwrap();
        assert_eq!(said.message.unwrap().chars().count(), LONGEST_MESSAGE);
    }
}
