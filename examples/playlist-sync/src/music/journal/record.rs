//! The records of a journal, and how one becomes a line.

use std::io;

use serde::{Deserialize, Serialize};

/// The version of the format, in every [`Record::Start`].
pub const FORMAT: u32 = 1;
/// The longest line that is read. The server's bounds on what it is sent keep far below it.
pub const MAX_RECORD_BYTES: usize = 128 * 1024;

/// One line of a journal. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// A server has taken over the journal, and nobody else has it.
    Start {
        /// [`FORMAT`].
        format: u32,
        /// Its process.
        pid: u32,
        /// When the process started; it may have waited for the lock since.
        at_ms: u64,
        /// Which token it issued first.
        generation: u64,
    },
    /// A tool call has come in.
    Call {
        /// Which call of this server it is.
        id: u64,
        /// The tool's name as it was asked for.
        tool: String,
        /// Who asked, if the request says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        principal: Option<String>,
        /// When.
        at_ms: u64,
    },
    /// A tool call is about to be answered.
    Answer {
        /// Which call.
        id: u64,
        /// How it ended.
        outcome: CallOutcome,
        /// How long it took, in microseconds.
        duration_us: u64,
        /// Whether it was the answer to an earlier call with the same idempotency key.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    /// An effect: a track was put at the end of a playlist, or was found to be there, under a key.
    Add {
        /// The playlist.
        playlist: String,
        /// The track.
        track_id: String,
        /// The idempotency key of the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Whether the playlist grew.
        added: bool,
        /// When.
        at_ms: u64,
    },
    /// The token was renewed.
    Refresh {
        /// Which one it is now.
        generation: u64,
        /// When.
        at_ms: u64,
    },
    /// A server has ended in good order, and is about to let go of the journal.
    Stop {
        /// Its process, if it had said that it started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// When.
        at_ms: u64,
        /// Why.
        reason: StopReason,
    },
}

/// How a tool call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// With an answer.
    Ok,
    /// Refused with status 429.
    Throttled,
    /// Refused with status 401.
    Unauthorised,
    /// Refused with another status.
    Error,
    /// Given up by the client before it took effect.
    Cancelled,
}

/// Why a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The client closed the connection.
    InputClosed,
    /// SIGTERM.
    Terminated,
    /// SIGINT, from Ctrl-C.
    Interrupted,
    /// The connection failed.
    Failed,
}

const HEAD: &[u8] = b"{\"crc32\":\"";
const MIDDLE: &[u8] = b"\",\"record\":";
const CHECKSUM_DIGITS: usize = 8;

/// The line of a record, with its line feed.
pub(super) fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(record)?;
    let line = format!(
        "{{\"crc32\":\"{:08x}\",\"record\":{json}}}\n",
        crc32fast::hash(json.as_bytes())
    );
    if line.len() > MAX_RECORD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the record is too long",
        ));
    }
    Ok(line.into_bytes())
}

/// What is wrong with a line.
#[derive(Debug)]
pub(super) enum Flaw {
    /// Its bytes are not those that were written.
    Checksum,
    /// They are, and mean nothing to this program.
    Unknown(serde_json::Error),
}

/// The record of a line without its line feed.
pub(super) fn decode(line: &[u8]) -> Result<Record, Flaw> {
    let json = checked(line).ok_or(Flaw::Checksum)?;
    serde_json::from_slice(json).map_err(Flaw::Unknown)
}

fn checked(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(HEAD)?;
    let (digits, rest) = rest.split_at_checked(CHECKSUM_DIGITS)?;
    let json = rest.strip_prefix(MIDDLE)?.strip_suffix(b"}")?;
    let digits = std::str::from_utf8(digits).ok()?;
    let checksum = u32::from_str_radix(digits, 16).ok()?;
    (crc32fast::hash(json) == checksum).then_some(json)
}
