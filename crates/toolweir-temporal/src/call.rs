//! The tool call that an activity makes.

use std::time::{Duration, SystemTime};

use temporalio_sdk::activities::ActivityInfo;
use tokio::time::Instant;
use toolweir_core::{Delivery, time::saturating_add};
use toolweir_mcp::ToolCall;
use toolweir_workflow::CallToolInput;

/// Time kept back from the activity's deadline, to report what became of the call.
const TO_REPORT: Duration = Duration::from_secs(1);

/// What a call takes from the activity's own facts.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Which call this is. The attempt is no part of it: whoever told the one before to come back
    /// must know this one again.
    call: String,
    /// How long this attempt may take from now.
    time: Option<Duration>,
    /// How long ago the activity was scheduled, when these facts were read.
    age: Option<Duration>,
    /// When they were read.
    read: Instant,
}

impl Facts {
    /// The facts as of the attempt's start, by the server's clock alone: the worker's may be off, and
    /// a call that outlasts its activity would be made twice.
    pub(crate) fn of(info: &ActivityInfo) -> Self {
        let now = info.started_time.unwrap_or_else(SystemTime::now);
        let (workflow, run) = match (&info.workflow_id, &info.workflow_run_id) {
            (Some(workflow), Some(run)) => (workflow.as_str(), run.as_str()),
            // A standalone activity has neither.
            _ => ("", info.activity_run_id.as_deref().unwrap_or_default()),
        };
        Self {
            call: identity(&info.namespace, workflow, run, &info.activity_id),
            time: info
                .deadline
                .map(|deadline| deadline.duration_since(now).unwrap_or_default()),
            age: info
                .scheduled_time
                .map(|scheduled| now.duration_since(scheduled).unwrap_or_default()),
            read: Instant::now(),
        }
    }

    /// What is left of a schedule-to-close time by now, the call itself deducted.
    pub(crate) fn left(&self, schedule_to_close: Option<Duration>) -> Option<Duration> {
        let age = self.age?.saturating_add(self.read.elapsed());
        Some(schedule_to_close?.saturating_sub(age))
    }
}

/// Namespaces, run ids and activity ids have no colon, so that no two calls share an identity
/// whatever the workflow's id is.
fn identity(namespace: &str, workflow: &str, run: &str, activity: &str) -> String {
    format!("{namespace}:{workflow}:{run}:{activity}")
}

/// The call with its deadline, its identity and its idempotency key, and what is known of an attempt
/// `earlier`.
pub(crate) fn tool_call(
    facts: &Facts,
    input: &CallToolInput,
    earlier: Option<Delivery>,
) -> ToolCall {
    let key = input.idempotency_key.as_deref().unwrap_or(&facts.call);
    let mut call = ToolCall::new(input.tool.as_str())
        .with_arguments(input.arguments.clone())
        .with_call_id(facts.call.as_str())
        .with_idempotency_key(key);
    if let Some(earlier) = earlier {
        call = call.with_earlier_attempt(earlier);
    }
    if let Some(principal) = &input.principal {
        call = call.with_principal(principal.as_str());
    }
    if let Some(idle) = input.idle_timeout_ms.filter(|millis| *millis > 0) {
        call = call.with_idle_timeout(Duration::from_millis(idle));
    }
    if let Some(time) = facts.time {
        let time = time.saturating_sub(TO_REPORT.min(time / 10));
        call = call.with_deadline(saturating_add(Instant::now(), time));
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            call: identity("default", "sync:anna", "4f1c", "5"),
            time: Some(Duration::from_secs(60)),
            age: Some(Duration::from_secs(40)),
            read: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_key_is_the_callers_or_the_calls_identity() {
        let mut input = CallToolInput::new("music", "add");
        let call = tool_call(&facts(), &input, None);
        assert_eq!(call.idempotency_key(), Some("default:sync:anna:4f1c:5"));
        input.idempotency_key = Some("anna/joga".into());
        let call = tool_call(&facts(), &input, None);
        assert_eq!(call.idempotency_key(), Some("anna/joga"));
        // Overlapping runs share the key, and must not share a booking.
        assert_eq!(call.call_id(), Some("default:sync:anna:4f1c:5"));
    }

    #[tokio::test(start_paused = true)]
    async fn principal_and_idle_timeout_are_the_callers() {
        let mut input = CallToolInput::new("music", "add");
        let call = tool_call(&facts(), &input, None);
        assert_eq!((call.principal(), call.idle_timeout()), (None, None));
        input.principal = Some("anna".to_owned());
        input.idle_timeout_ms = Some(1500);
        let call = tool_call(&facts(), &input, None);
        assert_eq!(call.principal(), Some("anna"));
        assert_eq!(call.idle_timeout(), Some(Duration::from_millis(1500)));
        input.idle_timeout_ms = Some(0);
        assert_eq!(tool_call(&facts(), &input, None).idle_timeout(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_leaves_time_to_report() {
        let call = tool_call(&facts(), &CallToolInput::new("music", "add"), None);
        assert_eq!(
            call.deadline(),
            Some(Instant::now() + Duration::from_secs(59))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_never_goes_below_nothing() {
        let facts = facts();
        let left = |seconds| facts.left(Some(Duration::from_secs(seconds)));
        assert_eq!(left(600), Some(Duration::from_secs(560)));
        assert_eq!(left(10), Some(Duration::ZERO));
        assert_eq!(facts.left(None), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(left(600), Some(Duration::from_secs(510)));
    }
}
