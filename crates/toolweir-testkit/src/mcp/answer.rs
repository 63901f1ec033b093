//! What the next call is answered with.

use std::fmt;
use std::str::FromStr;

use super::fault::Fault;

/// What a script answers a call with, in place of the tool or around it.
///
/// Written as text (a process takes its script so): the name in kebab case, with the number after a
/// colon, `throttle:250`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// What the tool answers by itself. `ok`
    Ok,
    /// What the tool answers by itself, after this time. `slow:MS`
    Slow {
        /// How long the call takes first.
        ms: u64,
    },
    /// An error with a message and nothing else. `fail`
    Fail,
    /// The structured refusal of the `throttle` tool. `throttle:MS`
    Throttle {
        /// When to come back.
        retry_after_ms: u64,
    },
    /// The refusal of the `text_throttle` tool. `text-throttle`
    TextThrottle,
    /// The refusal of the `guarded` tool. `unauthorised`
    Unauthorised,
    /// A JSON-RPC error. `error:CODE`
    Error {
        /// Its code.
        code: i32,
    },
    /// No answer, until the call is cancelled. `hang`
    Hang,
    /// The tool does its work; its answer never comes. `hang-after`
    HangAfter,
    /// The connection drops, or the process exits, before the tool did anything. `die`
    Die,
    /// The tool does its work, then as with [`Die`](Self::Die). `die-after`
    DieAfter,
    /// A text of so many bytes. `big:BYTES`
    Big {
        /// How many letters.
        bytes: usize,
    },
    /// The stream is struck before the tool did anything. Where the server goes on after that, the tool
    /// answers by itself; where it does not, no answer comes. Written as the [`Fault`] is.
    Fault(Fault),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Slow { ms } => write!(f, "slow:{ms}"),
            Self::Fail => f.write_str("fail"),
            Self::Throttle { retry_after_ms } => write!(f, "throttle:{retry_after_ms}"),
            Self::TextThrottle => f.write_str("text-throttle"),
            Self::Unauthorised => f.write_str("unauthorised"),
            Self::Error { code } => write!(f, "error:{code}"),
            Self::Hang => f.write_str("hang"),
            Self::HangAfter => f.write_str("hang-after"),
            Self::Die => f.write_str("die"),
            Self::DieAfter => f.write_str("die-after"),
            Self::Big { bytes } => write!(f, "big:{bytes}"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl FromStr for Answer {
    type Err = ParseAnswerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let answer = match split(text) {
            ("ok", None) => Self::Ok,
            ("fail", None) => Self::Fail,
            ("text-throttle", None) => Self::TextThrottle,
            ("unauthorised", None) => Self::Unauthorised,
            ("hang", None) => Self::Hang,
            ("hang-after", None) => Self::HangAfter,
            ("die", None) => Self::Die,
            ("die-after", None) => Self::DieAfter,
            ("slow", Some(ms)) => Self::Slow {
                ms: number(text, ms)?,
            },
            ("throttle", Some(ms)) => Self::Throttle {
                retry_after_ms: number(text, ms)?,
            },
            ("error", Some(code)) => Self::Error {
                code: number(text, code)?,
            },
            ("big", Some(bytes)) => Self::Big {
                bytes: number(text, bytes)?,
            },
            _ => Self::Fault(text.parse()?),
        };
        Ok(answer)
    }
}

/// A name, and the number after it.
pub(super) fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((name, number)) => (name, Some(number)),
        None => (text, None),
    }
}

pub(super) fn number<N: FromStr>(text: &str, number: &str) -> Result<N, ParseAnswerError> {
    number.parse().map_err(|_| ParseAnswerError::new(text))
}

const MAX_SHOWN: usize = 40;

/// A text that names no [`Answer`], or no [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseAnswerError(String);

impl ParseAnswerError {
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().take(MAX_SHOWN).collect())
    }
}

impl fmt::Display for ParseAnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no answer: use ok, slow:MS, fail, throttle:MS, text-throttle, unauthorised, \
             error:CODE, hang, hang-after, die, die-after, big:BYTES, close-stdout, garbage, half, \
             flood:BYTES or exit:CODE",
            self.0
        )
    }
}

impl std::error::Error for ParseAnswerError {}
