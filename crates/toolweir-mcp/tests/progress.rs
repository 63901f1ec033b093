//! Progress of a call: it reaches the caller, and keeps the call alive.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, advance},
};
use toolweir_core::Delivery;
use toolweir_mcp::{McpService, McpServiceBuilder, ToolCall, ToolError};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

const SECOND: Duration = Duration::from_secs(1);

fn builder(server: &ScriptedServer) -> McpServiceBuilder {
    let server = server.clone();
    McpService::builder("music").transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    })
}

/// A call that reports each second, so many times.
fn reporting(steps: u32) -> ToolCall {
    ToolCall::new("progress")
        .try_arguments(&json!({ "steps": steps, "every_ms": 1000 }))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_the_caller() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    let (progress, mut reports) = watch::channel(None);
    let call = tokio::spawn(mcp.oneshot(reporting(3).with_progress(progress)));
    let mut seen = Vec::new();
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone().unwrap();
        seen.push((report.done, report.total));
    }
    call.await.unwrap().unwrap();
    assert_eq!(seen, [(1.0, Some(3.0)), (2.0, Some(3.0)), (3.0, Some(3.0))]);
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_reports_is_not_silent() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).idle_timeout(SECOND * 2).build().unwrap();
    let answer = mcp.oneshot(reporting(20)).await.unwrap();
    assert_eq!(answer.structured().unwrap()["steps"], json!(20));
}

#[tokio::test(start_paused = true)]
async fn a_silent_one_ends_and_is_cancelled_and_the_connection_goes_on() {
    let server = ScriptedServer::new();
    server.script([Answer::Hang]);
    let mcp = builder(&server).build().unwrap();
    let begun = Instant::now();
    let call = ToolCall::new("echo").with_idle_timeout(SECOND * 2);
    let error = mcp.clone().oneshot(call).await.unwrap_err();
    assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
    assert_eq!(error.observation().delivery, Delivery::Ambiguous);
    assert_eq!(begun.elapsed().as_secs(), 2);
    server.wait_for(|stats| stats.cancelled == 1).await;
    mcp.oneshot(ToolCall::new("echo")).await.unwrap();
    assert_eq!(server.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn progress_does_not_lengthen_timeout_and_deadline() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).idle_timeout(SECOND * 2).build().unwrap();
    let begun = Instant::now();
    let timed = reporting(20).with_timeout(SECOND * 5);
    assert!(mcp.clone().oneshot(timed).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 5);
    let due = reporting(20).with_deadline(Instant::now() + SECOND * 3);
    assert!(mcp.oneshot(due).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_with_progress_is_cancelled_at_the_server() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    let (progress, reports) = watch::channel(None);
    let call = tokio::spawn(mcp.clone().oneshot(reporting(100).with_progress(progress)));
    server.wait_for(|stats| stats.in_flight == 1).await;
    advance(SECOND * 2).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    server.wait_for(|stats| stats.cancelled == 1).await;
    server.wait_for(|stats| stats.in_flight == 0).await;
    assert!(reports.has_changed().is_err(), "nobody reports any more");
}

#[tokio::test(start_paused = true)]
async fn each_of_many_calls_hears_of_itself_alone() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    let calls = (1..=10_u32).map(|steps| {
        let (progress, reports) = watch::channel(None);
        let call = mcp
            .clone()
            .oneshot(reporting(steps).with_progress(progress));
        (steps, reports, tokio::spawn(call))
    });
    for (steps, reports, call) in Vec::from_iter(calls) {
        call.await.unwrap().unwrap();
        let last = reports.borrow().clone().unwrap();
        assert_eq!((last.done, last.total), (steps.into(), Some(steps.into())));
    }
}
