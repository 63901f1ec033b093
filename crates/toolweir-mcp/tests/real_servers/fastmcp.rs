//! A script on PyPI's fastmcp, over stdio.

use std::{path::Path, time::Duration};

use serde_json::json;
use toolweir_core::{Delivery, Observation, Outcome};
use toolweir_mcp::{TextRules, ToolCall};
use toolweir_testkit::installed::Server;

use crate::{calls::tools, subject::Subject, until};

async fn subject() -> Option<Subject> {
    Subject::new(Server::FastMcp, |server| server).await
}

fn add(a: i64, b: i64) -> ToolCall {
    ToolCall::new("add")
        .try_arguments(&json!({ "a": a, "b": b }))
        .unwrap()
}

/// A call that does not end. It leaves files in `directory`.
fn hang(directory: &Path) -> ToolCall {
    let arguments = json!({ "directory": directory });
    ToolCall::new("hang").try_arguments(&arguments).unwrap()
}

#[tokio::test]
async fn lists_its_tools() {
    let Some(subject) = subject().await else {
        return;
    };
    assert_eq!(
        tools(&subject.mcp).await,
        ["add", "throttled", "hang", "progress"]
    );
    let handle = subject.mcp.handle();
    assert!(handle.hints("add").read_only);
    assert!(!handle.hints("hang").is_repeatable());
    subject.shut_down().await;
}

#[tokio::test]
async fn answers() {
    let Some(subject) = subject().await else {
        return;
    };
    #[derive(serde::Deserialize)]
    struct Sum {
        result: i64,
    }
    let sum: Sum = subject.answer(add(2, 3)).await.into().unwrap();
    assert_eq!(sum.result, 5);
    subject.shut_down().await;
}

/// An exception becomes a text, which counts where text rules are set and there alone.
#[tokio::test]
async fn a_rate_limit_in_a_text_counts_where_text_rules_are_set() {
    let throttled = Outcome::Throttled {
        retry_after: Some(Duration::from_secs(3)),
    };
    for (rules, expected) in [
        (
            TextRules::common(),
            Observation::new(throttled, Delivery::Executed),
        ),
        (
            TextRules::none(),
            Observation::new(Outcome::Ignored, Delivery::Executed),
        ),
    ] {
        let configure = |builder: toolweir_mcp::McpServiceBuilder| builder.text_rules(rules);
        let subject = Subject::with(Server::FastMcp, |server| server, configure).await;
        let Some(subject) = subject else {
            return;
        };
        let answer = subject.call(ToolCall::new("throttled")).await.unwrap();
        assert!(answer.is_error());
        assert!(
            answer.text().contains("429 Too Many Requests"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.observation(), expected);
        subject.shut_down().await;
    }
}

/// It breaks off the work.
#[tokio::test]
async fn is_told_of_a_cancelled_call() {
    let Some(subject) = subject().await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let there = |file: &str| directory.path().join(file).exists();
    let (abandoned, _) = subject.begin(hang(directory.path())).await;
    until("the tool runs", async || there("started")).await;
    assert!(!there("cancelled"));
    abandoned.abort();
    until("the tool was cancelled", async || there("cancelled")).await;
    subject.answer(add(2, 3)).await;
    assert_eq!(subject.starts(), 1);
    subject.shut_down().await;
}

#[tokio::test]
async fn killed_under_a_call_it_is_started_anew() {
    if let Some(subject) = subject().await {
        let directory = tempfile::tempdir().unwrap();
        subject
            .killed(hang(directory.path()), false, add(2, 3))
            .await;
    }
}
