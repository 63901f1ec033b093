//! npm's server-memory, over stdio.

use serde_json::json;
use tempfile::TempDir;
use toolweir_mcp::ToolCall;
use toolweir_testkit::installed::Server;

use crate::{calls::tools, subject::Subject};

/// A server with a memory of its own.
async fn subject() -> Option<(Subject, TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("memory.jsonl");
    let prepare = |server: toolweir_mcp::StdioServer| server.env("MEMORY_FILE_PATH", file);
    Some((Subject::new(Server::Memory, prepare).await?, directory))
}

fn create(name: &str) -> ToolCall {
    let entity = json!({ "name": name, "entityType": "artist", "observations": ["sings"] });
    ToolCall::new("create_entities")
        .try_arguments(&json!({ "entities": [entity] }))
        .unwrap()
}

#[derive(serde::Deserialize)]
struct Graph {
    entities: Vec<Entity>,
}

#[derive(serde::Deserialize)]
struct Entity {
    name: String,
}

async fn names(subject: &Subject) -> Vec<String> {
    let graph: Graph = subject
        .answer(ToolCall::new("read_graph"))
        .await
        .into()
        .unwrap();
    graph
        .entities
        .into_iter()
        .map(|entity| entity.name)
        .collect()
}

#[tokio::test]
async fn lists_its_tools() {
    let Some((subject, _directory)) = subject().await else {
        return;
    };
    let tools = tools(&subject.mcp).await;
    for tool in ["create_entities", "read_graph", "search_nodes"] {
        assert!(tools.iter().any(|name| name == tool), "{tools:?}");
    }
    let handle = subject.mcp.handle();
    assert!(handle.hints("read_graph").read_only);
    assert!(handle.hints("delete_entities").is_repeatable());
    assert!(!handle.hints("create_entities").is_repeatable());
    subject.shut_down().await;
}

#[tokio::test]
async fn answers() {
    let Some((subject, _directory)) = subject().await else {
        return;
    };
    assert!(names(&subject).await.is_empty());
    subject.answer(create("Björk")).await;
    assert_eq!(names(&subject).await, ["Björk"]);
    subject.shut_down().await;
}

#[tokio::test]
async fn is_told_of_a_cancelled_call() {
    let Some((subject, _directory)) = subject().await else {
        return;
    };
    let quick = ToolCall::new("read_graph");
    subject
        .cancelled_while_stopped(create("Björk"), quick)
        .await;
    subject.shut_down().await;
}

#[tokio::test]
async fn killed_under_a_call_it_is_started_anew() {
    if let Some((subject, _directory)) = subject().await {
        subject.answer(create("Björk")).await;
        let quick = ToolCall::new("read_graph");
        subject.killed(create("Sade"), true, quick).await;
    }
}
