//! The service under test, and what must be left of it.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::json;
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use toolweir_mcp::{McpHandle, McpService, McpServiceBuilder, ToolCall, ToolError, ToolResponse};
use toolweir_semaphore::{Semaphore, SemaphoreConfig, SemaphoreHandle, SemaphoreLayer};
use tower::{Layer as _, ServiceExt as _};

use crate::cell::{End, Recovery};

/// More than anything here takes. A test that reaches it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(met.await.is_ok(), "not in {PATIENCE:?}: {what}");
}

/// A connection behind a semaphore, whose permits must come back.
pub(crate) struct Subject {
    service: Semaphore<McpService>,
    permits: SemaphoreHandle,
    pub(crate) handle: McpHandle,
    /// How long a call may take that meets the fault.
    pub(crate) call_timeout: Duration,
    tasks_before: usize,
}

impl Subject {
    pub(crate) fn new(builder: McpServiceBuilder, call_timeout: Duration) -> Self {
        let tasks_before = Handle::current().metrics().num_alive_tasks();
        let mcp = builder.build().unwrap();
        let handle = mcp.handle();
        let permits = SemaphoreConfig::builder().permits(10).build().unwrap();
        let layer = SemaphoreLayer::new(permits);
        Self {
            permits: layer.handle(),
            service: layer.layer(mcp),
            handle,
            call_timeout,
            tasks_before,
        }
    }

    /// One call, which must be answered with its own number if it is answered.
    pub(crate) async fn call(
        &self,
        tool: &'static str,
        number: usize,
        within: Duration,
    ) -> Result<ToolResponse, ToolError> {
        let call = ToolCall::new(tool)
            .try_arguments(&json!({ "number": number }))
            .unwrap()
            .with_timeout(within);
        let answer = timeout(PATIENCE, self.service.clone().oneshot(call)).await;
        let answer = answer.expect("every call ends within its own time");
        if let Ok(response) = &answer
            && !response.is_error()
        {
            let told = response.structured().unwrap();
            assert_eq!(told["number"], json!(number), "the answer of another call");
        }
        answer
    }

    /// So many calls at once, and how each ended.
    pub(crate) async fn calls(&self, count: usize) -> Vec<End> {
        let calls = (0..count).map(|number| self.call("echo", number, self.call_timeout));
        let mut calls = FuturesUnordered::from_iter(calls);
        let mut ends = Vec::new();
        while let Some(end) = calls.next().await {
            ends.push(match end {
                Ok(response) => response.observation().into(),
                Err(error) => error.observation().into(),
            });
        }
        ends
    }

    /// The next call that is let through succeeds.
    pub(crate) async fn recovers(&self, starts: u64, recovery: Recovery) {
        loop {
            match self.call("echo", 4711, PATIENCE).await {
                Ok(_) => break,
                Err(ToolError::Unavailable {
                    retry_after: Some(wait),
                    ..
                }) => sleep(wait).await,
                Err(error) => panic!("the next call should succeed: {error}"),
            }
        }
        let replaced = matches!(recovery, Recovery::Replaced | Recovery::Restarted);
        let expected = starts + u64::from(replaced);
        assert_eq!(self.handle.state().starts, expected, "{recovery:?}");
    }

    /// Nothing is left: no permit, no call, no task.
    pub(crate) async fn leaves_nothing(self) {
        assert_eq!(self.permits.state().in_flight, 0);
        assert_eq!(self.handle.state().calls, 0);
        self.handle.shutdown(Duration::from_secs(2)).await;
        let tasks_before = self.tasks_before;
        drop(self);
        let metrics = Handle::current().metrics();
        until("its tasks have ended", || {
            metrics.num_alive_tasks() <= tasks_before
        })
        .await;
    }
}
