//! Why a tool call of a workflow has no result.

use std::{error::Error, fmt, time::Duration};

use serde_json::Value;
use temporalio_common::error::{ApplicationFailure, IncomingError};
use temporalio_workflow::{ActivityExecutionError, WorkflowTermination};

use crate::{FailureDetails, FailureKind};

/// A tool call without a result.
///
/// `?` turns it into the failure of the workflow, or its cancellation.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The tool answered, with an error of its own.
    Tool {
        /// The tool's name.
        tool: String,
        /// What it said.
        message: String,
        /// The structured content of its answer.
        structured: Option<Value>,
    },
    /// The activity failed for good, within its attempts and timeouts.
    Activity(Box<ActivityExecutionError>),
    /// The workflow, or the call, was cancelled.
    Cancelled,
    /// The arguments do not serialise to a JSON object.
    Arguments {
        /// The tool's name.
        tool: String,
        /// What is wrong with them.
        source: serde_json::Error,
    },
    /// The tool's answer is not of the type that the workflow asked for.
    Answer {
        /// The tool's name.
        tool: String,
        /// Where it differs.
        source: serde_json::Error,
    },
}

impl CallError {
    /// The kind of failure that the activity ended with, if it was one of toolweir's.
    #[must_use]
    pub fn kind(&self) -> Option<FailureKind> {
        FailureKind::from_type_name(self.application()?.type_name()?)
    }

    /// The details of that failure.
    #[must_use]
    pub fn details(&self) -> Option<FailureDetails> {
        self.application()?.details().ok().flatten()
    }

    /// When a new call may succeed, if the failure says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.details()?.retry_after()
    }

    fn application(&self) -> Option<&ApplicationFailure> {
        match self {
            Self::Activity(error) => match error.as_ref().reason()? {
                IncomingError::Application(failure) => Some(failure),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<ActivityExecutionError> for CallError {
    fn from(error: ActivityExecutionError) -> Self {
        match error {
            ActivityExecutionError::Cancelled(_) => Self::Cancelled,
            error => Self::Activity(Box::new(error)),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool { tool, message, .. } => write!(f, "tool {tool:?} reports: {message}"),
            // The activity's own message, not "activity failed" around it.
            Self::Activity(error) => match error.as_ref().reason() {
                Some(cause) => write!(f, "{cause}"),
                None => write!(f, "{error}"),
            },
            Self::Cancelled => f.write_str("the tool call was cancelled"),
            Self::Arguments { tool, .. } => {
                write!(f, "the arguments for tool {tool:?} are not a JSON object")
            }
            Self::Answer { tool, source } => write!(
                f,
                "the answer of tool {tool:?} is not what the workflow expects: {source}"
            ),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Activity(error) => Some(error.as_ref()),
            Self::Arguments { source, .. } | Self::Answer { source, .. } => Some(source),
            Self::Tool { .. } | Self::Cancelled => None,
        }
    }
}

impl From<CallError> for WorkflowTermination {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Cancelled => Self::cancelled(),
            CallError::Activity(error) => (*error).into(),
            error => {
                let kind = match error {
                    CallError::Tool { .. } => FailureKind::ToolError,
                    // The workflow's own mistake.
                    _ => FailureKind::InvalidCall,
                };
                // A repetition would repeat it.
                ApplicationFailure::builder(error)
                    .type_name(kind.as_str().to_owned())
                    .non_retryable(true)
                    .build()
                    .into()
            }
        }
    }
}
