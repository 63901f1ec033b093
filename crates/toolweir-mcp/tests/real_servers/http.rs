//! Servers over HTTP, which this test starts and kills: npm's server-everything and PyPI's fastmcp.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use toolweir_core::{Delivery, Observation, Outcome};
use toolweir_mcp::{HttpServer, McpService, ToolCall};
use toolweir_testkit::installed::{Program, Server, or_skip};
use tower::ServiceExt as _;

use crate::{
    PATIENCE,
    calls::{Answer, answer, call, tools},
    until,
};

/// A server's process and its log. Dropping it kills the process.
#[derive(Debug)]
struct Process {
    make: Make,
    port: u16,
    child: Child,
    directory: TempDir,
}

/// Which server, and how it is told its port.
#[derive(Debug)]
struct Make {
    program: Program,
    server: Server,
}

impl Make {
    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(&self.program.program);
        command.args(&self.program.args);
        match self.server {
            Server::FastMcp => command.arg(port.to_string()),
            _ => command.arg("streamableHttp").env("PORT", port.to_string()),
        };
        command
    }

    /// What it writes when it is asked for something, by which HTTP method.
    fn asked(&self, method: &str) -> String {
        match self.server {
            Server::FastMcp => format!("\"{method} /mcp HTTP/1.1\""),
            _ => format!("Received MCP {method} request"),
        }
    }
}

impl Process {
    /// Starts a server on a port that is free.
    async fn start(make: Make) -> Self {
        let directory = tempfile::tempdir().unwrap();
        loop {
            // Free now. Another process may take it before the server does: then it is another's.
            let port = {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap().port()
            };
            if let Some(child) = launch(&make, port, directory.path()).await {
                return Self {
                    make,
                    port,
                    child,
                    directory,
                };
            }
        }
    }

    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again after it was killed, on the port that it had.
    async fn start_again(&mut self) {
        // Who may have taken the port in between gives it back: such are connections of a moment.
        until("it listens again", async || {
            match launch(&self.make, self.port, self.directory.path()).await {
                Some(child) => {
                    self.child = child;
                    true
                }
                None => false,
            }
        })
        .await;
    }

    /// How many messages it was sent.
    fn messages(&self) -> usize {
        let log = fs::read_to_string(log(self.directory.path())).unwrap();
        log.matches(&self.make.asked("POST")).count()
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// The server's process, once it listens. `None` if it ends before.
async fn launch(make: &Make, port: u16, directory: &Path) -> Option<Child> {
    let file = File::create(log(directory)).unwrap();
    let mut child = make
        .command(port)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut listens = false;
    until("it listens, or ends", async || {
        knock(port).await;
        // Only its own log says that it is not another's server.
        let log = fs::read_to_string(log(directory)).unwrap();
        listens = log.contains(&make.asked("GET"));
        listens || child.try_wait().unwrap().is_some()
    })
    .await;
    listens.then_some(child)
}

/// Asks a server for something that it will not give.
async fn knock(port: u16) {
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
        let request = "GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(request.as_bytes()).await;
        // To the end: a server may pass over a request whose sender has gone.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

/// A server, and a service that speaks to it.
async fn subject(server: Server) -> Option<(McpService, Process)> {
    let program = or_skip(server.installed().await)?;
    let process = Process::start(Make { program, server }).await;
    let url = format!("http://127.0.0.1:{}/mcp", process.port);
    let mcp = McpService::builder("real")
        .http(HttpServer::new(url).max_concurrent_requests(4))
        .connect_timeout(PATIENCE)
        .call_timeout(PATIENCE)
        .build()
        .unwrap();
    Some((mcp, process))
}

fn echo(message: &str) -> ToolCall {
    let arguments = json!({ "message": message });
    ToolCall::new("echo").try_arguments(&arguments).unwrap()
}

fn operation(seconds: f64) -> ToolCall {
    let arguments = json!({ "duration": seconds, "steps": 2 });
    ToolCall::new("trigger-long-running-operation")
        .try_arguments(&arguments)
        .unwrap()
}

fn add(a: i64, b: i64) -> ToolCall {
    let arguments = json!({ "a": a, "b": b });
    ToolCall::new("add").try_arguments(&arguments).unwrap()
}

fn hang(directory: &Path) -> ToolCall {
    let arguments = json!({ "directory": directory });
    ToolCall::new("hang").try_arguments(&arguments).unwrap()
}

fn starts(mcp: &McpService) -> u64 {
    mcp.handle().state().starts
}

#[tokio::test]
async fn everything_lists_its_tools() {
    let Some((mcp, _process)) = subject(Server::Everything).await else {
        return;
    };
    let tools = tools(&mcp).await;
    assert!(tools.iter().any(|tool| tool == "echo"), "{tools:?}");
    assert!(mcp.handle().hints("echo").read_only);
}

#[tokio::test]
async fn everything_answers() {
    let Some((mcp, _process)) = subject(Server::Everything).await else {
        return;
    };
    assert_eq!(answer(&mcp, echo("hello")).await.text(), "Echo: hello");
}

#[tokio::test]
async fn everything_is_told_of_cancelled_calls() {
    let Some((mcp, process)) = subject(Server::Everything).await else {
        return;
    };
    // More calls than there may be requests at once: none of them keeps its place.
    for _ in 0..6 {
        answer(&mcp, echo("before")).await;
        let before = process.messages();
        let abandoned = tokio::spawn(mcp.clone().oneshot(operation(600.0)));
        until("it is sent", async || process.messages() == before + 1).await;
        abandoned.abort();
        until("it is told", async || process.messages() == before + 2).await;
    }
    assert_eq!(answer(&mcp, echo("after")).await.text(), "Echo: after");
    assert_eq!(starts(&mcp), 1);
}

#[tokio::test]
async fn fastmcp_breaks_off_a_cancelled_call() {
    let Some((mcp, _process)) = subject(Server::FastMcp).await else {
        return;
    };
    for _ in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let there = |file: &str| directory.path().join(file).exists();
        let abandoned = tokio::spawn(mcp.clone().oneshot(hang(directory.path())));
        until("the tool runs", async || there("started")).await;
        abandoned.abort();
        until("the tool was cancelled", async || there("cancelled")).await;
    }
    answer(&mcp, add(2, 3)).await;
    assert_eq!(starts(&mcp), 1);
}

/// Steps "kill" and "reconnect". `lost` is under way.
async fn killed_and_started_again(
    (mcp, mut process): (McpService, Process),
    lost: JoinHandle<Answer>,
    quick: ToolCall,
) {
    process.kill().await;
    let error = timeout(PATIENCE, lost).await.unwrap().unwrap().unwrap_err();
    let ambiguous = Observation::new(Outcome::Failure, Delivery::Ambiguous);
    assert_eq!(error.observation(), ambiguous, "{error:?}");

    let error = call(&mcp, quick.clone()).await.unwrap_err();
    let not_sent = Observation::new(Outcome::Failure, Delivery::NotSent);
    assert_eq!(error.observation(), not_sent, "{error:?}");

    // Another server as far as it knows: the session is none of its own.
    process.start_again().await;
    answer(&mcp, quick).await;
    assert_eq!(starts(&mcp), 2);
}

#[tokio::test]
async fn everything_killed_under_a_call_is_found_again() {
    let Some((mcp, process)) = subject(Server::Everything).await else {
        return;
    };
    answer(&mcp, echo("before")).await;
    let before = process.messages();
    // Where its answer has begun, rmcp looks for the rest of it for a while.
    let operation = operation(600.0).with_timeout(Duration::from_secs(20));
    let lost = tokio::spawn(mcp.clone().oneshot(operation));
    until("it is sent", async || process.messages() == before + 1).await;
    killed_and_started_again((mcp, process), lost, echo("after")).await;
}

/// A server that is started again between two calls: nobody has noticed, and no call is lost.
#[tokio::test]
async fn everything_started_again_between_calls_is_not_noticed() {
    let Some((mcp, mut process)) = subject(Server::Everything).await else {
        return;
    };
    answer(&mcp, echo("before")).await;
    process.kill().await;
    process.start_again().await;
    assert_eq!(answer(&mcp, echo("after")).await.text(), "Echo: after");
    assert_eq!(starts(&mcp), 2);
}

#[tokio::test]
async fn fastmcp_killed_under_a_call_is_found_again() {
    let Some((mcp, process)) = subject(Server::FastMcp).await else {
        return;
    };
    answer(&mcp, add(2, 3)).await;
    let directory = tempfile::tempdir().unwrap();
    let lost = tokio::spawn(mcp.clone().oneshot(hang(directory.path())));
    let started = directory.path().join("started");
    until("the tool runs", async || started.exists()).await;
    killed_and_started_again((mcp, process), lost, add(2, 3)).await;
}
