//! Progress of a call: it reaches the caller, and keeps the call alive.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex, split},
    sync::watch,
    time::{Instant, advance, sleep},
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

/// A server whose every call reports these, one a second, and is then answered. `None` for the token
/// stands for the call's own.
fn saying(reports: Vec<(Option<Value>, Value)>) -> McpService {
    let builder = McpService::builder("hostile").transport(move || {
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(serve(theirs, reports.clone()));
        async move { Ok(ours) }
    });
    builder.build().unwrap()
}

async fn serve(stream: DuplexStream, reports: Vec<(Option<Value>, Value)>) -> Option<()> {
    let (read, mut write) = split(stream);
    let mut lines = BufReader::new(read).lines();
    loop {
        let request: Value = serde_json::from_str(&lines.next_line().await.ok()??).ok()?;
        let result = match request["method"].as_str()? {
            "initialize" => json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "serverInfo": { "name": "hostile", "version": "1" },
            }),
            "tools/call" => {
                let own = &request["params"]["_meta"]["progressToken"];
                for (token, done) in &reports {
                    sleep(SECOND).await;
                    let token = token.as_ref().unwrap_or(own);
                    let said = json!({ "progressToken": token, "progress": done });
                    let said = json!({
                        "jsonrpc": "2.0", "method": "notifications/progress", "params": said,
                    });
                    write.write_all(format!("{said}\n").as_bytes()).await.ok()?;
                }
                json!({ "content": [] })
            }
            _ => continue,
        };
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
        write
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .ok()?;
    }
}

/// What reaches the caller of a tool that may be silent for three seconds.
async fn heard_of(reports: impl IntoIterator<Item = (Option<Value>, Value)>) -> Vec<f64> {
    let mcp = saying(Vec::from_iter(reports));
    let (progress, mut heard) = watch::channel(None);
    let call = ToolCall::new("work")
        .with_idle_timeout(SECOND * 3)
        .with_progress(progress);
    let call = tokio::spawn(mcp.oneshot(call));
    let mut seen = Vec::new();
    while heard.changed().await.is_ok() {
        let report = heard.borrow_and_update().clone();
        seen.push(report.unwrap().done);
    }
    call.await.unwrap().unwrap();
    seen
}

#[tokio::test(start_paused = true)]
async fn the_caller_sees_progress_grow_and_a_tool_that_says_the_same_is_not_silent() {
    let reports = [2.0, 2.0, 1.0, -7.0, 2.0, 3.0, 3.5].map(|done| (None, json!(done)));
    assert_eq!(heard_of(reports).await, [2.0, 3.0, 3.5]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_none_of_ours_is_nobodys() {
    let reports = [
        (Some(json!("x".repeat(1 << 20))), json!(1)),
        (None, json!(1)),
        (Some(json!("1")), json!(2)),
        (None, json!(3)),
        (Some(json!(i64::MAX)), json!(4)),
    ];
    assert_eq!(heard_of(reports).await, [1.0, 3.0]);
}
