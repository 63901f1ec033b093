//! npm's server-everything, over stdio.

use serde_json::json;
use toolweir_mcp::ToolCall;
use toolweir_testkit::installed::Server;

use crate::{calls::tools, subject::Subject, until};

async fn subject() -> Option<Subject> {
    Subject::new(Server::Everything, |server| server.arg("stdio")).await
}

fn echo(message: &str) -> ToolCall {
    let arguments = json!({ "message": message });
    ToolCall::new("echo").try_arguments(&arguments).unwrap()
}

/// A call that takes `seconds`, in two steps.
fn operation(seconds: f64) -> ToolCall {
    let arguments = json!({ "duration": seconds, "steps": 2 });
    ToolCall::new("trigger-long-running-operation")
        .try_arguments(&arguments)
        .unwrap()
}

#[tokio::test]
async fn lists_its_tools() {
    let Some(subject) = subject().await else {
        return;
    };
    let tools = tools(&subject.mcp).await;
    for tool in ["echo", "get-sum", "trigger-long-running-operation"] {
        assert!(tools.iter().any(|name| name == tool), "{tools:?}");
    }
    let handle = subject.mcp.handle();
    assert!(handle.hints("echo").read_only);
    assert!(!handle.hints("toggle-simulated-logging").is_repeatable());
    subject.shut_down().await;
}

#[tokio::test]
async fn answers() {
    let Some(subject) = subject().await else {
        return;
    };
    assert_eq!(subject.answer(echo("hello")).await.text(), "Echo: hello");
    let sum = ToolCall::new("get-sum").try_arguments(&json!({ "a": 2, "b": 3 }));
    let sum = subject.answer(sum.unwrap()).await;
    assert_eq!(sum.text(), "The sum of 2 and 3 is 5.");
    let weather = ToolCall::new("get-structured-content")
        .try_arguments(&json!({ "location": "Chicago" }))
        .unwrap();
    #[derive(serde::Deserialize)]
    struct Weather {
        temperature: f64,
        conditions: String,
    }
    let weather: Weather = subject.answer(weather).await.into().unwrap();
    assert!(weather.temperature.is_finite() && !weather.conditions.is_empty());

    let unknown = subject.call(ToolCall::new("no-such-tool")).await.unwrap();
    assert!(unknown.is_error());
    assert_eq!(
        unknown.observation().outcome,
        toolweir_core::Outcome::Ignored
    );
    subject.shut_down().await;
}

/// It does not break off the work, but it withholds the answer.
#[tokio::test]
async fn is_told_of_a_cancelled_call() {
    let Some(subject) = subject().await else {
        return;
    };
    let number = subject
        .cancelled_while_stopped(operation(0.4), echo("next"))
        .await;
    until("the abandoned operation is at its end", async || {
        subject.wire.received().iter().any(|message| {
            let params = &message["params"];
            message["method"] == "notifications/progress" && params["progress"] == params["total"]
        })
    })
    .await;
    assert_eq!(subject.answer(echo("last")).await.text(), "Echo: last");
    assert!(!subject.wire.is_answered(&number));
    assert_eq!(subject.starts(), 1);
    subject.shut_down().await;
}

#[tokio::test]
async fn killed_under_a_call_it_is_started_anew() {
    if let Some(subject) = subject().await {
        subject.killed(operation(600.0), false, echo("next")).await;
    }
}
