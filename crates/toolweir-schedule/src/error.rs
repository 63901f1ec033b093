//! What can go wrong between us and the server.

use std::{error::Error, fmt, time::Duration};

use temporalio_client::tonic::{Code, Status};
use temporalio_common::data_converters::PayloadConversionError;
use toolweir_core::ConfigError;

/// Why an operation on a schedule failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScheduleError {
    /// An argument is out of its range. Nothing was sent.
    Config(ConfigError),
    /// There is a schedule with this id.
    AlreadyExists {
        /// The schedule's id.
        schedule_id: String,
    },
    /// There is no schedule with this id in the namespace, or no longer.
    NotFound {
        /// The schedule's id.
        schedule_id: String,
    },
    /// The server found something wrong with the request, for example a time zone it does not
    /// know.
    Refused {
        /// The schedule's id.
        schedule_id: String,
        /// What the server said.
        reason: String,
    },
    /// A range holds more action times, or more runs, than the caller allows.
    TooMany {
        /// The schedule's id.
        schedule_id: String,
        /// The number that it exceeds.
        limit: usize,
    },
    /// Runs for some of a backfill's times are open. They have the workflow ids that the backfill
    /// would use, so those times would silently not run, or run twice.
    RunsInTheWay {
        /// The schedule's id.
        schedule_id: String,
        /// How many there are.
        count: usize,
        /// The workflow ids of the first few.
        workflow_ids: Vec<String>,
    },
    /// Others kept changing the schedule while it was to be updated.
    Conflict {
        /// The schedule's id.
        schedule_id: String,
    },
    /// The client's data converter could not encode the input.
    Payload {
        /// The schedule's id.
        schedule_id: String,
        /// What it said.
        source: PayloadConversionError,
    },
    /// The server's answer makes no sense.
    Malformed {
        /// The schedule's id.
        schedule_id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server did not answer in time. What was asked for may have happened.
    TimedOut {
        /// The schedule's id.
        schedule_id: String,
        /// What was asked for.
        operation: &'static str,
        /// How long it was given.
        waited: Duration,
    },
    /// Any other failure of the call.
    Rpc {
        /// The schedule's id.
        schedule_id: String,
        /// What was asked for.
        operation: &'static str,
        /// What the server or the connection said.
        source: Box<Status>,
    },
}

impl ScheduleError {
    /// The schedule that this is about.
    #[must_use]
    pub fn schedule_id(&self) -> Option<&str> {
        match self {
            Self::Config(_) => None,
            Self::AlreadyExists { schedule_id }
            | Self::NotFound { schedule_id }
            | Self::Refused { schedule_id, .. }
            | Self::TooMany { schedule_id, .. }
            | Self::RunsInTheWay { schedule_id, .. }
            | Self::Conflict { schedule_id }
            | Self::Payload { schedule_id, .. }
            | Self::Malformed { schedule_id, .. }
            | Self::TimedOut { schedule_id, .. }
            | Self::Rpc { schedule_id, .. } => Some(schedule_id),
        }
    }

    pub(crate) fn from_status(schedule_id: &str, operation: &'static str, status: Status) -> Self {
        let schedule_id = schedule_id.to_owned();
        match status.code() {
            Code::AlreadyExists => Self::AlreadyExists { schedule_id },
            Code::NotFound if !is_about_namespace(&status) => Self::NotFound { schedule_id },
            Code::InvalidArgument => Self::Refused {
                schedule_id,
                reason: status.message().to_owned(),
            },
            _ => Self::Rpc {
                schedule_id,
                operation,
                source: Box::new(status),
            },
        }
    }
}

/// A missing namespace has the same code as a missing schedule. The message is what tells them
/// apart: the details of both decode as either.
fn is_about_namespace(status: &Status) -> bool {
    status.message().starts_with("Namespace ")
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.schedule_id().unwrap_or_default();
        match self {
            Self::Config(error) => error.fmt(f),
            Self::AlreadyExists { .. } => write!(
                f,
                "the schedule {id:?} exists already; update it, or delete it first"
            ),
            Self::NotFound { .. } => write!(
                f,
                "there is no schedule {id:?} in this namespace; check the id, or create it"
            ),
            Self::Refused { reason, .. } => {
                let reason = reason.escape_debug();
                write!(f, "the server refuses the schedule {id:?}: {reason}")
            }
            Self::TooMany { limit, .. } => write!(
                f,
                "the range holds more than {limit} times or runs of the schedule {id:?}; take a \
                 shorter range, or allow more"
            ),
            Self::RunsInTheWay {
                count,
                workflow_ids,
                ..
            } => write!(
                f,
                "{count} runs of the schedule {id:?} for times of this backfill are open, such as \
                 {workflow_ids:?}, and those times would be lost or run twice; wait for them, or \
                 allow it"
            ),
            Self::Conflict { .. } => write!(
                f,
                "others keep changing the schedule {id:?} while it is updated; try again"
            ),
            Self::Payload { .. } => write!(f, "the input of the schedule {id:?} cannot be encoded"),
            Self::Malformed { reason, .. } => write!(
                f,
                "the server's answer about the schedule {id:?} makes no sense: {reason}"
            ),
            Self::TimedOut {
                operation, waited, ..
            } => write!(
                f,
                "no answer within {waited:?} to the wish to {operation} the schedule {id:?}; it \
                 may have happened, so look before you try again"
            ),
            Self::Rpc {
                operation, source, ..
            } => write!(
                f,
                "cannot {operation} the schedule {id:?}: {:?}",
                source.code()
            ),
        }
    }
}

impl Error for ScheduleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Payload { source, .. } => Some(source),
            Self::Rpc { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

impl From<ConfigError> for ScheduleError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
