//! Why a tool call has no answer.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use rmcp::model::ErrorData;
use toolweir_core::{
    AsRejection, Delivery, Observation, Outcome, Rejection, error_text, time::told,
};

use crate::{classify, connection::ConnectError, hostile::Quoted};

/// A tool call without an answer.
///
/// An answer in which the tool reports an error is a [`ToolResponse`](crate::ToolResponse).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ToolError {
    /// A layer refused the call. Nothing was sent.
    Refused(Rejection),
    /// There is no connection to the server. Nothing was sent.
    Unavailable {
        /// The server's name.
        server: Arc<str>,
        /// When a connection is tried again, if that is put off.
        retry_after: Option<Duration>,
        /// Why there is none; `None` where the attempt ended without a word.
        source: Option<Arc<ConnectError>>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The connection was lost while the call was under way.
    ConnectionLost {
        /// The server's name.
        server: Arc<str>,
        /// The tool's name.
        tool: Arc<str>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The call's time was over.
    TimedOut {
        /// The tool's name.
        tool: Arc<str>,
        /// How long it was waited for.
        after: Duration,
        /// Whether the request had been sent by then.
        delivery: Delivery,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The server answered with an error of the protocol.
    Protocol {
        /// The tool's name.
        tool: Arc<str>,
        /// What it said.
        error: Arc<ErrorData>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The server asks for further input before it goes on, which an unattended worker has not.
    InputRequired {
        /// The tool's name.
        tool: Arc<str>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The server made a task of the call and has no answer yet.
    TaskReply {
        /// The tool's name.
        tool: Arc<str>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The server answered with an HTTP status that is no success.
    Http {
        /// The server's name.
        server: Arc<str>,
        /// The tool's name.
        tool: Arc<str>,
        /// The status.
        status: u16,
        /// When the server takes calls again, by its own word.
        retry_after: Option<Duration>,
        /// What it was read from.
        source: Arc<dyn Error + Send + Sync>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The answer is larger than is read. The tool was executed.
    TooLarge {
        /// The server's name.
        server: Arc<str>,
        /// The tool's name.
        tool: Arc<str>,
        /// How many bytes an answer may have.
        limit: usize,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
    /// The transport failed, or the answer is none of the protocol's.
    Transport {
        /// The server's name.
        server: Arc<str>,
        /// Whether the request had been sent by then.
        delivery: Delivery,
        /// What went wrong.
        source: Arc<dyn Error + Send + Sync>,
        /// What is known of it beside its kind: read from the transport's error, or said by
        /// [`classify_with`](crate::McpServiceBuilder::classify_with).
        observed: Option<Observation>,
    },
}

impl ToolError {
    /// A stable word for the kind of error.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unavailable { .. } => "unavailable",
            Self::ConnectionLost { .. } => "connection-lost",
            Self::TimedOut { .. } => "timed-out",
            Self::Protocol { .. } => "protocol",
            Self::InputRequired { .. } => "input-required",
            Self::TaskReply { .. } => "task-reply",
            Self::Http { .. } => "http",
            Self::TooLarge { .. } => "too-large",
            Self::Transport { .. } => "transport",
        }
    }

    /// What the error says about the server, and whether the call was executed.
    #[must_use]
    pub fn observation(&self) -> Observation {
        self.seen().unwrap_or_else(|| self.by_kind())
    }

    /// What is known of it beside its kind.
    const fn seen(&self) -> Option<Observation> {
        match self {
            Self::Refused(_) => None,
            Self::Unavailable { observed, .. }
            | Self::ConnectionLost { observed, .. }
            | Self::TimedOut { observed, .. }
            | Self::Protocol { observed, .. }
            | Self::InputRequired { observed, .. }
            | Self::TaskReply { observed, .. }
            | Self::Http { observed, .. }
            | Self::TooLarge { observed, .. }
            | Self::Transport { observed, .. } => *observed,
        }
    }

    /// The same error, of which this is known.
    pub(crate) const fn observed(mut self, observation: Observation) -> Self {
        match &mut self {
            Self::Refused(_) => {}
            Self::Unavailable { observed, .. }
            | Self::ConnectionLost { observed, .. }
            | Self::TimedOut { observed, .. }
            | Self::Protocol { observed, .. }
            | Self::InputRequired { observed, .. }
            | Self::TaskReply { observed, .. }
            | Self::Http { observed, .. }
            | Self::TooLarge { observed, .. }
            | Self::Transport { observed, .. } => *observed = Some(observation),
        }
        self
    }

    fn by_kind(&self) -> Observation {
        let failure = |delivery| Observation::new(Outcome::Failure, delivery);
        match self {
            Self::Refused(_) => Observation::new(Outcome::Ignored, Delivery::NotSent),
            Self::Unavailable { .. } => failure(Delivery::NotSent),
            Self::ConnectionLost { .. } => failure(Delivery::Ambiguous),
            Self::TimedOut { delivery, .. } | Self::Transport { delivery, .. } => {
                failure(*delivery)
            }
            Self::Protocol { error, .. } => classify::of_rpc_error(error),
            Self::Http {
                status,
                retry_after,
                ..
            } => classify::of_http_status(*status, *retry_after),
            Self::InputRequired { .. } | Self::TaskReply { .. } | Self::TooLarge { .. } => {
                Observation::new(Outcome::Ignored, Delivery::Executed)
            }
        }
    }

    /// When a new call may succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(rejection) => rejection.retry_after(),
            // The later of ours and the server's.
            Self::Unavailable { retry_after, .. } => (*retry_after).max(self.throttled_for()),
            _ => self.throttled_for(),
        }
    }
}

impl ToolError {
    fn throttled_for(&self) -> Option<Duration> {
        match self.observation().outcome {
            Outcome::Throttled { retry_after } => retry_after,
            _ => None,
        }
    }
}

impl From<Rejection> for ToolError {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl AsRejection for ToolError {
    fn as_rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Refused(rejection) => Some(rejection),
            _ => None,
        }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(rejection) => write!(f, "{rejection}"),
            Self::Unavailable {
                server,
                retry_after,
                source,
                ..
            } => {
                match source {
                    Some(error) => write!(f, "{error}")?,
                    None => {
                        let server = Quoted(server);
                        write!(f, "the attempt to connect to MCP server {server} broke off")?;
                    }
                }
                write_wait(f, "it is tried again", *retry_after)
            }
            Self::Http {
                server,
                tool,
                status,
                retry_after,
                ..
            } => {
                let (server, tool) = (Quoted(server), Quoted(tool));
                write!(f, "MCP server {server} answered tool {tool} with ")?;
                write!(f, "HTTP status {status}")?;
                write_wait(f, "it takes calls again", *retry_after)
            }
            Self::Transport { server, source, .. } => write!(
                f,
                "the exchange with MCP server {} failed: {}",
                Quoted(server),
                error_text(source.as_ref())
            ),
            _ => self.write_of_tool(f),
        }
    }
}

impl ToolError {
    /// What is told of a tool alone.
    fn write_of_tool(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionLost { server, tool, .. } => {
                let (server, tool) = (Quoted(server), Quoted(tool));
                write!(
                    f,
                    "the connection to MCP server {server} was lost while tool {tool} was called"
                )
            }
            Self::TimedOut { tool, after, .. } => {
                write!(f, "tool {} did not answer within {after:.1?}", Quoted(tool))
            }
            Self::Protocol { tool, error, .. } => {
                let (tool, said) = (Quoted(tool), Quoted(&error.message));
                write!(
                    f,
                    "the server answered tool {tool} with error {}: {said}",
                    error.code.0
                )
            }
            Self::InputRequired { tool, .. } => {
                let tool = Quoted(tool);
                write!(
                    f,
                    "tool {tool} asks for further input, which a worker cannot give"
                )
            }
            Self::TaskReply { tool, .. } => {
                let tool = Quoted(tool);
                write!(
                    f,
                    "tool {tool} was made a task by the server, which is not supported"
                )
            }
            Self::TooLarge {
                server,
                tool,
                limit,
                ..
            } => {
                let (server, tool) = (Quoted(server), Quoted(tool));
                write!(
                    f,
                    "tool {tool} was executed, but the answer of MCP server {server} is larger \
                     than the {limit} bytes that are read; ask it for less, or raise `max_response_bytes`"
                )
            }
            _ => Ok(()),
        }
    }
}

/// The time to come back, if there is one.
fn write_wait(f: &mut fmt::Formatter<'_>, what: &str, wait: Option<Duration>) -> fmt::Result {
    match wait {
        Some(wait) => write!(f, "; {what} in {}", told(wait)),
        None => Ok(()),
    }
}

impl Error for ToolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(rejection) => Some(rejection),
            Self::Unavailable { source, .. } => source
                .as_deref()
                .map(|source| source as &(dyn Error + 'static)),
            Self::Http { source, .. } | Self::Transport { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
