//! The scripted server as a process.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod mcp_client;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mcp_client::{Client, call, connect, send};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, join};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use toolweir_testkit::mcp::{Stats, example_program, scripted_server_program};

/// Far beyond anything that is waited for; only a hang meets it.
const HANG: Duration = Duration::from_secs(60);

/// A handshake's first line, for tests that look at the bytes.
const INITIALIZE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":\
    {\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\
    \"clientInfo\":{\"name\":\"a-test\",\"version\":\"1\"}}}\n";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("stats.json")
    }

    fn spawn(&self, flags: &[&str]) -> Child {
        Command::new(scripted_server_program())
            .arg("--stats-file")
            .arg(self.file())
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn serve(&self, flags: &[&str]) -> (Child, Client) {
        let mut process = self.spawn(flags);
        let client = connect_to(&mut process).await;
        (process, client)
    }

    fn stats(&self) -> Stats {
        Stats::read(self.file()).unwrap()
    }

    async fn stats_when(&self, condition: impl FnMut(&Stats) -> bool) -> Stats {
        timeout(HANG, Stats::read_until(self.file(), condition))
            .await
            .unwrap()
    }
}

async fn connect_to(process: &mut Child) -> Client {
    let (output, input) = (process.stdout.take(), process.stdin.take());
    let stream = join(output.unwrap(), input.unwrap());
    timeout(HANG, connect(stream)).await.unwrap().unwrap()
}

async fn exit(process: &mut Child) -> ExitStatus {
    timeout(HANG, process.wait()).await.unwrap().unwrap()
}

async fn signal(name: &str, pid: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.args([name, &pid.to_string()]).stderr(Stdio::null());
    kill.status().await.unwrap().success()
}

#[tokio::test]
async fn it_serves_until_stdin_ends_and_its_stats_stay() {
    let place = Place::new();
    let (mut process, client) = place.serve(&[]).await;
    call(&client, "echo", json!({ "a": 1 })).await;
    let told = call(&client, "stats", json!({})).await.content.unwrap();
    assert_eq!(told["calls_by_tool"], json!({ "echo": 1 }));
    assert_eq!(told["pid"], json!(process.id().unwrap()));
    client.cancel().await.unwrap();
    assert_eq!(exit(&mut process).await.code(), Some(0));
    let stats = place.stats();
    assert_eq!((stats.initializes, stats.calls_of("echo")), (1, 1));
    assert_eq!((stats.connections, stats.open_connections), (1, 0));
    // No draft is left beside them.
    assert_eq!(place.0.path().read_dir().unwrap().count(), 1);
}

#[tokio::test]
async fn dying_is_an_exit_and_the_work_is_on_record() {
    let place = Place::new();
    let (mut process, client) = place.serve(&["--script", "die-after"]).await;
    let add = timeout(HANG, send(&client, "add", json!({ "key": "k" })));
    assert!(add.await.unwrap().is_err());
    assert_eq!(exit(&mut process).await.code(), Some(1));
    assert_eq!(place.stats().effects_of("k"), 1);

    let (mut process, client) = place.serve(&[]).await;
    let die = timeout(HANG, send(&client, "die", json!({})));
    assert!(die.await.unwrap().is_err());
    assert_eq!(exit(&mut process).await.code(), Some(1));
    assert_eq!(place.stats().calls_of("die"), 1);
}

#[tokio::test]
async fn each_process_may_have_a_stats_file_of_its_own() {
    let place = Place::new();
    let mut first = Command::new(scripted_server_program())
        .arg("--stats-file")
        .arg(place.0.path().join("{pid}.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = first.id().unwrap();
    let client = connect_to(&mut first).await;
    let stats = Stats::read(place.0.path().join(format!("{pid}.json"))).unwrap();
    assert_eq!((stats.pid, stats.initializes), (pid, 1));
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn the_command_line_scripts_answers_and_the_token() {
    let place = Place::new();
    let flags = ["--script", "throttle:250,ok,fail", "--token-life-ms", "0"];
    let (_process, client) = place
        .serve(&[&flags[..], &["--reject-refresh"]].concat())
        .await;
    let throttled = call(&client, "echo", json!({})).await.content.unwrap();
    assert_eq!(throttled["retry_after_ms"], json!(250));
    assert!(!call(&client, "echo", json!({})).await.is_error);
    assert!(call(&client, "echo", json!({})).await.is_error);
    let token = call(&client, "token_status", json!({})).await;
    let expired = json!({ "valid": false, "expires_in_ms": 0 });
    assert_eq!(token.content, Some(expired));
    assert!(call(&client, "refresh_token", json!({})).await.is_error);
}

#[tokio::test]
async fn a_banner_comes_first() {
    let place = Place::new();
    let mut process = place.spawn(&["--banner", "listening on stdio!"]);
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    timeout(HANG, output.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line, "listening on stdio!\n");
    let stream = join(output, process.stdin.take().unwrap());
    let client = timeout(HANG, connect(stream)).await.unwrap().unwrap();
    call(&client, "echo", json!({})).await;
}

#[tokio::test]
async fn a_start_may_be_slow() {
    let place = Place::new();
    let (_process, client) = place.serve(&["--start-delay-ms", "1"]).await;
    call(&client, "echo", json!({})).await;
    let mut process = place.spawn(&["--start-delay-ms", "3600000"]);
    let mut input = process.stdin.take().unwrap();
    input.write_all(INITIALIZE).await.unwrap();
    let pid = process.id().unwrap();
    place
        .stats_when(|stats| stats.pid == pid && stats.initializes == 1)
        .await;
    assert!(process.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn it_may_exit_in_the_handshake() {
    let place = Place::new();
    let mut process = place.spawn(&["--exit-in-handshake", "7"]);
    let mut input = process.stdin.take().unwrap();
    input.write_all(INITIALIZE).await.unwrap();
    assert_eq!(exit(&mut process).await.code(), Some(7));
    assert_eq!(place.stats().initializes, 1);
}

#[tokio::test]
async fn it_may_hang_in_the_handshake() {
    let place = Place::new();
    let mut process = place.spawn(&["--hang-in-handshake"]);
    let mut input = process.stdin.take().unwrap();
    input.write_all(INITIALIZE).await.unwrap();
    place.stats_when(|stats| stats.initializes == 1).await;
    assert!(process.try_wait().unwrap().is_none());
    drop(input);
    assert_eq!(exit(&mut process).await.code(), Some(0));
    let mut said = Vec::new();
    let mut output = process.stdout.take().unwrap();
    output.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"");
}

/// A client that only closes its output still gets what is ready, and nothing of what is not.
#[tokio::test]
async fn what_is_ready_is_answered_after_the_end_of_stdin() {
    let place = Place::new();
    for (tool, answers) in [("echo", 2), ("hang", 1)] {
        let mut process = place.spawn(&[]);
        let mut input = process.stdin.take().unwrap();
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": tool, "arguments": {} } });
        input.write_all(INITIALIZE).await.unwrap();
        let lines = format!("{initialized}\n{call}\n");
        input.write_all(lines.as_bytes()).await.unwrap();
        drop(input);
        let output = timeout(HANG, process.wait_with_output()).await.unwrap();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.lines().count(), answers, "{said}");
    }
}

#[tokio::test]
async fn a_grandchild_outlives_it_and_holds_stderr() {
    let place = Place::new();
    let (mut process, _client) = place.serve(&["--spawn-grandchild"]).await;
    let grandchild = place.stats().grandchild_pid.unwrap();
    process.start_kill().unwrap();
    assert_eq!(exit(&mut process).await.signal(), Some(9));
    assert!(signal("-0", grandchild).await, "it ended with its parent");
    let mut errors = process.stderr.take().unwrap();
    assert!(signal("-KILL", grandchild).await);
    let mut said = String::new();
    let end = timeout(HANG, errors.read_to_string(&mut said)).await;
    end.expect("who holds stderr is dead").unwrap();
    assert_eq!(said, "");
}

#[tokio::test]
async fn only_a_kill_ends_one_that_ignores_the_rest() {
    let place = Place::new();
    let (mut process, client) = place.serve(&["--ignore-sigterm", "--ignore-eof"]).await;
    let pid = process.id().unwrap();
    assert!(signal("-TERM", pid).await);
    call(&client, "echo", json!({})).await;
    client.cancel().await.unwrap();
    place.stats_when(|stats| stats.open_connections == 0).await;
    assert!(signal("-TERM", pid).await);
    assert!(process.try_wait().unwrap().is_none());
    process.start_kill().unwrap();
    assert_eq!(exit(&mut process).await.signal(), Some(9));
}

#[tokio::test]
async fn a_sigterm_ends_it_otherwise() {
    let place = Place::new();
    let (mut process, _client) = place.serve(&["--ignore-eof"]).await;
    assert!(signal("-TERM", process.id().unwrap()).await);
    assert_eq!(exit(&mut process).await.signal(), Some(15));
}

#[tokio::test]
async fn a_wrong_command_line_is_refused() {
    let place = Place::new();
    let process = place.spawn(&["--script", "throttle"]);
    let output = process.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("throttle:MS"), "{said}");
}

#[test]
#[should_panic(expected = "there is no example \"no_such\"")]
fn a_missing_example_is_named() {
    let _ = example_program("no_such");
}

/// Lines of a process that is spoken to by hand.
struct Lines(BufReader<tokio::process::ChildStdout>);

impl Lines {
    fn of(process: &mut Child) -> Self {
        Self(BufReader::new(process.stdout.take().unwrap()))
    }

    /// The next line, or what there is of it before the end.
    async fn next(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let read = self.0.read_until(b'\n', &mut line);
        timeout(HANG, read).await.unwrap().unwrap();
        line
    }

    async fn next_text(&mut self) -> String {
        String::from_utf8(self.next().await).unwrap()
    }
}

/// A process that has answered `initialize`, and what it was told to do at a signal.
async fn struck(place: &Place, fault: &str) -> (Child, tokio::process::ChildStdin, Lines) {
    let mut process = place.spawn(&["--fault-on-signal", fault]);
    let mut input = process.stdin.take().unwrap();
    let mut lines = Lines::of(&mut process);
    input.write_all(INITIALIZE).await.unwrap();
    assert!(lines.next_text().await.contains("scripted-server"));
    assert!(signal("-USR1", process.id().unwrap()).await);
    (process, input, lines)
}

async fn ask(input: &mut tokio::process::ChildStdin, id: u32) {
    let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": { "name": "echo", "arguments": {} } });
    input
        .write_all(format!("{call}\n").as_bytes())
        .await
        .unwrap();
}

#[tokio::test]
async fn it_may_close_its_output_and_live() {
    let place = Place::new();
    let (mut process, mut input, mut lines) = struck(&place, "close-stdout").await;
    assert_eq!(lines.next().await, b"");
    ask(&mut input, 1).await;
    place.stats_when(|stats| stats.calls_of("echo") == 1).await;
    assert!(process.try_wait().unwrap().is_none());
    drop(input);
    assert_eq!(exit(&mut process).await.code(), Some(0));
}

#[tokio::test]
async fn it_may_write_garbage_and_go_on() {
    let place = Place::new();
    let (_process, mut input, mut lines) = struck(&place, "garbage").await;
    assert!(String::from_utf8(lines.next().await).is_err());
    ask(&mut input, 1).await;
    loop {
        if lines.next_text().await.contains("\"id\":1,") {
            break;
        }
    }
}

#[tokio::test]
async fn it_may_stop_in_the_middle_of_a_message() {
    let place = Place::new();
    let (mut process, mut input, mut lines) = struck(&place, "half").await;
    let mut half = [0; 12];
    lines.0.read_exact(&mut half).await.unwrap();
    ask(&mut input, 1).await;
    place
        .stats_when(|stats| stats.calls_of("echo") == 1 && stats.in_flight == 0)
        .await;
    assert!(process.try_wait().unwrap().is_none());
    drop(input);
    let rest = lines.next_text().await;
    assert!(rest.len() < 100 && !rest.ends_with('\n'), "{rest}");
}

#[tokio::test]
async fn it_may_write_a_message_of_any_length() {
    let place = Place::new();
    let (_process, mut input, mut lines) = struck(&place, "flood:300000").await;
    ask(&mut input, 1).await;
    // Which of the two is written first is the server's affair; that neither
    // lands within the other is not. The pipe holds a fifth of the flood.
    let (first, second) = (lines.next().await, lines.next().await);
    let (answer, flood) = if first.len() < second.len() {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(flood.len(), 300_000);
    serde_json::from_slice::<serde_json::Value>(&flood).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["id"], 1);
}

#[tokio::test]
async fn it_may_exit_with_no_complaint() {
    let place = Place::new();
    let (mut process, _input, mut lines) = struck(&place, "exit:0").await;
    assert_eq!(exit(&mut process).await.code(), Some(0));
    assert_eq!(lines.next().await, b"");
}

#[tokio::test]
async fn a_call_or_the_handshake_may_strike_too() {
    let place = Place::new();
    let flags = ["--script", "garbage,flood:100000,big:5,exit:0"];
    let flags = [&flags[..], &["--fault-in-handshake", "flood:5"]].concat();
    let mut process = place.spawn(&flags);
    let mut input = process.stdin.take().unwrap();
    let mut lines = Lines::of(&mut process);
    input.write_all(INITIALIZE).await.unwrap();
    assert!(lines.next_text().await.contains("notifications/message"));
    assert!(lines.next_text().await.contains("scripted-server"));
    let mut lengths = Vec::new();
    for id in 1..=3 {
        ask(&mut input, id).await;
        let answer = format!("\"id\":{id},");
        loop {
            let line = lines.next().await;
            lengths.push(line.len());
            if String::from_utf8_lossy(&line).contains(&answer) {
                break;
            }
        }
    }
    assert!(lengths.contains(&100_000), "{lengths:?}");
    ask(&mut input, 4).await;
    assert_eq!(lines.next().await, b"");
    assert_eq!(exit(&mut process).await.code(), Some(0));
    assert_eq!(place.stats().calls_of("echo"), 4);

    let mut process = place.spawn(&["--fault-in-handshake", "close-stdout"]);
    let mut input = process.stdin.take().unwrap();
    input.write_all(INITIALIZE).await.unwrap();
    assert_eq!(Lines::of(&mut process).next().await, b"");
    assert!(process.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn it_may_speak_a_version_that_nobody_knows_or_that_has_no_handshake() {
    let place = Place::new();
    for (version, said) in [
        ("1900-01-01", "\"protocolVersion\":\"1900-01-01\""),
        ("2026-07-28", "\"error\":"),
    ] {
        let mut process = place.spawn(&["--speaks-only", version]);
        let mut input = process.stdin.take().unwrap();
        input.write_all(INITIALIZE).await.unwrap();
        let line = Lines::of(&mut process).next_text().await;
        assert!(line.contains(said), "{line}");
    }
}
