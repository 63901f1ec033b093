//! A server that is a process: its start, its death, and what is left of it.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{path::PathBuf, time::Duration};

use tokio::{
    process::Command,
    task::JoinHandle,
    time::{sleep, timeout},
};
use toolweir_core::Delivery;
use toolweir_mcp::{McpService, StdioServer, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::mcp::{Stats, example_program};
use tower::ServiceExt as _;

/// More than anything here takes. A test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(30);

async fn call(mcp: &McpService, tool: &'static str) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(ToolCall::new(tool)).await
}

fn on(server: StdioServer) -> McpService {
    McpService::builder("music").stdio(server).build().unwrap()
}

fn shell(script: &str) -> McpService {
    on(StdioServer::new("sh").args(["-c", script]))
}

/// Each package's example has a name of its own: they all share a directory.
fn server_program() -> PathBuf {
    example_program("misbehaving_server")
}

/// Where a scripted server of this test writes what it sees.
fn stats_file(test: &str) -> PathBuf {
    let name = format!("{test}-{}.json", std::process::id());
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = timeout(PATIENCE, async {
        while !condition().await {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(met.await.is_ok(), "not in {PATIENCE:?}: {what}");
}

/// Whether a process runs; one that has ended and was not waited for does not.
async fn runs(process: u32) -> bool {
    let ps = Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .await
        .unwrap();
    let state = String::from_utf8_lossy(&ps.stdout);
    !state.trim().is_empty() && !state.trim_start().starts_with('Z')
}

async fn kill(process: u32) {
    let killed = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(killed.await.unwrap().success());
}

/// A scripted server with a child of its own, behind a shell.
async fn behind_a_shell(test: &str, flags: &str) -> (McpService, [u32; 2]) {
    let file = stats_file(test);
    let program = server_program();
    // A shell gives what it starts in the background an empty stdin, unless told otherwise.
    let mcp = shell(&format!(
        "exec 3<&0; '{}' --spawn-grandchild --stats-file '{}' {flags} <&3 & wait",
        program.display(),
        file.display()
    ));
    call(&mcp, "echo").await.unwrap();
    let stats = Stats::read(file).unwrap();
    assert_ne!(mcp.handle().state().process_id, Some(stats.pid));
    (mcp, [stats.pid, stats.grandchild_pid.unwrap()])
}

#[tokio::test]
async fn a_killed_server_is_replaced() {
    let file = stats_file("replaced");
    let server = StdioServer::new(server_program())
        .arg("--stats-file")
        .arg(&file);
    let mcp = on(server);
    call(&mcp, "echo").await.unwrap();
    let process = mcp.handle().state().process_id.unwrap();
    let hangs: JoinHandle<_> = {
        let mcp = mcp.clone();
        tokio::spawn(async move { call(&mcp, "hang").await })
    };
    until("the call is under way", async || {
        Stats::read(&file).unwrap().in_flight == 1
    })
    .await;
    kill(process).await;
    let error = hangs.await.unwrap().unwrap_err();
    assert!(
        matches!(error, ToolError::ConnectionLost { .. }),
        "{error:?}"
    );
    assert_eq!(error.observation().delivery, Delivery::Ambiguous);
    call(&mcp, "echo").await.unwrap();
    assert_ne!(mcp.handle().state().process_id, Some(process));
}

#[tokio::test]
async fn what_a_killed_server_leaves_is_reaped_without_another_call() {
    let (mcp, [server, child]) = behind_a_shell("leaves", "").await;
    let shell = mcp.handle().state().process_id.unwrap();
    kill(server).await;
    until("its child is gone", async || !runs(child).await).await;
    until("the shell is gone", async || !runs(shell).await).await;
}

#[tokio::test]
async fn shutdown_reaps_a_server_behind_a_shell() {
    let (mcp, processes) = behind_a_shell("shutdown", "").await;
    mcp.handle().shutdown(PATIENCE).await;
    for process in processes {
        assert!(!runs(process).await);
    }
}

#[tokio::test]
async fn a_server_that_will_not_end_is_killed_and_all_wait_for_it() {
    let flags = "--ignore-sigterm --ignore-eof";
    let (mcp, processes) = behind_a_shell("stubborn", flags).await;
    let (first, second) = (mcp.handle(), mcp.handle());
    let grace = Duration::from_millis(300);
    let first = tokio::spawn(async move {
        // The second is to come while this is under way.
        first.shutdown(grace).await;
    });
    tokio::task::yield_now().await;
    second.shutdown(grace).await;
    for process in processes {
        assert!(!runs(process).await);
    }
    first.await.unwrap();
}

#[tokio::test]
async fn the_last_clone_kills_the_server_and_its_children() {
    let flags = "--ignore-sigterm --ignore-eof";
    let (mcp, processes) = behind_a_shell("dropped", flags).await;
    drop(mcp);
    for process in processes {
        until("it is gone", async || !runs(process).await).await;
    }
}

#[tokio::test]
async fn shutdown_of_a_start_leaves_nothing() {
    let file = stats_file("start");
    let server = StdioServer::new(server_program())
        .arg("--hang-in-handshake")
        .arg("--ignore-sigterm")
        .arg("--stats-file")
        .arg(&file);
    let mcp = on(server);
    let handle = mcp.handle();
    let connects = tokio::spawn(async move { handle.connect().await });
    until("it has been asked", async || {
        Stats::read(&file).is_ok_and(|stats| stats.initializes == 1)
    })
    .await;
    mcp.handle().shutdown(PATIENCE).await;
    connects.await.unwrap().unwrap_err();
    let process = Stats::read(&file).unwrap().pid;
    until("it is gone", async || !runs(process).await).await;
}

#[tokio::test]
async fn a_server_that_ends_at_its_start_has_the_last_word() {
    // Again and again: its words and its end come by different ways.
    for _ in 0..20 {
        let error = call(&shell("echo 'no key set' >&2; exit 3"), "echo").await;
        let error = error.unwrap_err();
        let text = error.to_string();
        let expected = "MCP server \"music\" (program \"sh\") ended before it was ready: \
                        exit status: 3; its last words: \"no key set\"";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(error.observation().delivery, Delivery::NotSent);
        assert!(error.retry_after().is_some());
    }
}

#[tokio::test]
async fn of_many_words_the_last_are_quoted() {
    let script = "for frame in 1 2 3 4; do printf '%0200d\\n' $frame >&2; done; \
                  echo 'KeyError: the reason' >&2; exit 1";
    let error = call(&shell(script), "echo").await.unwrap_err().to_string();
    assert!(error.contains("KeyError: the reason\""), "{error}");
    assert!(error.chars().count() < 600, "{error}");
}

#[tokio::test]
async fn words_without_end_are_cut() {
    let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1";
    let error = call(&shell(script), "echo").await.unwrap_err().to_string();
    assert!(error.contains("xxx") && error.chars().count() < 600);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mcp = on(StdioServer::new("no-such-mcp-server"));
    let error = call(&mcp, "echo").await.unwrap_err().to_string();
    let expected = "MCP server \"music\" (program \"no-such-mcp-server\") could not be started: ";
    assert!(error.starts_with(expected), "{error}");
}
