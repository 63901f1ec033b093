//! PyPI's mcp-server-time, over stdio.

use serde_json::json;
use toolweir_core::Outcome;
use toolweir_mcp::ToolCall;
use toolweir_testkit::installed::Server;

use crate::{calls::tools, subject::Subject};

async fn subject() -> Option<Subject> {
    Subject::new(Server::Time, |server| server).await
}

fn now(timezone: &str) -> ToolCall {
    ToolCall::new("get_current_time")
        .try_arguments(&json!({ "timezone": timezone }))
        .unwrap()
}

#[tokio::test]
async fn lists_its_tools() {
    let Some(subject) = subject().await else {
        return;
    };
    let tools = tools(&subject.mcp).await;
    assert_eq!(tools, ["get_current_time", "convert_time"]);
    assert!(subject.mcp.handle().hints("convert_time").read_only);
    subject.shut_down().await;
}

#[tokio::test]
async fn answers() {
    let Some(subject) = subject().await else {
        return;
    };
    #[derive(serde::Deserialize)]
    struct Now {
        timezone: String,
        datetime: String,
    }
    let now_in_tokyo: Now = subject.answer(now("Asia/Tokyo")).await.into().unwrap();
    assert_eq!(now_in_tokyo.timezone, "Asia/Tokyo");
    assert!(
        now_in_tokyo.datetime.ends_with("+09:00"),
        "{}",
        now_in_tokyo.datetime
    );

    let nowhere = subject.call(now("Nowhere/At all")).await.unwrap();
    assert!(nowhere.is_error());
    assert_eq!(nowhere.observation().outcome, Outcome::Ignored);
    subject.shut_down().await;
}

#[tokio::test]
async fn is_told_of_a_cancelled_call() {
    let Some(subject) = subject().await else {
        return;
    };
    subject
        .cancelled_while_stopped(now("Asia/Tokyo"), now("Etc/UTC"))
        .await;
    subject.shut_down().await;
}

#[tokio::test]
async fn killed_under_a_call_it_is_started_anew() {
    if let Some(subject) = subject().await {
        subject
            .killed(now("Asia/Tokyo"), true, now("Etc/UTC"))
            .await;
    }
}
