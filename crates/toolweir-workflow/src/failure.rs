//! How a call that failed looks in Temporal: a stable type name and its details.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The kind of a failed call: the type name of the activity's application failure.
///
/// List the words in `non_retryable_error_types` where a workflow should not wait for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// A layer refused the call before it was sent. Benign, repeated when the layer said.
    Refused,
    /// The server asked for a pause. Benign, repeated after it.
    Throttled,
    /// The server does not accept the credential. Repeated, since a refresh may cure it.
    Unauthorized,
    /// The server could not be reached, started or warmed up, or fails its health probes. Nothing was
    /// sent. Repeated, unless it was given up until a person resets it.
    ServerUnavailable,
    /// The server or the connection failed, and the call may be repeated.
    Failed,
    /// The server executed the call and failed, and the tool may not be called twice. Not repeated.
    FailedForGood,
    /// The call was sent, its answer was lost, and the tool may not be called twice. Not repeated.
    OutcomeUnknown,
    /// The tool answered with an error of its own, and the workflow let it be its failure. No
    /// activity fails so.
    ToolError,
    /// The worker has no server of that name. Not repeated.
    UnknownServer,
    /// The call itself is wrong, or its answer cannot be used. Not repeated.
    InvalidCall,
}

impl FailureKind {
    const ALL: [Self; 10] = [
        Self::Refused,
        Self::Throttled,
        Self::Unauthorized,
        Self::ServerUnavailable,
        Self::Failed,
        Self::FailedForGood,
        Self::OutcomeUnknown,
        Self::ToolError,
        Self::UnknownServer,
        Self::InvalidCall,
    ];

    /// The stable type name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "ToolCallRefused",
            Self::Throttled => "ToolCallThrottled",
            Self::Unauthorized => "ToolCallUnauthorized",
            Self::ServerUnavailable => "McpServerUnavailable",
            Self::Failed => "ToolCallFailed",
            Self::FailedForGood => "ToolCallFailedForGood",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::ToolError => "ToolError",
            Self::UnknownServer => "UnknownMcpServer",
            Self::InvalidCall => "InvalidToolCall",
        }
    }

    /// The kind with that type name.
    #[must_use]
    pub fn from_type_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it is expected in normal operation, so that nobody need be alerted.
    #[must_use]
    pub const fn is_benign(self) -> bool {
        matches!(self, Self::Refused | Self::Throttled)
    }

    /// Whether a repetition cannot help.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::FailedForGood
                | Self::OutcomeUnknown
                | Self::ToolError
                | Self::UnknownServer
                | Self::InvalidCall
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The details of the activity's application failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureDetails {
    /// The server's name.
    pub server: String,
    /// The tool's name.
    pub tool: String,
    /// The layer that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The stable word for the layer's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When a repetition may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the server executed the call: `not-sent`, `executed` or `ambiguous`.
    #[serde(default)]
    pub delivery: String,
}

impl FailureDetails {
    /// Details that name server and tool only.
    #[must_use]
    pub fn new(server: impl Into<String>, tool: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            tool: tool.into(),
            ..Self::default()
        }
    }

    /// When a repetition may succeed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_name_is_read_back() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from_type_name(kind.as_str()), Some(kind));
        }
        assert_eq!(FailureKind::from_type_name("NotFoundError"), None);
    }
}
