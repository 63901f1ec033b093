//! How far a call has come, in the server's words.

/// A server may say much; of a message so many characters are kept.
const LONGEST_MESSAGE: usize = 300;

/// How far a call has come, as the server says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done. It should only grow; what it counts is the tool's own.
    pub done: f64,
    /// How much there is to do, if the server knows.
    pub total: Option<f64>,
    /// What it says to a person, cut where it goes on.
    pub message: Option<String>,
}

impl Progress {
    pub(crate) fn said(done: f64, total: Option<f64>, message: Option<String>) -> Self {
        Self {
            done,
            total,
            message: message.map(|text| text.chars().take(LONGEST_MESSAGE).collect()),
        }
    }
}
