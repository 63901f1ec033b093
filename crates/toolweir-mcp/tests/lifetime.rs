//! How long a connection lives: idleness, restarts, and their budget.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use toolweir_core::{AsRejection as _, Reason, Rejection, ReportState as _};
use toolweir_mcp::{McpHandle, McpService, McpServiceBuilder, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);

fn builder(server: &ScriptedServer) -> McpServiceBuilder {
    let server = server.clone();
    McpService::builder("music").transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    })
}

async fn call(mcp: &McpService, tool: &'static str) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(ToolCall::new(tool)).await
}

fn reason(result: Result<ToolResponse, ToolError>) -> Option<Reason> {
    let error = result.unwrap_err();
    error.as_rejection().map(Rejection::reason)
}

async fn lost(handle: &McpHandle) {
    while handle.state().connected {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_stopped_and_the_next_call_starts_it() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).stop_after_idle(MINUTE).build().unwrap();
    call(&mcp, "echo").await.unwrap();
    sleep(MINUTE / 2).await;
    call(&mcp, "echo").await.unwrap();
    sleep(MINUTE * 3 / 4).await;
    assert!(
        mcp.handle().state().connected,
        "a call begins the time anew"
    );
    server.wait_for(|stats| stats.open_connections == 0).await;
    let state = mcp.handle().state();
    assert!(state.dormant && !state.connected);
    assert!(mcp.handle().report().ready, "the next call may come");

    call(&mcp, "echo").await.unwrap();
    let state = mcp.handle().state();
    assert!(state.connected && !state.dormant);
    assert_eq!(state.starts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_longer_than_the_idle_time_is_not_idle() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).stop_after_idle(MINUTE).build().unwrap();
    server.script([Answer::Slow { ms: 180_000 }]);
    let long = ToolCall::new("echo").with_timeout(MINUTE * 10);
    mcp.clone().oneshot(long).await.unwrap();
    assert_eq!(server.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_stays_where_nobody_says_otherwise() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    call(&mcp, "echo").await.unwrap();
    sleep(MINUTE * 60 * 24 * 7).await;
    call(&mcp, "echo").await.unwrap();
    assert_eq!(server.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_after_idling_is_no_restart() {
    let server = ScriptedServer::new();
    let mcp = builder(&server)
        .stop_after_idle(MINUTE)
        .restart_budget(1, MINUTE * 60)
        .build()
        .unwrap();
    for day in 1..=5 {
        call(&mcp, "echo").await.unwrap();
        assert_eq!(server.stats().connections, day);
        server.wait_for(|stats| stats.open_connections == 0).await;
    }
}

/// Fails so often that the next try is put off for long.
async fn fail_often(server: &ScriptedServer, mcp: &McpService) {
    server.refuse_connections(true);
    for _ in 0..8 {
        let error = call(mcp, "echo").await.unwrap_err();
        sleep(error.retry_after().unwrap()).await;
    }
    server.refuse_connections(false);
}

#[tokio::test(start_paused = true)]
async fn failures_are_forgotten_where_a_steady_connection_was_stopped() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).stop_after_idle(MINUTE).build().unwrap();
    fail_often(&server, &mcp).await;
    call(&mcp, "echo").await.unwrap();
    server.wait_for(|stats| stats.open_connections == 0).await;
    assert!(mcp.handle().state().dormant);
    server.refuse_connections(true);
    let wait = call(&mcp, "echo").await.unwrap_err().retry_after();
    assert!(wait.unwrap() < Duration::from_secs(1), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn beyond_its_budget_a_server_is_given_up_until_a_reset() {
    let server = ScriptedServer::new();
    let mcp = builder(&server)
        .restart_budget(2, MINUTE * 60)
        .build()
        .unwrap();
    let handle = mcp.handle();
    call(&mcp, "echo").await.unwrap();
    for _ in 0..2 {
        sleep(MINUTE).await;
        server.kill_connections();
        lost(&handle).await;
        call(&mcp, "echo").await.unwrap();
    }
    sleep(MINUTE).await;
    server.kill_connections();
    lost(&handle).await;
    for _ in 0..3 {
        let refused = call(&mcp, "echo").await;
        let error = refused.as_ref().unwrap_err().to_string();
        assert!(error.contains("given up until a reset"), "{error}");
        assert!(error.contains("lost"), "it says what was last: {error}");
        assert_eq!(reason(refused), Some(Reason::RestartsSpent));
    }
    assert!(Reason::RestartsSpent.is_terminal());
    assert!(handle.state().given_up && !handle.report().ready);
    assert_eq!(server.stats().connections, 3);

    handle.reset();
    call(&mcp, "echo").await.unwrap();
    assert!(handle.report().ready);
}

#[tokio::test(start_paused = true)]
async fn an_operators_restart_is_a_reset_too() {
    let server = ScriptedServer::new();
    let mcp = builder(&server)
        .restart_budget(1, MINUTE * 60)
        .build()
        .unwrap();
    let handle = mcp.handle();
    for _ in 0..2 {
        call(&mcp, "echo").await.unwrap();
        sleep(MINUTE).await;
        server.kill_connections();
        lost(&handle).await;
    }
    call(&mcp, "echo").await.unwrap_err();
    assert!(handle.state().given_up);
    handle.restart(MINUTE).await;
    assert!(!handle.state().given_up);
    call(&mcp, "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_connects_are_paid_from_the_budget_too() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let mcp = builder(&server)
        .restart_budget(3, MINUTE * 60)
        .build()
        .unwrap();
    let mut tries = 0;
    loop {
        tries += 1;
        match call(&mcp, "echo").await.unwrap_err() {
            ToolError::Refused(rejection) => {
                assert_eq!(rejection.reason(), Reason::RestartsSpent);
                break;
            }
            error => sleep(error.retry_after().unwrap()).await,
        }
    }
    assert_eq!((tries, server.stats().refused_connections), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn restarts_outside_the_window_are_forgotten() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).restart_budget(1, MINUTE).build().unwrap();
    call(&mcp, "echo").await.unwrap();
    for _ in 0..5 {
        sleep(MINUTE * 2).await;
        server.kill_connections();
        lost(&mcp.handle()).await;
        call(&mcp, "echo").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_restart_is_no_failure() {
    let server = ScriptedServer::new();
    let mcp = builder(&server)
        .restart_budget(1, MINUTE * 60)
        .build()
        .unwrap();
    for _ in 0..5 {
        call(&mcp, "echo").await.unwrap();
        mcp.handle().restart(Duration::from_secs(1)).await;
    }
    assert_eq!(server.stats().connections, 5);
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_given_up_is_taken_back() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    server.hang_pings(true);
    let handle = mcp.handle();
    let pinged = tokio::time::timeout(Duration::from_secs(1), handle.ping()).await;
    assert!(pinged.is_err(), "it hangs");
    server.wait_for(|stats| stats.cancelled == 1).await;
    assert!(handle.state().connected, "and is no loss");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_leaves_the_connection_alone() {
    let server = ScriptedServer::new();
    let mcp = builder(&server).build().unwrap();
    for _ in 0..10 {
        server.script([Answer::Hang]);
        let begun = Instant::now();
        let hasty = ToolCall::new("echo").with_timeout(Duration::from_secs(1));
        let error = mcp.clone().oneshot(hasty).await.unwrap_err();
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
    call(&mcp, "echo").await.unwrap();
    assert_eq!(server.stats().connections, 1);
}
