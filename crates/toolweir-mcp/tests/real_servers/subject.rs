//! A server under test, and the steps that are the same for all.

use std::time::Duration;

use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};
use toolweir_core::Delivery;
use toolweir_mcp::{McpService, McpServiceBuilder, StdioServer, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::installed::{Server, or_skip};
use tower::ServiceExt as _;

use crate::{
    PATIENCE,
    calls::{self, Answer},
    processes::{group, signal},
    until,
    wire::Wire,
};

/// A server under test, with its wire written down. It is started by the first call.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) mcp: McpService,
    pub(crate) wire: Wire,
}

impl Subject {
    /// The server as `prepare` has it, or `None` where the machine lacks what it runs on.
    pub(crate) async fn new(
        server: Server,
        prepare: impl FnOnce(StdioServer) -> StdioServer,
    ) -> Option<Self> {
        Self::with(server, prepare, |builder| builder).await
    }

    pub(crate) async fn with(
        server: Server,
        prepare: impl FnOnce(StdioServer) -> StdioServer,
        configure: impl FnOnce(McpServiceBuilder) -> McpServiceBuilder,
    ) -> Option<Self> {
        let program = or_skip(server.installed().await)?;
        let wire = Wire::new();
        let builder = McpService::builder("real")
            .stdio(prepare(wire.around(&program)))
            .connect_timeout(PATIENCE)
            .call_timeout(PATIENCE);
        let mcp = configure(builder).build().unwrap();
        Some(Self { mcp, wire })
    }

    pub(crate) async fn call(&self, call: ToolCall) -> Answer {
        calls::call(&self.mcp, call).await
    }

    pub(crate) async fn answer(&self, call: ToolCall) -> ToolResponse {
        calls::answer(&self.mcp, call).await
    }

    /// Begins a call, and returns when the server has been sent it, with its number.
    pub(crate) async fn begin(&self, call: ToolCall) -> (JoinHandle<Answer>, Value) {
        let before = self.wire.calls().len();
        let call = tokio::spawn(self.mcp.clone().oneshot(call));
        until("the call is under way", async || {
            self.wire.calls().len() > before
        })
        .await;
        (call, self.wire.calls().remove(before))
    }

    pub(crate) fn starts(&self) -> u64 {
        self.mcp.handle().state().starts
    }

    pub(crate) fn process(&self) -> u32 {
        self.mcp.handle().state().process_id.unwrap()
    }

    /// Ends the server and looks for what is left of it.
    pub(crate) async fn shut_down(self) {
        let process = self.process();
        self.mcp.handle().shutdown(Duration::from_secs(10)).await;
        assert_eq!(group(process).await, Vec::<String>::new());
    }

    /// Step "cancel", for a server without a tool that takes long: it is stopped before `call` comes,
    /// and goes on after that was given up. It answers `quick` then, on the same connection.
    pub(crate) async fn cancelled_while_stopped(&self, call: ToolCall, quick: ToolCall) -> Value {
        self.answer(quick.clone()).await;
        let process = self.process();
        signal("STOP", process).await;
        let (abandoned, number) = self.begin(call).await;
        abandoned.abort();
        until("the server is told", async || {
            self.wire.is_cancelled(&number)
        })
        .await;
        signal("CONT", process).await;
        self.answer(quick).await;
        assert_eq!((self.starts(), self.process()), (1, process));
        number
    }

    /// Steps "kill" and "reconnect": the server is killed with `call` under way and stopped in it, if
    /// it is not a call that takes long; it is started anew for `quick`; and nothing is left of it.
    pub(crate) async fn killed(self, call: ToolCall, stopped: bool, quick: ToolCall) {
        self.answer(quick.clone()).await;
        let process = self.process();
        if stopped {
            signal("STOP", process).await;
        }
        let (lost, _) = self.begin(call).await;
        signal("KILL", process).await;
        let error = timeout(PATIENCE, lost).await.unwrap().unwrap().unwrap_err();
        assert!(
            matches!(error, ToolError::ConnectionLost { .. }),
            "{error:?}"
        );
        assert_eq!(error.observation().delivery, Delivery::Ambiguous);

        self.answer(quick).await;
        assert_eq!(self.starts(), 2);
        assert_ne!(self.process(), process);
        until("nothing is left of it", async || {
            group(process).await.is_empty()
        })
        .await;
        self.shut_down().await;
    }
}
