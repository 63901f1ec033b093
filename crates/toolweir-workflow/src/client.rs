//! What a workflow calls tools with.

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use temporalio_common::RetryPolicy;
use temporalio_workflow::{ActivityCloseTimeouts, ActivityOptions, TimerResult, WorkflowContext};

use crate::{
    CallError, CallTool, CallToolInput, CallToolOutput, Preflight, PreflightInput, PreflightReport,
    patience::Patience,
};

/// One attempt: the layers' short waits and the call itself.
const START_TO_CLOSE: Duration = Duration::from_secs(60);
/// All attempts and the waits between them.
const SCHEDULE_TO_CLOSE: Duration = Duration::from_secs(10 * 60);
/// Cancellation reaches the worker with a heartbeat, which it sends three times in this time.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A preflight reads states and at most probes once.
const PREFLIGHT_START_TO_CLOSE: Duration = Duration::from_secs(15);
/// What a preflight that finds no worker may take in all.
const PREFLIGHT_SCHEDULE_TO_CLOSE: Duration = Duration::from_secs(60);

/// Calls the tools of one MCP server from a workflow.
///
/// A call is an activity with unlimited attempts inside a bounded schedule-to-close time: a refusal
/// by a layer waits in Temporal, without a worker slot, and uses up nobody's attempts.
#[derive(Debug, Clone)]
pub struct ToolClient {
    server: String,
    principal: Option<String>,
    task_queue: Option<String>,
    start_to_close: Duration,
    schedule_to_close: Duration,
    heartbeat: Duration,
    retry: RetryPolicy,
}

impl ToolClient {
    /// A client for the server of that name in the worker's registry. Make the name a constant
    /// that the worker uses too.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            principal: None,
            task_queue: None,
            start_to_close: START_TO_CLOSE,
            schedule_to_close: SCHEDULE_TO_CLOSE,
            heartbeat: HEARTBEAT,
            retry: RetryPolicy::builder()
                .initial_interval(Duration::from_secs(1))
                .maximum_interval(Duration::from_secs(30))
                .build(),
        }
    }

    /// On whose behalf the calls are made: a name that the worker knows, never a secret.
    #[must_use]
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// The task queue of the workers that hold the server. By default the workflow's own.
    #[must_use]
    pub fn task_queue(mut self, task_queue: impl Into<String>) -> Self {
        self.task_queue = Some(task_queue.into());
        self
    }

    /// How long one attempt may take, waits in the layers included. By default 60 seconds.
    #[must_use]
    pub fn start_to_close(mut self, timeout: Duration) -> Self {
        self.start_to_close = timeout;
        self
    }

    /// How long all attempts may take, waits between them included. By default 10 minutes.
    ///
    /// A refusal that would last longer fails at once, and says when to come back.
    #[must_use]
    pub fn schedule_to_close(mut self, timeout: Duration) -> Self {
        self.schedule_to_close = timeout;
        self
    }

    /// After how long without a heartbeat Temporal takes the worker for dead. By default 10
    /// seconds. A cancellation reaches the server within this time.
    #[must_use]
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat = timeout;
        self
    }

    /// How failures are repeated. By default after one second, doubling up to 30 seconds, without
    /// end inside the schedule-to-close time. A server's or layer's own word on when to come back
    /// goes before it.
    #[must_use]
    pub fn retry_policy(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The server's name.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Calls `tool` and reads its answer as a `T`.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call<'a, T, W>(
        &'a self,
        ctx: &'a WorkflowContext<W>,
        tool: &str,
        arguments: impl Serialize,
    ) -> impl Future<Output = Result<T, CallError>> + 'a
    where
        T: DeserializeOwned,
    {
        let request = self.request(tool).arguments(arguments);
        async move { request.send(ctx).await }
    }

    /// A call of `tool` with more to say than [`call`](Self::call) can.
    pub fn request(&self, tool: impl Into<String>) -> ToolRequest<'_> {
        let tool = tool.into();
        let mut input = CallToolInput::new(self.server.clone(), tool);
        input.principal.clone_from(&self.principal);
        input.schedule_to_close_ms =
            Some(u64::try_from(self.schedule_to_close.as_millis()).unwrap_or(u64::MAX));
        ToolRequest {
            client: self,
            input: Ok(input),
        }
    }

    /// Asks whether a call would go through now: one worker's view, and advice only.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn preflight<W>(
        &self,
        ctx: &WorkflowContext<W>,
    ) -> Result<PreflightReport, CallError> {
        let mut input = PreflightInput::new(self.server.clone());
        input.principal.clone_from(&self.principal);
        let timeouts = ActivityCloseTimeouts::ScheduleAndStartToClose {
            schedule_to_close: PREFLIGHT_SCHEDULE_TO_CLOSE,
            start_to_close: PREFLIGHT_START_TO_CLOSE,
        };
        let options = ActivityOptions::with_close_timeouts(timeouts)
            .maybe_task_queue(self.task_queue.clone())
            .heartbeat_timeout(self.heartbeat)
            .build();
        Ok(ctx.execute_activity(Preflight, input, options).await?)
    }

    /// Asks until a call would go through, and waits between on a Temporal timer, `patience` at
    /// most, what the questions take included. With no patience it asks once.
    ///
    /// Each pause is as long as the refusal says, and no shorter than one that doubles each time from
    /// 100 milliseconds to 30 seconds, or to a hundredth of the patience where that is longer. So a
    /// history holds some 120 questions at most, however long the patience.
    ///
    /// A refusal whose end is unknown, or further away than the patience left, is the answer at
    /// once: there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn wait_until_ready<W>(
        &self,
        ctx: &WorkflowContext<W>,
        patience: Duration,
    ) -> Result<Readiness, CallError> {
        let mut patience = Patience::new(patience, ctx.workflow_time());
        loop {
            let report = self.preflight(ctx).await?;
            if report.ready {
                return Ok(Readiness::Ready);
            }
            let told = report.retry_after_ms.map(Duration::from_millis);
            let Some(pause) = patience.pause(ctx.workflow_time(), told) else {
                return Ok(Readiness::Refused(report));
            };
            if ctx.timer(pause).await == TimerResult::Cancelled {
                return Err(CallError::Cancelled);
            }
        }
    }

    fn options(&self) -> ActivityOptions {
        let timeouts = ActivityCloseTimeouts::ScheduleAndStartToClose {
            schedule_to_close: self.schedule_to_close,
            start_to_close: self.start_to_close,
        };
        ActivityOptions::with_close_timeouts(timeouts)
            .maybe_task_queue(self.task_queue.clone())
            .heartbeat_timeout(self.heartbeat)
            .retry_policy(self.retry.clone())
            .build()
    }
}

/// Whether a server would take calls.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// A call would go through.
    Ready,
    /// It would not, for longer than the caller's patience.
    Refused(PreflightReport),
}

/// One call of a tool.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct ToolRequest<'a> {
    client: &'a ToolClient,
    input: Result<CallToolInput, CallError>,
}

impl ToolRequest<'_> {
    /// The tool's arguments: anything that serialises to a JSON object.
    pub fn arguments(mut self, arguments: impl Serialize) -> Self {
        self.input = self.input.and_then(|mut input| {
            match to_object(arguments) {
                Ok(arguments) => input.arguments = arguments,
                Err(source) => {
                    return Err(CallError::Arguments {
                        tool: input.tool,
                        source,
                    });
                }
            }
            Ok(input)
        });
        self
    }

    /// Which effect is meant: a key of the business, such as playlist and track. The server does
    /// the effect once for each key, if it knows keys.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        if let Ok(input) = &mut self.input {
            input.idempotency_key = Some(key.into());
        }
        self
    }

    /// How long the tool may be silent. Progress that it reports begins this time anew; the call's
    /// timeouts hold all the same. By default what the worker has set for the server.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        if let Ok(input) = &mut self.input {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            input.idle_timeout_ms = Some(millis.max(1));
        }
        self
    }

    /// Sends the call and reads its answer as a `T`: from the structured content, or else from a
    /// text that is JSON.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn send<T, W>(self, ctx: &WorkflowContext<W>) -> Result<T, CallError>
    where
        T: DeserializeOwned,
    {
        let options = self.client.options();
        let input = self.input?;
        let tool = input.tool.clone();
        let output = ctx.execute_activity(CallTool, input, options).await?;
        read(tool, output)
    }
}

fn to_object(arguments: impl Serialize) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(arguments)?)
}

fn read<T: DeserializeOwned>(tool: String, output: CallToolOutput) -> Result<T, CallError> {
    if output.is_error {
        return Err(CallError::Tool {
            tool,
            message: output.text,
            structured: output.structured,
        });
    }
    let read = match output.structured {
        Some(structured) => serde_json::from_value(structured),
        None => serde_json::from_str(&output.text),
    };
    read.map_err(|source| CallError::Answer { tool, source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structured_content_goes_before_text() {
        let output = CallToolOutput::new(Some(json!({ "n": 1 })), "not json", false);
        let read: Value = read("t".into(), output).unwrap();
        assert_eq!(read, json!({ "n": 1 }));
    }

    #[test]
    fn a_text_that_is_json_is_read() {
        let output = CallToolOutput::new(None, "[1, 2]", false);
        let read: Vec<u8> = read("t".into(), output).unwrap();
        assert_eq!(read, [1, 2]);
    }

    #[test]
    fn an_answer_of_another_type_names_tool_and_difference() {
        let output = CallToolOutput::new(Some(json!({ "n": "one" })), "", false);
        let error = read::<std::collections::BTreeMap<String, u8>>("count".into(), output);
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("\"count\"") && text.contains("expected u8"),
            "{text}"
        );
    }

    #[test]
    fn arguments_that_are_no_object_are_an_error_of_the_request() {
        let client = ToolClient::new("music");
        let request = client.request("search").arguments([1, 2]);
        assert!(matches!(request.input, Err(CallError::Arguments { .. })));
    }

    #[test]
    fn every_call_has_a_heartbeat_and_both_timeouts() {
        let options = ToolClient::new("music").options();
        assert!(options.heartbeat_timeout.is_some());
        assert!(matches!(
            options.close_timeouts,
            ActivityCloseTimeouts::ScheduleAndStartToClose { .. }
        ));
        assert_eq!(options.retry_policy.unwrap().maximum_attempts(), 0);
    }
}
