//! Servers that say what no server should: every call ends, what is told of it is short, and the next
//! call has its answer.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{error::Error, iter::successors, sync::Arc, time::Duration};

use proptest::{prelude::*, test_runner::RngAlgorithm};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex, split},
    runtime::Builder,
};
use toolweir_core::Outcome;
use toolweir_mcp::{McpService, TextRules, ToolCall, ToolError, ToolResponse};
use tower::ServiceExt as _;

/// As long as an error's words may be, escapes and all.
const LONGEST: usize = 8000;

/// What the server answers: to calls of all tools but `good`, and to `tools/list`.
#[derive(Debug, Clone)]
struct Script {
    /// A whole message, but for its `id`, which stands first.
    call: String,
    tools: Value,
}

impl Script {
    fn call(rest: impl Into<String>) -> Self {
        Self {
            call: rest.into(),
            tools: json!([]),
        }
    }

    fn answer(&self, request: &Value) -> Option<String> {
        let id = request.get("id")?;
        let result = match request["method"].as_str()? {
            "initialize" => json!({
                "protocolVersion": request["params"]["protocolVersion"],
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "hostile", "version": "1" },
            }),
            "tools/list" => json!({ "tools": self.tools }),
            _ if request["params"]["name"] != "good" => {
                return Some(format!(r#"{{"jsonrpc":"2.0","id":{id},{}}}"#, self.call));
            }
            _ => json!({ "content": [{ "type": "text", "text": "well" }] }),
        };
        Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string())
    }
}

fn connect(script: Arc<Script>) -> DuplexStream {
    let (ours, theirs) = duplex(1 << 16);
    tokio::spawn(async move {
        let (read, mut write) = split(theirs);
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let request = serde_json::from_str(&line).unwrap();
            if let Some(answer) = script.answer(&request) {
                let answer = format!("{answer}\n");
                if write.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    ours
}

fn service(script: Script) -> McpService {
    let script = Arc::new(script);
    let builder = McpService::builder("hostile").transport(move || {
        let stream = connect(script.clone());
        async move { Ok(stream) }
    });
    let builder = builder.text_rules(TextRules::common());
    builder
        .call_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

async fn call(mcp: &McpService, tool: &str) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(ToolCall::new(tool.to_owned())).await
}

/// The words of an error; of its sources only what a log would show of them.
fn assert_short(error: &(dyn Error + 'static)) {
    let shown = error.to_string();
    assert!(shown.len() <= LONGEST, "{} bytes: {shown}", shown.len());
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    let chain = successors(Some(error), |&error| error.source()).take(20);
    assert!(chain.count() < 20, "the sources of {shown} have no end");
    assert!(toolweir_core::error_text(error).len() <= LONGEST);
}

/// Calls the hostile tool, and one that is well.
async fn survives(script: Script) -> Result<ToolResponse, ToolError> {
    let mcp = service(script);
    let answer = call(&mcp, "hostile").await;
    match &answer {
        Ok(response) => {
            let response = response.clone();
            assert_throttled_for_an_hour_at_most(response.observation().outcome);
            if let Err(error) = response.into::<Vec<u64>>() {
                assert_short(&error);
                assert!(error.path().is_none_or(|path| path.len() <= LONGEST));
            }
        }
        Err(error) => {
            assert_throttled_for_an_hour_at_most(error.observation().outcome);
            assert_short(error);
        }
    }
    assert_eq!(call(&mcp, "good").await.unwrap().text(), "well");
    answer
}

fn assert_throttled_for_an_hour_at_most(outcome: Outcome) {
    if let Outcome::Throttled { retry_after } = outcome {
        assert!(retry_after.unwrap_or_default() <= Duration::from_secs(3600));
    }
}

fn on_a_paused_clock<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_goes_deep_ends_its_call() {
    for depth in [50, 200, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let structured = format!(r#""result":{{"content":[],"structuredContent":{deep}}}"#);
        let _ = survives(Script::call(structured)).await;
        let data = format!(r#""error":{{"code":-32603,"message":"x","data":{deep}}}"#);
        let _ = survives(Script::call(data)).await;
        let text = json!({ "content": [{ "type": "text", "text": deep }] });
        let _ = survives(Script::call(format!(r#""result":{text}"#))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn long_words_are_cut_where_they_are_told() {
    let long = "\u{1b}]0;owned\u{7}".repeat(100_000);
    let error = json!({ "code": -32603, "message": long, "data": { "retry_after": long } });
    let error = survives(Script::call(format!(r#""error":{error}"#)))
        .await
        .unwrap_err();
    assert!(matches!(error, ToolError::Protocol { .. }), "{error}");

    let result = json!({ "content": [], "structuredContent": { &long: [long] } });
    let response = survives(Script::call(format!(r#""result":{result}"#)))
        .await
        .unwrap();
    let error = response.into::<Vec<u8>>().unwrap_err();
    assert_short(&error);
}

#[tokio::test(start_paused = true)]
async fn digits_without_end_make_no_wait_without_end() {
    let digits = "9".repeat(100_000);
    for result in [
        format!(r#"{{"content":[],"isError":true,"structuredContent":{{"retry_after":"{digits}"}}}}"#),
        format!(r#"{{"content":[],"isError":true,"_meta":{{"retry_after":{}}}}}"#, "9".repeat(300)),
        json!({ "content": [{ "type": "text", "text": format!("429 retry after {digits}s") }], "isError": true })
            .to_string(),
    ] {
        let response = survives(Script::call(format!(r#""result":{result}"#))).await.unwrap();
        let outcome = response.observation().outcome;
        // A string of digits that long is no number of anything.
        let expected = matches!(outcome, Outcome::Throttled { .. } | Outcome::Ignored);
        assert!(expected, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_and_annotations_of_tools_are_the_servers_own_business() {
    let long = "\u{202e}\u{1b}[2J".repeat(50_000);
    let tools = json!([
        { "name": long, "inputSchema": {}, "annotations": { "readOnlyHint": true, "title": long } },
        { "name": "", "inputSchema": {} },
        { "name": "echo", "inputSchema": {}, "annotations": { "idempotentHint": true } },
        { "name": "echo", "inputSchema": {}, "annotations": { "idempotentHint": false } },
    ]);
    let mut script = Script::call(r#""error":{"code":-32602,"message":"no"}"#);
    script.tools = tools;
    let mcp = service(script);
    let handle = mcp.handle();
    handle.connect().await.unwrap();
    assert_eq!(handle.list_tools().await.unwrap().len(), 4);
    // Of two tools with one name nobody knows which is called.
    let _ = handle.hints("echo");
    assert_short(&call(&mcp, &long).await.unwrap_err());
    assert_eq!(call(&mcp, "good").await.unwrap().text(), "well");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_wants_more_of_the_caller_or_puts_it_off_says_so() {
    let wants = json!({ "resultType": "input_required", "requestState": "s" });
    let error = survives(Script::call(format!(r#""result":{wants}"#)));
    let error = error.await.unwrap_err();
    assert!(matches!(error, ToolError::InputRequired { .. }), "{error}");
    assert!(error.to_string().contains("hostile"), "{error}");

    let task = json!({
        "resultType": "task", "taskId": "t1", "status": "working", "ttlMs": null,
        "createdAt": "2026-07-28T00:00:00Z", "lastUpdatedAt": "2026-07-28T00:00:00Z",
    });
    let error = survives(Script::call(format!(r#""result":{task}"#)));
    let error = error.await.unwrap_err();
    assert!(matches!(error, ToolError::TaskReply { .. }), "{error}");
    assert!(error.to_string().contains("task"), "{error}");
}

#[test]
fn every_error_is_short_whatever_the_names_in_it() {
    let long: Arc<str> = "\u{1b}\u{202e}\n".repeat(100_000).into();
    let (server, tool, observed) = (long.clone(), long.clone(), None);
    let source = Arc::new(std::io::Error::other(long.to_string()));
    for error in [
        ToolError::ConnectionLost {
            server: server.clone(),
            tool: tool.clone(),
            observed,
        },
        ToolError::InputRequired {
            tool: tool.clone(),
            observed,
        },
        ToolError::TaskReply {
            tool: tool.clone(),
            observed,
        },
        ToolError::Unavailable {
            server: server.clone(),
            retry_after: None,
            source: None,
            observed,
        },
        ToolError::TooLarge {
            server: server.clone(),
            tool: tool.clone(),
            limit: 1,
            observed,
        },
        ToolError::TimedOut {
            tool: tool.clone(),
            after: Duration::MAX,
            delivery: toolweir_core::Delivery::Ambiguous,
            observed,
        },
        ToolError::Http {
            server: server.clone(),
            tool,
            status: 429,
            retry_after: Some(Duration::MAX),
            source: source.clone(),
            observed,
        },
        ToolError::Transport {
            server,
            delivery: toolweir_core::Delivery::Ambiguous,
            source,
            observed,
        },
    ] {
        assert_short(&error);
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("content".to_owned()),
        Just("isError".to_owned()),
        Just("structuredContent".to_owned()),
        Just("_meta".to_owned()),
        Just("code".to_owned()),
        Just("message".to_owned()),
        Just("data".to_owned()),
        Just("retry_after".to_owned()),
        Just("status".to_owned()),
        Just("type".to_owned()),
        Just("text".to_owned()),
        "[a-z]{0,6}",
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_answered_the_call_ends_and_the_next_is_well(
        kind in "(result|error)",
        answer in json(),
    ) {
        let _ = on_a_paused_clock(survives(Script::call(format!(r#""{kind}":{answer}"#))));
    }

    #[test]
    fn what_is_no_message_at_all_ends_the_call_too(garbage in "[ -~]{0,200}") {
        let _ = on_a_paused_clock(survives(Script::call(garbage)));
    }
}
