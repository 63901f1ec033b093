//! What reaches Temporal: a tool call's result as the activity's.

use std::{fmt, time::Duration};

use temporalio_common::error::{ApplicationErrorCategory, ApplicationFailure};
use toolweir_core::{
    AsRejection as _, BoxError, Delivery, Observation, Outcome, Reason, Rejection,
    time::{millis_ceil, told},
};
use toolweir_mcp::{ToolError, ToolHints, ToolResponse, UnknownServer, may_repeat};
use toolweir_workflow::{CallToolOutput, FailureDetails, FailureKind};

use crate::attempt;

/// The call that a failure is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) server: &'a str,
    pub(crate) tool: &'a str,
    /// What is known of the tool's effects.
    pub(crate) hints: ToolHints,
    /// Whether an attempt before this one, which did not report how it ended, reached the server.
    pub(crate) earlier: Option<Delivery>,
    /// What is left of the schedule-to-close time, if that is known.
    pub(crate) left: Option<Duration>,
}

impl Target<'_> {
    /// Whether a later attempt must know that this one reports how it ended. Where a repetition does no
    /// harm it need not; and what is not known of an earlier attempt is not known after this one either.
    pub(crate) const fn needs_settling(&self) -> bool {
        self.earlier.is_none() && !may_repeat(Delivery::Ambiguous, self.hints)
    }

    /// How a failure counts for the workflow that reads it, which asks for the whole call and not for
    /// the last attempt.
    const fn delivery(&self, this: Delivery) -> Delivery {
        attempt::of_both(self.earlier, this)
    }
}

/// What a failure says, before it becomes Temporal's.
#[derive(Debug)]
struct Verdict {
    kind: FailureKind,
    retry_after: Option<Duration>,
    /// Only a person can mend it.
    terminal: bool,
}

impl Verdict {
    const fn new(kind: FailureKind, retry_after: Option<Duration>) -> Self {
        Self {
            kind,
            retry_after,
            terminal: false,
        }
    }
}

/// A tool's answer as the activity's output, or what went wrong as its failure.
pub(crate) fn map(
    result: Result<ToolResponse, ToolError>,
    target: &Target<'_>,
) -> Result<CallToolOutput, Box<ApplicationFailure>> {
    match result {
        Ok(response) => match of_observation(response.observation(), target) {
            None => Ok(output(&response)),
            Some(verdict) => {
                let text = format!("tool {:?} answered: {}", target.tool, response.text());
                let observation = response.observation();
                let failure = failure(text.into(), &verdict, observation, None, target);
                Err(Box::new(failure))
            }
        },
        Err(error) => {
            let rejection = error.as_rejection().cloned();
            let observation = error.observation();
            let verdict = rejection
                .as_ref()
                .map(of_rejection)
                .or_else(|| {
                    let verdict = of_observation(observation, target)?;
                    let told = || error.retry_after().filter(|_| !verdict.kind.is_final());
                    let retry_after = verdict.retry_after.or_else(told);
                    Some(Verdict::new(verdict.kind, retry_after))
                })
                // The caller's own mistake: the same call would fail the same way.
                .unwrap_or(Verdict::new(FailureKind::InvalidCall, None));
            let failure = failure(
                error.into(),
                &verdict,
                observation,
                rejection.as_ref(),
                target,
            );
            Err(Box::new(failure))
        }
    }
}

fn output(response: &ToolResponse) -> CallToolOutput {
    CallToolOutput::new(
        response.structured().cloned(),
        response.text(),
        response.is_error(),
    )
}

fn of_rejection(rejection: &Rejection) -> Verdict {
    Verdict {
        kind: match rejection.reason() {
            // A server that is down is nothing expected, whichever layer says so.
            Reason::WarmUpFailed | Reason::Unhealthy | Reason::RestartsSpent => {
                FailureKind::ServerUnavailable
            }
            Reason::NoPrincipal => FailureKind::InvalidCall,
            Reason::NotRepeatable => FailureKind::OutcomeUnknown,
            _ => FailureKind::Refused,
        },
        retry_after: rejection.retry_after(),
        terminal: rejection.reason().is_terminal(),
    }
}

/// What an observation makes of the activity; `None` where the result is the caller's.
fn of_observation(observation: Observation, target: &Target<'_>) -> Option<Verdict> {
    let Observation { outcome, delivery } = observation;
    let (kind, retry_after) = match outcome {
        Outcome::Throttled { retry_after } => (FailureKind::Throttled, retry_after),
        Outcome::Unauthorized => (FailureKind::Unauthorized, None),
        Outcome::Failure if delivery == Delivery::NotSent => (FailureKind::ServerUnavailable, None),
        Outcome::Failure => (FailureKind::Failed, None),
        _ => return None,
    };
    // Whatever it is called: what may have been executed is repeated only where that does no harm.
    Some(match delivery {
        delivery if may_repeat(delivery, target.hints) => Verdict::new(kind, retry_after),
        Delivery::Executed => Verdict::new(FailureKind::FailedForGood, None),
        _ => Verdict::new(FailureKind::OutcomeUnknown, None),
    })
}

fn failure(
    error: BoxError,
    verdict: &Verdict,
    observation: Observation,
    rejection: Option<&Rejection>,
    target: &Target<'_>,
) -> ApplicationFailure {
    let retry_after = verdict.retry_after;
    // Waiting for it would end in a timeout that says less.
    let too_late = retry_after.filter(|wait| target.left.is_some_and(|left| *wait > left));
    // Whatever it is called: Temporal repeats nothing that this does not allow.
    let again = may_repeat(observation.delivery, target.hints);
    let is_final = !again || verdict.kind.is_final() || verdict.terminal || too_late.is_some();
    let delivery = target.delivery(observation.delivery);
    // This attempt is over and done with, and the one before it still is not.
    let unsettled = is_final && target.earlier.is_some() && !may_repeat(delivery, target.hints);
    let kind = if unsettled {
        FailureKind::OutcomeUnknown
    } else {
        verdict.kind
    };
    let details = details(verdict, delivery, rejection, target);
    let error = match too_late {
        _ if unsettled => not_settled(target.tool, &error),
        _ if kind == FailureKind::OutcomeUnknown => BoxError::from(format!(
            "the answer of tool {:?} was lost, so it may have been executed, and it is not known \
             to be safe to repeat: {error}",
            target.tool
        )),
        Some(wait) => BoxError::from(format!(
            "{error}; it may be repeated in {}, which is later than the call may last, so it fails \
             now",
            told(wait)
        )),
        None => error,
    };
    ApplicationFailure::builder(error)
        .type_name(kind.as_str().to_owned())
        .non_retryable(is_final)
        .maybe_next_retry_delay(retry_after.filter(|wait| !wait.is_zero()))
        .category(if kind.is_benign() && !is_final {
            ApplicationErrorCategory::Benign
        } else {
            ApplicationErrorCategory::Unspecified
        })
        .details(details)
        .build()
}

/// Of a call that ends while nobody knows what an earlier attempt has done.
fn not_settled(tool: &str, error: &impl fmt::Display) -> BoxError {
    BoxError::from(format!(
        "an earlier attempt to call tool {tool:?} did not report how it ended, so it may have been \
         executed, and it is not known to be safe to repeat: {error}"
    ))
}

fn details(
    verdict: &Verdict,
    delivery: Delivery,
    rejection: Option<&Rejection>,
    target: &Target<'_>,
) -> FailureDetails {
    let mut details = FailureDetails::new(target.server, target.tool);
    details.layer = rejection.map(|rejection| rejection.layer().to_owned());
    details.reason = rejection.map(|rejection| rejection.reason().to_string());
    details.retry_after_ms = verdict.retry_after.map(millis_ceil);
    details.delivery = delivery_word(delivery).to_owned();
    details
}

const fn delivery_word(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::NotSent => "not-sent",
        Delivery::Executed => "executed",
        _ => "ambiguous",
    }
}

/// A server that the worker does not have. The worker of an attempt `earlier` may have had it.
pub(crate) fn unknown_server(
    tool: &str,
    unknown: UnknownServer,
    earlier: Option<Delivery>,
) -> ApplicationFailure {
    let mut details = FailureDetails::new(unknown.name(), tool);
    let delivery = attempt::of_both(earlier, Delivery::NotSent);
    details.delivery = delivery_word(delivery).to_owned();
    let (kind, error) = if may_repeat(delivery, ToolHints::default()) {
        (FailureKind::UnknownServer, unknown.into())
    } else {
        (FailureKind::OutcomeUnknown, not_settled(tool, &unknown))
    };
    ApplicationFailure::builder(error)
        .type_name(kind.as_str().to_owned())
        .non_retryable(true)
        .details(details)
        .build()
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, sync::Arc};

    use super::*;
    use serde_json::json;

    const RETRY: Duration = Duration::from_secs(7);

    fn target(idempotent: bool) -> Target<'static> {
        Target {
            server: "music",
            tool: "add",
            hints: ToolHints::idempotent(idempotent),
            earlier: None,
            left: Some(Duration::from_secs(60)),
        }
    }

    fn refused(reason: Reason, retry_after: Option<Duration>) -> ToolError {
        let mut rejection = Rejection::new("rate-limit", reason);
        if let Some(retry_after) = retry_after {
            rejection = rejection.with_retry_after(retry_after);
        }
        rejection.into()
    }

    #[test]
    fn a_refusal_is_benign_and_comes_back_when_the_layer_said() {
        let refused = refused(Reason::QuotaSpent, Some(RETRY));
        let failure = map(Err(refused), &target(false)).unwrap_err();
        assert_eq!(failure.type_name(), Some("ToolCallRefused"));
        assert_eq!(failure.next_retry_delay(), Some(RETRY));
        assert_eq!(failure.category(), ApplicationErrorCategory::Benign);
        assert!(!failure.is_non_retryable());
    }

    #[test]
    fn a_refusal_that_outlasts_the_call_fails_now_and_says_when() {
        let late = Duration::from_secs(61);
        let failure = map(
            Err(refused(Reason::CircuitOpen, Some(late))),
            &target(false),
        );
        let failure = failure.unwrap_err();
        assert!(failure.is_non_retryable());
        assert!(failure.to_string().contains("retry after 61s"), "{failure}");
    }

    #[test]
    fn what_only_a_person_can_mend_is_not_repeated() {
        let failure = map(Err(refused(Reason::GrantRejected, None)), &target(true));
        let failure = failure.unwrap_err();
        assert!(failure.is_non_retryable());
        assert_ne!(failure.category(), ApplicationErrorCategory::Benign);
    }

    #[test]
    fn each_refusal_has_the_name_and_alarm_that_fit_its_reason() {
        for (reason, name, is_benign, is_final) in [
            (Reason::CircuitOpen, "ToolCallRefused", true, false),
            (Reason::DeadlineTooShort, "ToolCallRefused", true, false),
            (Reason::ConnectionsFull, "ToolCallRefused", true, false),
            (Reason::HealthUnknown, "ToolCallRefused", true, false),
            (Reason::ShuttingDown, "ToolCallRefused", true, false),
            (Reason::StillEnding, "ToolCallRefused", true, false),
            (Reason::GrantRejected, "ToolCallRefused", false, true),
            (Reason::CostTooHigh, "ToolCallRefused", false, true),
            (Reason::WarmUpFailed, "McpServerUnavailable", false, false),
            (Reason::Unhealthy, "McpServerUnavailable", false, false),
            (Reason::RestartsSpent, "McpServerUnavailable", false, true),
            (Reason::NoPrincipal, "InvalidToolCall", false, true),
            (Reason::NotRepeatable, "OutcomeUnknown", false, true),
        ] {
            let failure = map(Err(refused(reason, None)), &target(true)).unwrap_err();
            assert_eq!(failure.type_name(), Some(name), "{reason}");
            let benign = failure.category() == ApplicationErrorCategory::Benign;
            assert_eq!(
                (benign, failure.is_non_retryable()),
                (is_benign, is_final),
                "{reason}"
            );
        }
    }

    #[test]
    fn what_is_not_known_of_an_earlier_attempt_is_not_known_of_the_call() {
        let after = |idempotent, refusal_lasts| {
            let target = Target {
                earlier: Some(Delivery::Ambiguous),
                ..target(idempotent)
            };
            let refused = refused(Reason::CircuitOpen, Some(refusal_lasts));
            let failure = map(Err(refused), &target).unwrap_err();
            (
                failure.type_name().unwrap().to_owned(),
                failure.is_non_retryable(),
            )
        };
        let (soon, late) = (RETRY, Duration::from_secs(61));
        let refused = |is_final| ("ToolCallRefused".to_owned(), is_final);
        // It is asked again with the next attempt, of a server that may know more by then.
        assert_eq!(after(false, soon), refused(false));
        assert_eq!(after(false, late), ("OutcomeUnknown".to_owned(), true));
        // A second execution does no harm, so that the caller may repeat it, too.
        assert_eq!(after(true, late), refused(true));
    }

    #[test]
    fn the_details_tell_of_the_whole_call_and_not_of_its_last_attempt() {
        let told = |earlier, this| {
            let target = Target {
                earlier,
                ..target(true)
            };
            delivery_word(target.delivery(this))
        };
        use Delivery::{Ambiguous, Executed, NotSent};
        assert_eq!(told(None, NotSent), "not-sent");
        assert_eq!(told(Some(NotSent), Executed), "executed");
        assert_eq!(told(Some(Ambiguous), NotSent), "ambiguous");
        assert_eq!(told(Some(Executed), NotSent), "executed");
        assert_eq!(told(Some(Ambiguous), Executed), "executed");
    }

    #[test]
    fn the_details_name_layer_reason_time_and_delivery() {
        let refused = refused(Reason::RestartsSpent, Some(RETRY));
        let rejection = refused.as_rejection().unwrap();
        let verdict = of_rejection(rejection);
        let details = details(
            &verdict,
            refused.observation().delivery,
            Some(rejection),
            &target(true),
        );
        assert_eq!(
            serde_json::to_value(details).unwrap(),
            json!({
                "server": "music",
                "tool": "add",
                "layer": "rate-limit",
                "reason": "restarts-spent",
                "retry_after_ms": 7000,
                "delivery": "not-sent",
            })
        );
    }

    #[test]
    fn a_server_that_could_not_be_warmed_up_is_tried_again_when_the_layer_said() {
        let refused = refused(Reason::WarmUpFailed, Some(RETRY));
        let failure = map(Err(refused), &target(false)).unwrap_err();
        assert_eq!(failure.next_retry_delay(), Some(RETRY));
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_not_asked_for_again() {
        let too_large = ToolError::TooLarge {
            server: "music".into(),
            tool: "add".into(),
            limit: 4096,
            observed: None,
        };
        let failure = map(Err(too_large), &target(true)).unwrap_err();
        assert_eq!(failure.type_name(), Some("InvalidToolCall"));
        assert!(failure.is_non_retryable());
    }

    #[test]
    fn http_statuses_are_what_they_say() {
        let answer = |status, retry_after, idempotent| {
            let http = ToolError::Http {
                server: "music".into(),
                tool: "add".into(),
                status,
                retry_after,
                source: Arc::new(std::io::Error::other("status")),
                observed: None,
            };
            let failure = map(Err(http), &target(idempotent)).unwrap_err();
            let name = failure.type_name().unwrap().to_owned();
            (name, failure.next_retry_delay())
        };
        let named = |name: &str, wait| (name.to_owned(), wait);
        assert_eq!(
            answer(429, Some(RETRY), false),
            named("ToolCallThrottled", Some(RETRY))
        );
        assert_eq!(
            answer(401, None, false),
            named("ToolCallUnauthorized", None)
        );
        assert_eq!(answer(500, None, true), named("ToolCallFailed", None));
        assert_eq!(answer(500, None, false), named("OutcomeUnknown", None));
    }

    #[test]
    fn a_transport_that_sent_nothing_may_be_tried_again() {
        let broken = |delivery| ToolError::Transport {
            server: "music".into(),
            delivery,
            source: Arc::new(std::io::Error::other("connection refused")),
            observed: None,
        };
        let failure = map(Err(broken(Delivery::NotSent)), &target(false)).unwrap_err();
        assert_eq!(failure.type_name(), Some("McpServerUnavailable"));
        let failure = map(Err(broken(Delivery::Ambiguous)), &target(false)).unwrap_err();
        assert_eq!(failure.type_name(), Some("OutcomeUnknown"));
    }

    #[test]
    fn a_pause_after_the_work_was_done_is_no_leave_to_do_it_again() {
        let throttled = |delivery| {
            let outcome = Outcome::Throttled {
                retry_after: Some(RETRY),
            };
            let lost = ToolError::ConnectionLost {
                server: "music".into(),
                tool: "add".into(),
                observed: Some(Observation::new(outcome, delivery)),
            };
            let name = |idempotent| {
                let failure = map(Err(lost.clone()), &target(idempotent)).unwrap_err();
                let name = failure.type_name().unwrap().to_owned();
                (name, failure.next_retry_delay())
            };
            (name(false), name(true))
        };
        let named = |name: &str, wait| (name.to_owned(), wait);
        let pause = named("ToolCallThrottled", Some(RETRY));
        assert_eq!(
            throttled(Delivery::Executed),
            (named("ToolCallFailedForGood", None), pause.clone())
        );
        assert_eq!(
            throttled(Delivery::Ambiguous),
            (named("OutcomeUnknown", None), pause.clone())
        );
        assert_eq!(throttled(Delivery::NotSent), (pause.clone(), pause));
    }

    #[test]
    fn a_lost_answer_is_repeated_only_where_that_does_no_harm() {
        let lost = || ToolError::ConnectionLost {
            server: "music".into(),
            tool: "add".into(),
            observed: None,
        };
        let unknown = map(Err(lost()), &target(false)).unwrap_err();
        assert_eq!(unknown.type_name(), Some("OutcomeUnknown"));
        assert!(unknown.is_non_retryable());
        let failed = map(Err(lost()), &target(true)).unwrap_err();
        assert_eq!(failed.type_name(), Some("ToolCallFailed"));
        assert!(!failed.is_non_retryable());
    }

    #[test]
    fn a_call_that_was_not_sent_is_repeated_whatever_the_tool() {
        let unavailable = ToolError::Unavailable {
            server: "music".into(),
            retry_after: Some(RETRY),
            source: None,
            observed: None,
        };
        let failure = map(Err(unavailable), &target(false)).unwrap_err();
        assert_eq!(failure.type_name(), Some("McpServerUnavailable"));
        assert_eq!(failure.next_retry_delay(), Some(RETRY));
        assert!(failure.source().is_some());
    }

    #[test]
    fn the_callers_mistake_is_not_repeated() {
        let mut error = rmcp_error(-32602);
        error["message"] = json!("no such tool");
        let error = ToolError::Protocol {
            tool: "add".into(),
            error: Arc::new(serde_json::from_value(error).unwrap()),
            observed: None,
        };
        let failure = map(Err(error), &target(true)).unwrap_err();
        assert_eq!(failure.type_name(), Some("InvalidToolCall"));
        assert!(failure.is_non_retryable());
    }

    fn rmcp_error(code: i32) -> serde_json::Value {
        json!({ "code": code, "message": "" })
    }
}
