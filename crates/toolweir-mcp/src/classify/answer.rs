//! What answers say: results, errors of JSON-RPC, HTTP statuses.

use std::time::Duration;

use rmcp::model::{CallToolResult, ErrorData};
use serde_json::{Map, Value};
use toolweir_core::{Delivery, Observation, Outcome};

use super::{TextRules, retry_after};

/// JSON-RPC's own codes for a request that is wrong.
const CALLERS_MISTAKE: [i32; 3] = [-32600, -32601, -32602];
/// Words for a rate limit, as programs read them.
const RATE_LIMIT_WORDS: [&str; 3] = ["rate_limited", "rate_limit_exceeded", "too_many_requests"];
/// Codes proposed for rate limits.
const RATE_LIMITED: [i32; 2] = [-32004, -32023];

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
    let answered = |outcome| Observation::new(outcome, Delivery::Executed);
    if !is_error {
        return answered(Outcome::Success);
    }
    let told = [structured, meta].into_iter().flatten().find_map(of_fields);
    if let Some(outcome) = told {
        return Observation::new(outcome, delivery_of(outcome));
    }
    // Words are no refusal: the tool has run, and they may be about what it did.
    answered(rules.read(text).unwrap_or(Outcome::Ignored))
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

/// A server that throttles or rejects the credential, in the fields that are made for it, says that it
/// did not do the work.
const fn delivery_of(outcome: Outcome) -> Delivery {
    match outcome {
        Outcome::Throttled { .. } | Outcome::Unauthorized => Delivery::NotSent,
        _ => Delivery::Executed,
    }
}

fn of_fields(fields: &Map<String, Value>) -> Option<Outcome> {
    let retry_after = retry_after::in_fields(fields);
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

/// What an HTTP status that is no success says.
pub(crate) const fn of_http_status(status: u16, retry_after: Option<Duration>) -> Observation {
    let (outcome, delivery) = match status {
        // 503: overloaded, and it says for how long.
        429 => (Outcome::Throttled { retry_after }, Delivery::NotSent),
        503 if retry_after.is_some() => (Outcome::Throttled { retry_after }, Delivery::NotSent),
        401 | 403 => (Outcome::Unauthorized, Delivery::NotSent),
        // Nobody serves MCP at that address, or not at the moment: a wrong URL, a proxy that wants a
        // password (407), a deployment under way. Whoever calls has made no mistake.
        404 | 405 | 407 | 410 | 421 | 425 => (Outcome::Failure, Delivery::NotSent),
        // The time for reading the request was over. Some proxies say so after they have passed it on.
        408 => (Outcome::Failure, Delivery::Ambiguous),
        // This request was read and rejected: its form (400, 411, 415), its size (413, 431), what it
        // asks for (402, 406, 409, 412, 422, 451). The next one may fare better.
        400..=499 => (Outcome::Ignored, Delivery::NotSent),
        // A server that failed may have failed halfway; a proxy (502, 504) does not know. A redirect
        // that is not followed may be how the server answers what it has done (303).
        _ => (Outcome::Failure, Delivery::Ambiguous),
    };
    Observation::new(outcome, delivery)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::classify::tests::quick;

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

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::ANY.prop_map(|number| json!(number)),
            ".{0,40}".prop_map(Value::from),
            "[0-9.eE+-]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{0,12}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn a_tool_that_failed_and_asks_for_no_wait_was_executed() {
        let failed = json!({
            "content": [], "isError": true,
            "structuredContent": { "error": "no such playlist", "retry_after": 0 },
        });
        assert_eq!(
            of_result(&result(failed), "", &TextRules::none()),
            Observation::new(Outcome::Ignored, Delivery::Executed)
        );
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
        let read = of_result(&error, text, &TextRules::common());
        assert_eq!(read.delivery, Delivery::Executed, "words are no refusal");
        let success = result(json!({ "content": [] }));
        let read = of_result(&success, text, &TextRules::common());
        assert_eq!(read.outcome, Outcome::Success);
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

    #[test]
    fn http_statuses() {
        let wait = Some(Duration::from_secs(2));
        let throttled = |retry_after| (Outcome::Throttled { retry_after }, Delivery::NotSent);
        let failed = |delivery| (Outcome::Failure, delivery);
        for (status, retry_after, expected) in [
            (429, None, throttled(None)),
            (429, wait, throttled(wait)),
            (503, wait, throttled(wait)),
            (503, None, failed(Delivery::Ambiguous)),
            (500, wait, failed(Delivery::Ambiguous)),
            (504, None, failed(Delivery::Ambiguous)),
            (303, None, failed(Delivery::Ambiguous)),
            (401, None, (Outcome::Unauthorized, Delivery::NotSent)),
            (403, None, (Outcome::Unauthorized, Delivery::NotSent)),
            (404, None, failed(Delivery::NotSent)),
            (408, None, failed(Delivery::Ambiguous)),
            (400, None, (Outcome::Ignored, Delivery::NotSent)),
            (413, None, (Outcome::Ignored, Delivery::NotSent)),
        ] {
            let said = of_http_status(status, retry_after);
            assert_eq!((said.outcome, said.delivery), expected, "{status}");
        }
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_data_stops_the_reader_of_json_rpc(
            code in any::<i32>(),
            key in "(retry_after|retryAfterMs|retry_after_seconds|status|code|error|[a-z]{0,8})",
            value in json(),
        ) {
            for data in [value.clone(), json!({ &key: value }), json!({ "status": 503, &key: value })] {
                let mut error = ErrorData::internal_error("x", Some(data));
                error.code.0 = code;
                let Observation { outcome, delivery } = of_rpc_error(&error);
                if let Outcome::Throttled { retry_after } = outcome {
                    prop_assert!(retry_after.unwrap_or_default() <= Duration::from_secs(3600));
                    prop_assert_eq!(delivery, Delivery::NotSent);
                }
            }
        }

        #[test]
        fn no_status_is_a_success(status in any::<u16>()) {
            prop_assert_ne!(of_http_status(status, None).outcome, Outcome::Success);
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
            let answer = result(json!({ "content": [], "isError": true }));
            let text = format!("429 {text}");
            let observed = of_result(&answer, &text, &TextRules::common());
            prop_assert_eq!(observed.delivery, Delivery::Executed);
        }
    }
}
