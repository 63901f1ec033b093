//! npm's server-filesystem, over stdio.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;
use toolweir_core::Outcome;
use toolweir_mcp::ToolCall;
use toolweir_testkit::installed::Server;

use crate::{calls::tools, subject::Subject};

/// A server of a directory in which there is one file, `song.txt`.
async fn subject() -> Option<(Subject, TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("song.txt"), "la la la").unwrap();
    let subject = Subject::new(Server::Filesystem, |server| server.arg(directory.path())).await?;
    Some((subject, directory))
}

fn read(directory: &Path) -> ToolCall {
    let arguments = json!({ "path": directory.join("song.txt") });
    ToolCall::new("read_text_file")
        .try_arguments(&arguments)
        .unwrap()
}

#[tokio::test]
async fn lists_its_tools() {
    let Some((subject, _directory)) = subject().await else {
        return;
    };
    let tools = tools(&subject.mcp).await;
    for tool in ["read_text_file", "write_file", "list_directory"] {
        assert!(tools.iter().any(|name| name == tool), "{tools:?}");
    }
    let handle = subject.mcp.handle();
    assert!(handle.hints("read_text_file").read_only);
    assert!(handle.hints("write_file").idempotent);
    assert!(!handle.hints("move_file").is_repeatable());
    subject.shut_down().await;
}

#[tokio::test]
async fn answers() {
    let Some((subject, directory)) = subject().await else {
        return;
    };
    #[derive(serde::Deserialize)]
    struct File {
        content: String,
    }
    let read = subject.answer(read(directory.path())).await;
    assert_eq!(read.text(), "la la la");
    assert_eq!(read.into::<File>().unwrap().content, "la la la");

    let outside = ToolCall::new("read_text_file").try_arguments(&json!({ "path": "/etc/hosts" }));
    let outside = subject.call(outside.unwrap()).await.unwrap();
    assert!(outside.is_error());
    assert_eq!(outside.observation().outcome, Outcome::Ignored);
    subject.shut_down().await;
}

#[tokio::test]
async fn is_told_of_a_cancelled_call() {
    let Some((subject, directory)) = subject().await else {
        return;
    };
    let read = read(directory.path());
    subject.cancelled_while_stopped(read.clone(), read).await;
    subject.shut_down().await;
}

#[tokio::test]
async fn killed_under_a_call_it_is_started_anew() {
    if let Some((subject, directory)) = subject().await {
        let read = read(directory.path());
        subject.killed(read.clone(), true, read).await;
    }
}
