//! Reading and operating a connection.

use std::{fmt, sync::Arc, time::Duration};

use rmcp::model::{ClientRequest, PingRequest, Tool};
use serde::Serialize;
use tokio::time::Instant;
use toolweir_core::{
    ReportState, StateReport,
    time::{millis, millis_ceil},
};

use crate::{
    ToolError, ToolHints,
    connection::{Manager, NoLink},
    service::unavailable,
};

/// The layer's name in reports and rejections.
const LAYER: &str = "mcp";

/// Reads a connection's state and operates it. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct McpHandle {
    pub(crate) manager: Arc<Manager>,
}

/// A connection's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct McpState {
    /// The server's name.
    pub server: String,
    /// Whether there is a live connection.
    pub connected: bool,
    /// Whether one is being made.
    pub connecting: bool,
    /// Whether the connection was shut down for good.
    pub shut_down: bool,
    /// How many connections were made.
    pub starts: u64,
    /// The server's process, where it is one of ours.
    pub process_id: Option<u32>,
    /// How long there has been a connection.
    pub age_ms: Option<u64>,
    /// Why there was none the last time.
    pub last_error: Option<String>,
    /// When one is tried again, if that is put off.
    pub retry_after_ms: Option<u64>,
}

impl McpHandle {
    /// The server's name.
    #[must_use]
    pub fn server(&self) -> &str {
        self.manager.name()
    }

    /// The connection's state, all of one moment.
    #[must_use]
    pub fn state(&self) -> McpState {
        let now = Instant::now();
        let snapshot = self.manager.snapshot();
        let link = snapshot.link.as_ref();
        McpState {
            server: self.manager.name().to_string(),
            connected: link.is_some(),
            connecting: snapshot.connecting,
            shut_down: snapshot.shut_down,
            starts: snapshot.made,
            process_id: link.and_then(|link| link.process_id()),
            age_ms: link.map(|link| millis(now.saturating_duration_since(link.since))),
            last_error: snapshot.last_error.map(|error| error.to_string()),
            retry_after_ms: snapshot.wait.map(millis_ceil),
        }
    }

    /// Which connection there is: a number that changes when it is lost and when it is made anew.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.manager.live().map_or(0, |link| link.generation)
    }

    /// What is known of a tool, from configuration or from the server.
    #[must_use]
    pub fn hints(&self, tool: &str) -> ToolHints {
        self.manager.hints(tool)
    }

    /// Returns once there is a connection.
    ///
    /// # Errors
    ///
    /// As a call: the server cannot be reached, or was shut down.
    pub async fn connect(&self) -> Result<(), ToolError> {
        match self.manager.link().await {
            Ok(_) => Ok(()),
            Err(no_link) => Err(self.unavailable(no_link)),
        }
    }

    /// Asks the server for a sign of life, which costs no quota. It connects if need be.
    ///
    /// # Errors
    ///
    /// There is no connection, or it fails. Bring a timeout: a server that hangs does not answer.
    pub async fn ping(&self) -> Result<(), ToolError> {
        let link = self.manager.link().await;
        let link = link.map_err(|no_link| self.unavailable(no_link))?;
        let ping = ClientRequest::PingRequest(PingRequest::default());
        match link.peer().send_request(ping).await {
            // A server that knows no ping has answered.
            Ok(_) | Err(rmcp::ServiceError::McpError(_)) => Ok(()),
            Err(error) => Err(self.transport(link.generation, error)),
        }
    }

    /// The server's tools, the first ten thousand of them. They may come from rmcp's cache, so this
    /// is no sign of life.
    ///
    /// # Errors
    ///
    /// There is no connection, or it fails.
    pub async fn list_tools(&self) -> Result<Vec<Tool>, ToolError> {
        let link = self.manager.link().await;
        let link = link.map_err(|no_link| self.unavailable(no_link))?;
        let tools = link.tools().await;
        tools.map_err(|error| self.transport(link.generation, error))
    }

    /// Ends the connection, and with it the server if it is a process of ours. The next call starts
    /// it again.
    ///
    /// Calls under way get up to half of `grace`; those that take longer end as with a lost
    /// connection. In what is left the server's input is closed, then it is asked to end, then it is
    /// killed with all that it has started.
    pub async fn restart(&self, grace: Duration) {
        self.manager.restart(grace).await;
    }

    /// As [`restart`](Self::restart), but for good: later calls are refused. It returns when nothing
    /// is left, also of a server that a restart or a loss is still ending.
    pub async fn shutdown(&self, grace: Duration) {
        self.manager.shut_down(grace).await;
    }

    fn unavailable(&self, no_link: NoLink) -> ToolError {
        unavailable(self.manager.name(), no_link)
    }

    fn transport(&self, generation: u64, error: rmcp::ServiceError) -> ToolError {
        self.manager.failed(generation, &error);
        ToolError::Transport {
            server: self.manager.name().clone(),
            source: Arc::new(error),
        }
    }
}

/// Not ready only while a connection is put off or shut down: one that is not made yet is made by
/// the next call.
impl ReportState for McpHandle {
    fn report(&self) -> StateReport {
        let state = self.state();
        let mut report = StateReport::ready(LAYER);
        if state.shut_down {
            report.ready = false;
            report.reason = Some(format!("MCP server {:?} was shut down", state.server));
        } else if !state.connected && state.retry_after_ms.is_some() {
            report.ready = false;
            report.reason = state.last_error;
            report.retry_after_ms = state.retry_after_ms;
        }
        report
    }
}

impl fmt::Debug for McpHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpHandle").field(&self.manager).finish()
    }
}
