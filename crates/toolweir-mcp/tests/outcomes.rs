//! What servers say, from their answer to the layers' one outcome.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use serde_json::json;
use toolweir_core::{Delivery, Observation, Outcome};
use toolweir_mcp::{
    McpService, McpServiceBuilder, StdioServer, TextRules, ToolCall, ToolError, ToolResponse,
    may_repeat,
};
use toolweir_testkit::mcp::{Answer, ScriptedServer, example_program};
use tower::ServiceExt as _;

fn builder(server: &ScriptedServer) -> McpServiceBuilder {
    let server = server.clone();
    McpService::builder("music").transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    })
}

async fn call(mcp: &McpService, call: ToolCall) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(call).await
}

async fn observed(mcp: &McpService, tool: &'static str) -> Observation {
    let response = call(mcp, ToolCall::new(tool)).await.unwrap();
    response.observation()
}

const fn throttled(millis: u64) -> Outcome {
    Outcome::Throttled {
        retry_after: Some(Duration::from_millis(millis)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_an_answer_with_its_time() {
    let mcp = builder(&ScriptedServer::new()).build().unwrap();
    let throttle = ToolCall::new("throttle").try_arguments(&json!({ "retry_after_ms": 250 }));
    let response = call(&mcp, throttle.unwrap()).await.unwrap();
    assert!(response.is_error());
    assert_eq!(response.retry_after(), Some(Duration::from_millis(250)));
    let expected = Observation::new(throttled(250), Delivery::NotSent);
    assert_eq!(response.observation(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_in_text_needs_rules() {
    let server = ScriptedServer::new();
    let without = builder(&server).build().unwrap();
    let expected = Observation::new(Outcome::Ignored, Delivery::Executed);
    assert_eq!(observed(&without, "text_throttle").await, expected);
    let with = builder(&server).text_rules(TextRules::common());
    let with = with.build().unwrap();
    // The tool has run: whether it may be called again is the tool's matter.
    let expected = Observation::new(throttled(3000), Delivery::Executed);
    assert_eq!(observed(&with, "text_throttle").await, expected);
    let hints = with.handle().hints("text_throttle");
    assert!(!may_repeat(expected.delivery, hints), "{hints:?}");
}

#[tokio::test(start_paused = true)]
async fn a_callers_mistake_says_nothing_of_the_server() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    server.script([Answer::Error { code: -32602 }]);
    for tool in ["echo", "no_such_tool"] {
        let error = call(&mcp, ToolCall::new(tool)).await.unwrap_err();
        assert!(matches!(error, ToolError::Protocol { .. }), "{error:?}");
        assert_eq!(error.observation().outcome, Outcome::Ignored);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_unauthorized_until_it_is_renewed() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    server.expire_token();
    let expected = Observation::new(Outcome::Unauthorized, Delivery::NotSent);
    assert_eq!(observed(&mcp, "guarded").await, expected);
    observed(&mcp, "refresh_token").await;
    assert_eq!(observed(&mcp, "guarded").await.outcome, Outcome::Success);
}

#[tokio::test(start_paused = true)]
async fn annotations_are_hints_and_configuration_goes_before_them() {
    let server = ScriptedServer::new();
    let said = builder(&server).build().unwrap().handle();
    said.connect().await.unwrap();
    let (echo, add) = (said.hints("echo"), said.hints("add"));
    assert!(echo.read_only && !echo.idempotent);
    assert!(add.idempotent && !add.read_only);
    assert!(!said.hints("fail").is_repeatable());
    assert!(!said.hints("no_such_tool").is_repeatable());

    let told = builder(&server)
        .repeatable("add", false)
        .repeatable("fail", true);
    let told = told.build().unwrap().handle();
    for connected in [false, true] {
        if connected {
            told.connect().await.unwrap();
        }
        assert!(!may_repeat(Delivery::Ambiguous, told.hints("add")));
        assert!(may_repeat(Delivery::Ambiguous, told.hints("fail")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_one_effect_of_two_attempts() {
    let server = ScriptedServer::new();
    server.script_tool("add", [Answer::DieAfter]);
    let mcp = builder(&server).build().unwrap();
    let add = ToolCall::new("add")
        .try_arguments(&json!({ "key": "anna" }))
        .unwrap()
        .with_idempotency_key("anna/t1");
    let error = call(&mcp, add.clone()).await.unwrap_err();
    let delivery = error.observation().delivery;
    assert_eq!(delivery, Delivery::Ambiguous);
    assert!(may_repeat(delivery, mcp.handle().hints("add")));
    let again: serde_json::Value = call(&mcp, add).await.unwrap().into().unwrap();
    assert_eq!(again["applied"], false);
    let stats = server.stats();
    assert_eq!(stats.effects_of("anna"), 1);
    assert_eq!(stats.idempotency_keys["anna/t1"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_of_ones_own_goes_first() {
    let server = ScriptedServer::new();
    server.script_tool("echo", [Answer::Error { code: -32603 }]);
    let said = Observation::new(throttled(70), Delivery::Executed);
    let mcp = builder(&server)
        .text_rules(TextRules::common())
        .classify_with(move |answer| match (answer.tool, answer.result) {
            ("fail", Ok(result)) if result.is_error == Some(true) => Some(said),
            ("echo", Err(ToolError::Protocol { .. })) => Some(said),
            _ => None,
        })
        .build()
        .unwrap();
    assert_eq!(observed(&mcp, "fail").await, said);
    let error = call(&mcp, ToolCall::new("echo")).await.unwrap_err();
    assert_eq!(error.observation(), said);
    assert_eq!(error.retry_after(), Some(Duration::from_millis(70)));
    // What it says nothing of is read as ever, the text rules among it.
    assert_eq!(
        observed(&mcp, "text_throttle").await.outcome,
        throttled(3000)
    );
    assert_eq!(observed(&mcp, "echo").await.outcome, Outcome::Success);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_harms_no_call() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).classify_with(|_| panic!("a bug")).build();
    let mcp = mcp.unwrap();
    assert_eq!(observed(&mcp, "echo").await.outcome, Outcome::Success);
    let error = call(&mcp, ToolCall::new("no_such_tool")).await.unwrap_err();
    assert_eq!(error.observation().outcome, Outcome::Ignored);
}

#[cfg(unix)]
#[tokio::test]
async fn of_many_calls_the_one_with_too_large_an_answer_fails_alone() {
    let limit = 64 * 1024;
    let mcp = McpService::builder("music")
        .stdio(StdioServer::new(example_program("misbehaving_server")))
        .max_response_bytes(limit)
        .build()
        .unwrap();
    let echo = |bytes: usize| {
        let arguments = json!({ "text": "x".repeat(bytes) });
        let echo = ToolCall::new("echo").try_arguments(&arguments).unwrap();
        call(&mcp, echo.with_timeout(Duration::from_secs(30)))
    };
    let (small, large, other) = tokio::join!(echo(1000), echo(limit), echo(2000));
    assert_eq!(
        small.unwrap().structured().unwrap()["text"],
        "x".repeat(1000)
    );
    assert_eq!(
        other.unwrap().structured().unwrap()["text"],
        "x".repeat(2000)
    );
    let error = large.unwrap_err();
    assert!(
        matches!(error, ToolError::TooLarge { limit: told, .. } if told == limit),
        "{error:?}"
    );
    let expected = Observation::new(Outcome::Ignored, Delivery::Executed);
    assert_eq!(error.observation(), expected);
    assert!(error.to_string().contains("65536 bytes"), "{error}");
    echo(1).await.unwrap();
    assert_eq!(mcp.handle().state().starts, 1);
}
