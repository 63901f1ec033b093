//! The activities, over a registry of servers.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::sync::watch;
use toolweir_core::Delivery;
use toolweir_mcp::{Entry, Progress, ServerRegistry};
use toolweir_workflow::{
    CallProgress, CallTool, CallToolInput, CallToolOutput, Preflight, PreflightInput,
    PreflightReport,
};
use tower::ServiceExt as _;

use crate::{attempt, call, failure, heartbeat, preflight};

/// The activities `toolweir.call_tool` and `toolweir.preflight`.
///
/// Register them with a worker once: the SDK lets a second registration of the same names replace
/// the first without a word.
#[derive(Clone)]
pub struct ToolActivities {
    registry: Arc<ServerRegistry>,
}

impl ToolActivities {
    /// Activities over the servers of `registry`. Keep a clone of it, to warm the servers up before
    /// the worker polls and to shut them down after.
    #[must_use]
    pub fn new(registry: Arc<ServerRegistry>) -> Self {
        Self { registry }
    }

    fn entry(
        &self,
        server: &str,
        tool: &str,
        earlier: Option<Delivery>,
    ) -> Result<&Entry, ActivityError> {
        self.registry.get(server).map_err(|unknown| {
            ActivityError::application(failure::unknown_server(tool, unknown, earlier))
        })
    }
}

impl fmt::Debug for ToolActivities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolActivities").finish_non_exhaustive()
    }
}

/// Runs `work` with heartbeats, and drops it when the activity is cancelled.
async fn beating<F: Future>(
    context: &ActivityContext,
    progress: impl Fn() -> Option<CallProgress>,
    work: F,
) -> Result<F::Output, ActivityError> {
    let period = heartbeat::period(context.info().heartbeat_timeout);
    let beat = || {
        let progress = progress();
        async move {
            // Only an unserialisable payload can fail, and these are not.
            let _ = match progress {
                Some(progress) => context.record_heartbeat(progress).await,
                None => context.record_heartbeat(()).await,
            };
        }
    };
    heartbeat::beating(period, beat, context.cancelled(), work)
        .await
        .ok_or_else(ActivityError::cancelled)
}

fn of_progress(progress: &Progress) -> CallProgress {
    CallProgress::new(progress.done, progress.total, progress.message.clone())
}

#[activities]
impl ToolActivities {
    /// Calls a tool of a server.
    ///
    /// # Errors
    ///
    /// See the crate's table of failures.
    #[activity(definition = CallTool)]
    pub async fn call_tool(
        self: Arc<Self>,
        context: ActivityContext,
        input: CallToolInput,
    ) -> Result<CallToolOutput, ActivityError> {
        let facts = call::Facts::of(context.info());
        let earlier = attempt::earlier(&context);
        let entry = self.entry(&input.server, &input.tool, earlier)?;
        let (progress, reports) = watch::channel(None);
        let call = call::tool_call(&facts, &input, earlier).with_progress(progress);
        let said = || reports.borrow().as_ref().map(of_progress);
        let result = beating(&context, said, entry.service().oneshot(call)).await?;
        let target = failure::Target {
            server: &input.server,
            tool: &input.tool,
            hints: entry.hints_for(input.principal.as_deref(), &input.tool),
            earlier,
            left: facts.left(input.schedule_to_close_ms.map(Duration::from_millis)),
        };
        let failure = match failure::map(result, &target) {
            Ok(output) => return Ok(output),
            Err(failure) => failure,
        };
        if !failure.is_non_retryable() && target.needs_settling() {
            attempt::settle(&context).await;
        }
        Err(ActivityError::Application(failure))
    }

    /// Asks a server's layers whether a call would go through now.
    ///
    /// # Errors
    ///
    /// There is no server of that name. A server that is not ready is no error.
    #[activity(definition = Preflight)]
    pub async fn preflight(
        self: Arc<Self>,
        context: ActivityContext,
        input: PreflightInput,
    ) -> Result<PreflightReport, ActivityError> {
        let entry = self.entry(&input.server, "preflight", None)?;
        beating(&context, || None, preflight::report(entry)).await
    }
}
