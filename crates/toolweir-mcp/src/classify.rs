//! What a result says about the server: computed once, where the answer arrives.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rmcp::{
    ServiceError,
    model::{CallToolResult, ErrorData},
};
use serde_json::{Map, Value};
use toolweir_core::{Classify, Delivery, Observation, Outcome};

use crate::{ToolError, ToolResponse, connection::is_loss};

/// No server's word counts for longer than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// How much of a text the text rules read.
const LONGEST_TEXT: usize = 2000;
/// JSON-RPC's own codes for a request that is wrong.
const CALLERS_MISTAKE: [i32; 3] = [-32600, -32601, -32602];
/// Words for a rate limit, as programs read them.
const RATE_LIMIT_WORDS: [&str; 3] = ["rate_limited", "rate_limit_exceeded", "too_many_requests"];
/// Codes proposed for rate limits.
const RATE_LIMITED: [i32; 2] = [-32004, -32023];

/// Reads the observation that [`McpService`](crate::McpService) stored in the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct McpClassifier;

impl Classify<ToolResponse, ToolError> for McpClassifier {
    fn classify(&self, result: Result<&ToolResponse, &ToolError>) -> Observation {
        match result {
            Ok(response) => response.observation(),
            Err(error) => error.observation(),
        }
    }
}

/// Rules for servers that tell of a rate limit in text alone, such as `429 Too Many Requests: retry
/// after 3s`. Off unless a server is known to need them: a song may be called "Rate Limit".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextRules {
    throttled: Vec<Arc<str>>,
}

impl TextRules {
    /// No rules.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            throttled: Vec::new(),
        }
    }

    /// The words that rate-limited servers use: `429`, `too many requests`, `rate limit`.
    #[must_use]
    pub fn common() -> Self {
        Self::none()
            .throttled("429")
            .throttled("too many requests")
            .throttled("rate limit")
    }

    /// An error whose text holds `words`, in any case, is a rate limit.
    #[must_use]
    pub fn throttled(mut self, words: impl AsRef<str>) -> Self {
        self.throttled.push(words.as_ref().to_lowercase().into());
        self
    }

    fn read(&self, text: &str) -> Option<Outcome> {
        if self.throttled.is_empty() {
            return None;
        }
        let text: String = text
            .chars()
            .take(LONGEST_TEXT)
            .collect::<String>()
            .to_lowercase();
        let throttled = self.throttled.iter().any(|words| text.contains(&**words));
        throttled.then(|| Outcome::Throttled {
            retry_after: retry_after_in(&text),
        })
    }
}

/// What became of a call that rmcp answers with an error. A date to come back is read at `now`.
pub(crate) fn of_service_error(
    server: &Arc<str>,
    tool: &Arc<str>,
    error: ServiceError,
    now: SystemTime,
) -> ToolError {
    let _ = now;
    match error {
        ServiceError::McpError(error) => ToolError::Protocol {
            tool: tool.clone(),
            error: Arc::new(error),
        },
        error if is_loss(&error) => ToolError::ConnectionLost {
            server: server.clone(),
            tool: tool.clone(),
        },
        error => ToolError::Transport {
            server: server.clone(),
            delivery: Delivery::Ambiguous,
            source: Arc::new(error),
        },
    }
}

/// Whether the server has answered that it does not know the session, so that the call was not made.
pub(crate) const fn is_session_lost(error: &ServiceError) -> bool {
    let _ = error;
    false
}

/// What an HTTP status that is no success says.
pub(crate) const fn of_http_status(status: u16, retry_after: Option<Duration>) -> Observation {
    let outcome = match status {
        429 => Outcome::Throttled { retry_after },
        // Overloaded, and it says for how long.
        503 if retry_after.is_some() => Outcome::Throttled { retry_after },
        401 | 403 => Outcome::Unauthorized,
        // The server gave up waiting for a request that may have come in whole.
        408 | 500..=599 => return Observation::new(Outcome::Failure, Delivery::Ambiguous),
        _ => Outcome::Ignored,
    };
    Observation::new(outcome, Delivery::NotSent)
}

/// What a tool's result says. `isError` alone is the caller's mistake or a business error.
pub(crate) fn of_result(result: &CallToolResult, text: &str, rules: &TextRules) -> Observation {
    let meta = result.meta.as_ref().map(|meta| &meta.0);
    let structured = result
        .structured_content
        .as_ref()
        .and_then(Value::as_object);
    let is_error = result.is_error.unwrap_or(false);
    // A business's own data may have a field called `status`, and a server that did the work may
    // still ask for a pause: to call that throttled would have it done twice.
    let outcome = if is_error {
        let told = [structured, meta].into_iter().flatten().find_map(of_fields);
        let told = told.or_else(|| rules.read(text));
        told.unwrap_or(Outcome::Ignored)
    } else {
        Outcome::Success
    };
    Observation::new(outcome, delivery_of(outcome))
}

/// What a JSON-RPC error says. `None`: nothing that is known, so the call failed.
pub(crate) fn of_rpc_error(error: &ErrorData) -> Observation {
    let fields = error.data.as_ref().and_then(Value::as_object);
    let code = error.code.0;
    let outcome = match fields.and_then(of_fields) {
        Some(outcome) => outcome,
        None if RATE_LIMITED.contains(&code) => Outcome::Throttled { retry_after: None },
        None if CALLERS_MISTAKE.contains(&code) => Outcome::Ignored,
        None => Outcome::Failure,
    };
    Observation::new(outcome, delivery_of(outcome))
}

/// A server that throttles or rejects the credential says that it did not do the work.
const fn delivery_of(outcome: Outcome) -> Delivery {
    match outcome {
        Outcome::Throttled { .. } | Outcome::Unauthorized => Delivery::NotSent,
        _ => Delivery::Executed,
    }
}

fn of_fields(fields: &Map<String, Value>) -> Option<Outcome> {
    let retry_after = retry_after_of(fields);
    // A `status` may be a word, with the number in `code`.
    let status = ["status", "code"]
        .iter()
        .find_map(|name| fields.get(*name).and_then(Value::as_u64));
    match status {
        Some(429) => return Some(Outcome::Throttled { retry_after }),
        Some(401) => return Some(Outcome::Unauthorized),
        // Overloaded, and it says for how long.
        Some(503) if retry_after.is_some() => return Some(Outcome::Throttled { retry_after }),
        Some(500..=599) => return Some(Outcome::Failure),
        _ => {}
    }
    let word = fields.get("error").and_then(Value::as_str);
    let limited = word.is_some_and(|word| RATE_LIMIT_WORDS.contains(&word));
    (limited || retry_after.is_some()).then_some(Outcome::Throttled { retry_after })
}

/// The field names that servers use, with their units.
fn retry_after_of(fields: &Map<String, Value>) -> Option<Duration> {
    let seconds = [
        "retry_after",
        "retryAfter",
        "retry_after_seconds",
        "retryAfterSeconds",
    ];
    let millis = ["retry_after_ms", "retryAfterMs"];
    let read = |names: &[&str], unit: f64| {
        names
            .iter()
            .find_map(|name| fields.get(*name).and_then(number))
            .and_then(|value| bounded(value * unit))
    };
    read(&millis, 1e-3).or_else(|| read(&seconds, 1.0))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.len() <= 32 => text.trim().parse().ok(),
        _ => None,
    }
}

/// A duration from a server's number of seconds: neither negative, nor endless, nor no number.
pub(crate) fn bounded_by(seconds: f64, longest: Duration) -> Option<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(longest.as_secs_f64())).ok()
}

fn bounded(seconds: f64) -> Option<Duration> {
    bounded_by(seconds, LONGEST_RETRY_AFTER)
}

/// The time in `retry after 3s`, `retry after 1.5 seconds` or `retry after 250ms`, in lower case.
fn retry_after_in(text: &str) -> Option<Duration> {
    let rest = ["retry after", "retry-after:", "retry in"]
        .iter()
        .find_map(|words| text.split_once(words))?
        .1
        .trim_start();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let value: f64 = rest[..digits].parse().ok()?;
    let unit = rest[digits..].trim_start();
    let unit = if unit.starts_with("ms") || unit.starts_with("millis") {
        1e-3
    } else if unit.starts_with("min") || (unit.starts_with('m') && !unit.starts_with("mo")) {
        60.0
    } else {
        1.0
    };
    bounded(value * unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn result(value: Value) -> CallToolResult {
        serde_json::from_value(value).unwrap()
    }

    fn outcome(value: Value) -> Outcome {
        of_result(&result(value), "", &TextRules::none()).outcome
    }

    fn throttled(millis: u64) -> Outcome {
        Outcome::Throttled {
            retry_after: Some(Duration::from_millis(millis)),
        }
    }

    #[test]
    fn an_error_alone_is_the_callers() {
        assert_eq!(
            outcome(json!({ "content": [], "isError": true })),
            Outcome::Ignored
        );
        assert_eq!(outcome(json!({ "content": [] })), Outcome::Success);
    }

    #[test]
    fn a_structured_rate_limit_is_throttled_for_its_time() {
        for (fields, millis) in [
            (json!({ "status": 429, "retry_after_ms": 250 }), 250),
            (json!({ "status": 429, "retry_after": 3 }), 3000),
            (json!({ "retryAfterMs": "40" }), 40),
            (json!({ "retry_after_seconds": 1.5 }), 1500),
            (json!({ "status": 503, "retry_after": 2 }), 2000),
            (
                json!({ "status": "error", "code": 429, "retry_after": 1 }),
                1000,
            ),
        ] {
            let result = json!({ "content": [], "isError": true, "structuredContent": fields });
            assert_eq!(outcome(result), throttled(millis));
        }
    }

    #[test]
    fn a_rate_limit_in_meta_counts_with_an_error_alone() {
        let error = json!({ "content": [], "isError": true, "_meta": { "retry_after": 1 } });
        assert_eq!(outcome(error), throttled(1000));
        let done = json!({ "content": [], "_meta": { "retry_after": 1 } });
        assert_eq!(outcome(done), Outcome::Success);
    }

    #[test]
    fn a_word_for_a_rate_limit_counts_as_its_status_does() {
        let fields = json!({ "error": "rate_limited" });
        let error = json!({ "content": [], "isError": true, "structuredContent": fields });
        assert_eq!(outcome(error), Outcome::Throttled { retry_after: None });
    }

    #[test]
    fn a_field_of_a_successful_answer_is_business() {
        let result = json!({ "content": [], "structuredContent": { "status": 429 } });
        assert_eq!(outcome(result), Outcome::Success);
    }

    #[test]
    fn the_other_statuses() {
        for (status, expected) in [
            (401, Outcome::Unauthorized),
            (500, Outcome::Failure),
            (503, Outcome::Failure),
            (404, Outcome::Ignored),
        ] {
            for fields in [
                json!({ "status": status }),
                json!({ "code": status }),
                json!({ "status": "error", "code": status }),
            ] {
                let result = json!({ "content": [], "isError": true, "structuredContent": fields });
                assert_eq!(outcome(result), expected);
            }
        }
    }

    #[test]
    fn a_throttled_call_was_not_executed_and_a_failed_one_was() {
        let fields = json!({ "status": 429 });
        let answer = result(json!({ "content": [], "isError": true, "structuredContent": fields }));
        let observed = of_result(&answer, "", &TextRules::none());
        assert_eq!(observed.delivery, Delivery::NotSent);
    }

    #[test]
    fn text_counts_only_where_rules_say_so() {
        let text = "429 Too Many Requests: retry after 3s";
        let error = result(json!({ "content": [], "isError": true }));
        let with = |rules: &TextRules| of_result(&error, text, rules).outcome;
        assert_eq!(with(&TextRules::none()), Outcome::Ignored);
        assert_eq!(with(&TextRules::common()), throttled(3000));
        let success = result(json!({ "content": [] }));
        let read = of_result(&success, text, &TextRules::common());
        assert_eq!(read.outcome, Outcome::Success);
    }

    #[test]
    fn times_in_text() {
        for (text, expected) in [
            ("retry after 3s", Some(3000)),
            ("retry after 1.5 seconds", Some(1500)),
            ("retry after 250ms", Some(250)),
            ("retry after 2m", Some(120_000)),
            ("retry-after: 7", Some(7000)),
            ("retry after never", None),
            ("retry after 1.2.3s", None),
            ("retry after 99999999999999s", Some(3_600_000)),
        ] {
            assert_eq!(
                retry_after_in(text),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn codes_of_json_rpc() {
        let error = |code, data: Option<Value>| {
            let mut error = ErrorData::internal_error("x", data);
            error.code.0 = code;
            of_rpc_error(&error).outcome
        };
        assert_eq!(error(-32602, None), Outcome::Ignored);
        assert_eq!(error(-32603, None), Outcome::Failure);
        assert_eq!(
            error(-32004, None),
            Outcome::Throttled { retry_after: None }
        );
        let data = json!({ "retry_after_seconds": 2 });
        assert_eq!(error(-32603, Some(data)), throttled(2000));
    }

    proptest! {
        #[test]
        fn no_number_makes_an_impossible_wait(seconds in prop::num::f64::ANY) {
            if let Some(wait) = bounded(seconds) {
                prop_assert!(wait <= LONGEST_RETRY_AFTER);
            }
        }

        #[test]
        fn no_text_stops_the_text_rules(text in ".{0,3000}") {
            let _ = TextRules::common().read(&text);
        }

        #[test]
        fn no_fields_stop_the_classifier(
            key in "(retry_after|retryAfterMs|status|code|[a-z]{0,8})",
            number in prop::num::f64::ANY,
            text in ".{0,64}",
        ) {
            for value in [json!(number), json!(text), json!([text]), json!({ &key: number })] {
                let fields = json!({ &key: value });
                let answer = json!({
                    "content": [], "isError": true, "structuredContent": fields, "_meta": fields
                });
                let _ = of_result(&result(answer), &text, &TextRules::common());
            }
        }
    }
}
