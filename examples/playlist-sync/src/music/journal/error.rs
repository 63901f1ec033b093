//! What can be wrong with a journal.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ledger::{MAX_KEYS, MAX_PLAYLISTS};
use super::record::FORMAT;

/// Why a journal cannot be opened, read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refused.
    Io {
        /// The journal.
        path: PathBuf,
        /// What it could not be: opened, locked, read, repaired, written.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
    /// Another process kept the lock for all of the time.
    Locked {
        /// The journal.
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
    },
    /// A whole line is damaged.
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Its line, counted from 1.
        line: u64,
        /// The byte it begins at.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Another version of this program wrote it.
    Format {
        /// The journal.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// It was closed.
    Closed {
        /// The journal.
        path: PathBuf,
    },
    /// The idempotency key stands for another effect.
    KeyReused {
        /// The playlist it stands for.
        playlist: String,
        /// The track it stands for.
        track_id: String,
    },
    /// A bound is reached.
    Full,
}

impl JournalError {
    pub(super) fn io(path: &Path, what: &'static str, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            what,
            error,
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, what, error } => {
                write!(
                    f,
                    "the journal {} could not be {what}: {error}",
                    path.display()
                )
            }
            Self::Locked { path, waited } => write!(
                f,
                "the journal {} is in use by another server, waited {} for it",
                path.display(),
                humantime::format_duration(*waited)
            ),
            Self::Damaged {
                path,
                line,
                offset,
                why,
            } => write!(
                f,
                "the journal {} is damaged at line {line} (byte {offset}), {why}: restore it from \
                 a copy, or move it away to begin anew",
                path.display()
            ),
            Self::Format { path, found } => write!(
                f,
                "the journal {} has format {found}, this program writes format {FORMAT}",
                path.display()
            ),
            Self::Closed { path } => write!(f, "the journal {} is closed", path.display()),
            Self::KeyReused { playlist, track_id } => write!(
                f,
                "the idempotency key stands for track {track_id:?} in playlist {playlist:?} \
                 already, use another key"
            ),
            Self::Full => write!(
                f,
                "the journal is full: it takes {MAX_PLAYLISTS} playlists and {MAX_KEYS} \
                 idempotency keys"
            ),
        }
    }
}

impl Error for JournalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
