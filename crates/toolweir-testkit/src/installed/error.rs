//! What can be wrong, in one sentence each, with what to do.

use std::{error::Error as StdError, fmt, io, path::PathBuf, time::Duration};

use crate::install::IoError;

/// A server cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The machine lacks what the servers run on, or what installs them.
    Missing {
        /// Where the servers come from: npm or PyPI.
        what: &'static str,
        /// The program that is missing.
        program: &'static str,
        /// What to install to have it.
        remedy: &'static str,
    },
    /// Installing the servers failed.
    Install {
        /// Where the servers come from: npm or PyPI.
        what: &'static str,
        /// What the installer said.
        reason: String,
    },
    /// Installing the servers, or waiting for the process that installs them, took too long.
    TimedOut {
        /// Where the servers come from: npm or PyPI.
        what: &'static str,
        /// How long it was given.
        waited: Duration,
    },
    /// A file or directory of ours could not be made or used.
    Io {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing {
                what,
                program,
                remedy,
            } => write!(
                f,
                "the MCP servers from {what} are not installed, because there is no {program}; \
                 install {remedy}"
            ),
            Self::Install { what, reason } => write!(
                f,
                "the MCP servers could not be installed from {what} ({reason}); check the network \
                 and the installer's configuration"
            ),
            Self::TimedOut { what, waited } => write!(
                f,
                "the MCP servers were not installed from {what} within {waited:?}; check the network"
            ),
            Self::Io {
                action,
                path,
                source: _,
            } => write!(f, "cannot {action} {}", path.display()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<IoError> for Error {
    fn from(error: IoError) -> Self {
        let IoError {
            action,
            path,
            source,
        } = error;
        Self::Io {
            action,
            path,
            source,
        }
    }
}
