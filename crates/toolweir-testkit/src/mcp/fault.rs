//! What a server does to the stream itself, where no protocol is.

use std::fmt;
use std::str::FromStr;

use super::answer::{ParseAnswerError, number, split};

/// Something that a server does to its output, or to itself, at any moment.
///
/// As an [`Answer`](super::Answer) it comes in the place of a call's answer, and at any other time with
/// [`ScriptedServer::strike`](super::ScriptedServer::strike) or the flags of a process. Written as text
/// as answers are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The output ends, and the server goes on living. `close-stdout`
    CloseStdout,
    /// Lines that are no messages, and no text. Then it goes on as if nothing had been. `garbage`
    Garbage,
    /// The first half of a message, and nothing more for ever; the server goes on living. `half`
    Half,
    /// A valid message of so many bytes that nobody asked for. Then it goes on. `flood:BYTES`
    Flood {
        /// How long, with its end of line.
        bytes: usize,
    },
    /// The process exits with this code; a connection in memory drops. `exit:CODE`
    Exit {
        /// Zero says that nothing is wrong.
        code: i32,
    },
}

/// What is not UTF-8, what a terminal would obey, what is text and no message, what is JSON and no
/// message, and what is a message for nobody.
pub(super) const GARBAGE: &[u8] = b"\xff\xfe\x00\x01\xc3\x28\n\x1b[2J\x07\r\n\
    a word from the server\n[1,2]\n{\"level\":\"info\"}\n\
    {\"jsonrpc\":\"2.0\",\"id\":987654321,\"result\":{}}\n";

pub(super) const HALF: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"ty";

const FLOOD: [&[u8]; 2] = [
    b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\
      \"params\":{\"level\":\"info\",\"data\":\"",
    b"\"}}\n",
];

/// A log message of this length, or of the least there can be.
pub(super) fn flood(bytes: usize) -> Vec<u8> {
    let [head, tail] = FLOOD;
    let mut line = head.to_vec();
    line.resize(bytes.saturating_sub(tail.len()).max(head.len()), b'x');
    line.extend_from_slice(tail);
    line
}

impl Fault {
    /// Whether the server serves after it.
    pub(super) const fn goes_on(&self) -> bool {
        matches!(self, Self::Garbage | Self::Flood { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseStdout => f.write_str("close-stdout"),
            Self::Garbage => f.write_str("garbage"),
            Self::Half => f.write_str("half"),
            Self::Flood { bytes } => write!(f, "flood:{bytes}"),
            Self::Exit { code } => write!(f, "exit:{code}"),
        }
    }
}

impl FromStr for Fault {
    type Err = ParseAnswerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match split(text) {
            ("close-stdout", None) => Ok(Self::CloseStdout),
            ("garbage", None) => Ok(Self::Garbage),
            ("half", None) => Ok(Self::Half),
            ("flood", Some(bytes)) => number(text, bytes).map(|bytes| Self::Flood { bytes }),
            ("exit", Some(code)) => number(text, code).map(|code| Self::Exit { code }),
            _ => Err(ParseAnswerError::new(text)),
        }
    }
}
