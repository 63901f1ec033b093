//! Servers behind what starts them: a shell, or npx.

use std::time::Duration;

use serde_json::json;
use toolweir_mcp::{McpService, StdioServer, ToolCall};
use toolweir_testkit::installed::{Program, Server, everything_behind_npx, or_skip};
use tower::ServiceExt as _;

use crate::{PATIENCE, processes::group};

/// Calls the server once, looks for it behind its launcher, and for what a shutdown leaves.
async fn is_reaped(server: StdioServer) {
    let mcp = McpService::builder("real")
        .stdio(server)
        .connect_timeout(PATIENCE);
    let mcp = mcp.build().unwrap();
    let echo = ToolCall::new("echo").try_arguments(&json!({ "message": "hello" }));
    let answer = mcp.clone().oneshot(echo.unwrap()).await.unwrap();
    assert_eq!(answer.text(), "Echo: hello");

    let launcher = mcp.handle().state().process_id.unwrap();
    let processes = group(launcher).await;
    assert!(
        processes.len() > 1,
        "it is not behind a launcher: {processes:?}"
    );
    mcp.handle().shutdown(Duration::from_secs(10)).await;
    assert_eq!(group(launcher).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_behind_a_shell_is_reaped() {
    let Some(Program { program, args, .. }) = or_skip(Server::Everything.installed().await) else {
        return;
    };
    // With something to do after it, the shell does not become the server.
    let shell = StdioServer::new("sh").args(["-c", r#""$@"; true"#, "sh"]);
    is_reaped(shell.arg(program).args(args).arg("stdio")).await;
}

#[tokio::test]
async fn a_server_behind_npx_is_reaped() {
    let Some(Program { program, args, .. }) = or_skip(everything_behind_npx().await) else {
        return;
    };
    is_reaped(StdioServer::new(program).args(args).arg("stdio")).await;
}
