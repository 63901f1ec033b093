//! A server that is a process: its start, its death, and what is left of it.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use nix::{errno::Errno, sys::signal, unistd::Pid};
use tempfile::TempDir;
use tokio::{
    process::Command,
    runtime::Runtime,
    task::JoinHandle,
    time::{Instant, pause, resume, sleep, timeout},
};
use toolweir_core::{AsRejection as _, Delivery, Reason, Rejection};
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

/// Whether nothing is left of a process: one that has ended, and was not waited for, still has its place.
fn is_gone(process: u32) -> bool {
    let process = Pid::from_raw(process.try_into().unwrap());
    signal::kill(process, None) == Err(Errno::ESRCH)
}

async fn children(process: u32) -> Vec<u32> {
    let ps = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let ps = String::from_utf8(ps.await.unwrap().stdout).unwrap();
    let pairs = ps.lines().map(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    });
    Vec::from_iter(pairs.filter_map(|(pid, parent): (u32, u32)| (parent == process).then_some(pid)))
}

async fn kill(process: u32) {
    let killed = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(killed.await.unwrap().success());
}

/// A server that writes to a journal, of each of its starts, whether it was alone.
struct Journaled {
    directory: TempDir,
}

impl Journaled {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    /// The first start of it is with the flags `at_first`, the others are with `later`.
    fn server(&self, at_first: &str, later: &str) -> StdioServer {
        let (program, first) = (server_program(), self.directory.path().join("first"));
        let (program, first) = (program.display(), first.display());
        // The end of the first takes a while: who does not wait for it is found out.
        let script = format!(
            "if mkdir '{first}' 2>/dev/null; then BALLAST_MB=200 exec '{program}' {at_first}; fi
             exec '{program}' {later}"
        );
        StdioServer::new("sh")
            .args(["-c", &script])
            .env("JOURNAL", self.directory.path().join("journal"))
    }

    fn starts(&self) -> Vec<(u32, String)> {
        let journal = fs::read_to_string(self.directory.path().join("journal"));
        let journal = journal.unwrap_or_default();
        let starts = journal.lines().map(|line| {
            let (process, word) = line.split_once(' ').unwrap();
            (process.parse().unwrap(), word.to_owned())
        });
        starts.collect()
    }

    /// The processes of so many starts, each of which was alone.
    fn each_alone(&self, starts: usize) -> Vec<u32> {
        let seen = self.starts();
        assert_eq!(seen.len(), starts, "{seen:?}");
        assert!(seen.iter().all(|(_, word)| word == "alone"), "{seen:?}");
        seen.into_iter().map(|(process, _)| process).collect()
    }
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
async fn ten_callers_start_one_process() {
    let name = format!("ten-{}-{{pid}}.json", std::process::id());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let server = StdioServer::new(server_program())
        .args(["--start-delay-ms", "50", "--stats-file"])
        .arg(&file);
    let mcp = on(server);
    let mut calls = Vec::from_iter((0..10).map(|_| {
        let mcp = mcp.clone();
        tokio::spawn(async move { call(&mcp, "echo").await })
    }));
    until("it is being started", async || {
        mcp.handle().state().connecting
    })
    .await;
    calls.remove(0).abort();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let state = mcp.handle().state();
    assert_eq!(state.starts, 1);
    let process = state.process_id.unwrap().to_string();
    let file = file.to_string_lossy().replace("{pid}", &process);
    let stats = Stats::read(file).unwrap();
    assert_eq!((stats.pid.to_string(), stats.initializes), (process, 1));
    assert_eq!(stats.calls_of("echo"), 9);
}

/// It is killed where no bit of it is left to say so: its child holds all three pipes.
#[tokio::test]
async fn a_server_killed_under_a_child_that_holds_its_pipes_is_replaced() {
    let program = server_program();
    let mcp = shell(&format!(
        "exec 3<&0; sleep 1000 <&3 & exec '{}'",
        program.display()
    ));
    call(&mcp, "echo").await.unwrap();
    let process = mcp.handle().state().process_id.unwrap();
    let [child] = *children(process).await else {
        panic!("the server has one child");
    };
    let hangs: JoinHandle<_> = {
        let mcp = mcp.clone();
        tokio::spawn(async move { call(&mcp, "hang").await })
    };
    kill(process).await;
    let error = timeout(PATIENCE, hangs).await.unwrap().unwrap();
    assert_eq!(
        error.unwrap_err().observation().delivery,
        Delivery::Ambiguous
    );
    until("its child is gone", async || !runs(child).await).await;
    call(&mcp, "echo").await.unwrap();
    assert_ne!(mcp.handle().state().process_id, Some(process));
}

#[tokio::test]
async fn restart_ends_the_process_and_the_next_call_starts_another() {
    let (mcp, processes) = behind_a_shell("restart", "").await;
    let handle = mcp.handle();
    handle.restart(PATIENCE).await;
    assert_eq!(handle.state().process_id, None);
    for process in processes {
        assert!(!runs(process).await);
    }
    call(&mcp, "echo").await.unwrap();
    assert_eq!(handle.state().starts, 2);
}

#[tokio::test]
async fn a_successor_is_not_started_before_the_process_before_it_has_ended() {
    // It ends neither with its input nor when it is asked to: only when it is killed.
    let server = StdioServer::new(server_program()).args(["--ignore-eof", "--ignore-sigterm"]);
    let mcp = on(server);
    call(&mcp, "echo").await.unwrap();
    let handle = mcp.handle();
    let first = handle.state().process_id.unwrap();
    // It will not end within this test, unless it is killed here.
    let grace = Duration::from_secs(3600);
    let restart = tokio::spawn({
        let handle = handle.clone();
        async move { handle.restart(grace).await }
    });
    until("the first is let go", async || !handle.state().connected).await;
    // This call connects while the first is still ending.
    let next = tokio::spawn(async move { call(&mcp, "echo").await });
    sleep(Duration::from_millis(300)).await;
    assert!(!next.is_finished(), "two servers at once");
    assert!(!is_gone(first), "or this test says nothing");
    assert_eq!(handle.state().starts, 1);
    kill(first).await;
    next.await.unwrap().unwrap();
    assert_eq!(handle.state().starts, 2);
    restart.await.unwrap();
}

#[tokio::test]
async fn shutdown_waits_for_a_restart_that_still_ends_the_process() {
    let flags = "--ignore-sigterm --ignore-eof";
    let (mcp, processes) = behind_a_shell("restarting", flags).await;
    let (handle, restarts) = (mcp.handle(), mcp.handle());
    let restart = tokio::spawn(async move { restarts.restart(Duration::from_millis(300)).await });
    until("it is being ended", async || !handle.state().connected).await;
    handle.shutdown(PATIENCE).await;
    for process in processes {
        assert!(!runs(process).await);
    }
    restart.await.unwrap();
}

#[tokio::test]
async fn words_on_stdout_before_the_protocol_are_passed_over() {
    for banner in ["Listening on stdio…", r#"{"level":"info","msg":"up"}"#] {
        let server = StdioServer::new(server_program()).args(["--banner", banner]);
        let mcp = on(server);
        let echo = timeout(PATIENCE, call(&mcp, "echo")).await.unwrap();
        assert!(echo.is_ok(), "{banner}: {echo:?}");
    }
}

#[tokio::test]
async fn a_program_that_speaks_something_else_is_not_waited_for_for_ever() {
    let mcp = McpService::builder("music")
        .stdio(StdioServer::new("sh").args(["-c", "while read line; do echo 220 hello; done"]))
        .connect_timeout(Duration::from_millis(100));
    let mcp = mcp.build().unwrap();
    let error = timeout(PATIENCE, call(&mcp, "echo")).await.unwrap();
    let text = error.unwrap_err().to_string();
    let expected = "MCP server \"music\" (program \"sh\") was not ready within 100ms";
    assert!(text.starts_with(expected), "{text}");
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
    // Even without any grace the kill is waited for.
    for grace in [PATIENCE, Duration::ZERO] {
        let journal = Journaled::new();
        let mcp = on(journal.server("--hang-in-handshake --ignore-sigterm", ""));
        let handle = mcp.handle();
        let connects = tokio::spawn(async move { handle.connect().await });
        until("it has begun", async || !journal.starts().is_empty()).await;
        mcp.handle().shutdown(grace).await;
        assert!(journal.each_alone(1).into_iter().all(is_gone));
        connects.await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn restart_of_a_start_leaves_nothing_and_the_next_call_starts_another() {
    let journal = Journaled::new();
    let mcp = on(journal.server("--hang-in-handshake --ignore-eof", ""));
    let handle = mcp.handle();
    let connects = tokio::spawn(async move { handle.connect().await });
    until("it has begun", async || !journal.starts().is_empty()).await;
    mcp.handle().restart(Duration::ZERO).await;
    assert!(journal.each_alone(1).into_iter().all(is_gone));
    connects.await.unwrap().unwrap_err();
    call(&mcp, "echo").await.unwrap();
    journal.each_alone(2);
}

#[tokio::test]
async fn a_call_after_a_restart_of_a_start_does_not_overtake_its_end() {
    let journal = Journaled::new();
    let mcp = on(journal.server("--hang-in-handshake --ignore-eof", ""));
    let (connects, restarts) = (mcp.handle(), mcp.handle());
    let connects = tokio::spawn(async move { connects.connect().await });
    until("it has begun", async || !journal.starts().is_empty()).await;
    let (answer, ()) = tokio::join!(
        async {
            connects.await.unwrap().unwrap_err();
            call(&mcp, "echo").await
        },
        restarts.restart(PATIENCE)
    );
    answer.unwrap();
    journal.each_alone(2);
}

/// Nobody here is told of the end of a shell's child, and this one holds no pipe that would close.
#[tokio::test]
async fn shutdown_waits_for_a_server_behind_a_shell_that_logs_to_a_file() {
    let journal = Journaled::new();
    let path = journal.directory.path().join("journal");
    let program = server_program();
    let script = format!(
        "exec 3<&0; '{}' --ignore-eof --ignore-sigterm <&3 2>/dev/null & wait",
        program.display()
    );
    let server = StdioServer::new("sh").args(["-c", &script]);
    let mcp = on(server.env("JOURNAL", &path).env("BALLAST_MB", "200"));
    call(&mcp, "echo").await.unwrap();
    mcp.handle().shutdown(Duration::ZERO).await;
    // The lock goes with the server.
    File::open(path).unwrap().try_lock().unwrap();
}

#[tokio::test]
async fn a_server_that_speaks_otherwise_has_ended_before_it_is_started_again() {
    let journal = Journaled::new();
    let flags = "--speaks-only 2026-07-28 --ignore-eof";
    let mcp = on(journal.server(flags, flags));
    call(&mcp, "echo").await.unwrap();
    let [first, second] = journal.each_alone(2)[..] else {
        unreachable!();
    };
    assert!(is_gone(first));
    mcp.handle().shutdown(Duration::ZERO).await;
    assert!(is_gone(second));
}

#[tokio::test]
async fn a_start_that_timed_out_has_ended_before_the_next() {
    let journal = Journaled::new();
    let mcp = McpService::builder("music")
        .stdio(journal.server("--hang-in-handshake --ignore-eof", ""))
        .connect_timeout(Duration::from_secs(5));
    let mcp = mcp.build().unwrap();
    let error = call(&mcp, "echo").await.unwrap_err();
    assert!(journal.each_alone(1).into_iter().all(is_gone));
    sleep(error.retry_after().unwrap()).await;
    call(&mcp, "echo").await.unwrap();
    journal.each_alone(2);
}

/// The clock stands still for a while, and jumps where everybody waits: the processes know nothing of it.
#[tokio::test]
async fn a_long_restart_is_no_failed_connect() {
    let journal = Journaled::new();
    let hour = Duration::from_secs(3600);
    let mcp = McpService::builder("music")
        .stdio(journal.server("", ""))
        .restart_budget(1, hour)
        .build()
        .unwrap();
    call(&mcp, "echo").await.unwrap();
    let handle = mcp.handle();
    let hangs = tokio::spawn({
        let mcp = mcp.clone();
        async move { mcp.oneshot(ToolCall::new("hang").with_timeout(hour)).await }
    });
    until("it hangs", async || handle.state().calls == 1).await;
    let restart = tokio::spawn({
        let handle = handle.clone();
        async move { handle.restart(hour).await }
    });
    until("it is let go", async || !handle.state().connected).await;
    pause();
    for _ in 0..3 {
        let begun = Instant::now();
        let error = call(&mcp, "echo").await.unwrap_err();
        let reason = error.as_rejection().map(Rejection::reason);
        assert_eq!(reason, Some(Reason::StillEnding), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("has not ended") && text.contains("30s"),
            "{text}"
        );
        assert_eq!(begun.elapsed().as_secs(), 30);
        assert_eq!(handle.state().retry_after_ms, None);
    }
    resume();
    hangs.abort();
    call(&mcp, "echo").await.unwrap();
    restart.await.unwrap();
    journal.each_alone(2);
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_serves_the_next_call() {
    let journal = Journaled::new();
    let mcp = on(journal.server("--start-delay-ms 50", ""));
    let calls = Vec::from_iter((0..3).map(|_| {
        let mcp = mcp.clone();
        tokio::spawn(async move { call(&mcp, "echo").await })
    }));
    until("it has begun", async || !journal.starts().is_empty()).await;
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert!(mcp.handle().state().connecting);
    call(&mcp, "echo").await.unwrap();
    assert_eq!(mcp.handle().state().starts, 1);
    mcp.handle().shutdown(PATIENCE).await;
    assert!(journal.each_alone(1).into_iter().all(is_gone));
}

#[tokio::test]
async fn the_last_clone_ends_a_start_too() {
    let journal = Journaled::new();
    let mcp = on(journal.server("--hang-in-handshake --ignore-eof", ""));
    let calls = tokio::spawn(async move { call(&mcp, "echo").await });
    until("it has begun", async || !journal.starts().is_empty()).await;
    calls.abort();
    let [process] = journal.each_alone(1)[..] else {
        unreachable!();
    };
    until("it is gone", async || is_gone(process)).await;
}

/// A worker's runtime may end before the service, which another then uses.
#[test]
fn a_runtime_that_ends_leaves_nothing_running_and_the_next_serves() {
    for first in ["--hang-in-handshake --ignore-eof", "--ignore-eof"] {
        let journal = Journaled::new();
        let mcp = on(journal.server(first, ""));
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let call = call(&mcp, "hang");
            let begun = until("it has begun", async || match first {
                "--ignore-eof" => mcp.handle().state().calls == 1,
                _ => !journal.starts().is_empty(),
            });
            tokio::select! {
                biased;
                answer = call => panic!("{answer:?}"),
                () = begun => {}
            }
        });
        drop(runtime);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            until("the next one serves", async || {
                let answer = timeout(PATIENCE, call(&mcp, "echo")).await.unwrap();
                answer.is_ok()
            })
            .await;
            let [first, second] = journal.each_alone(2)[..] else {
                unreachable!();
            };
            assert!(is_gone(first));
            mcp.handle().shutdown(Duration::from_secs(1)).await;
            assert!(is_gone(second));
        });
    }
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
async fn last_words_cannot_write_to_a_terminal_or_a_log() {
    let script = "printf 'no key\\033[2J\\r\\nMCP server ok\\n' >&2; exit 1";
    let error = call(&shell(script), "echo").await.unwrap_err().to_string();
    assert!(error.contains(r"no key\u{1b}[2J\nMCP server ok"), "{error}");
    assert!(!error.contains(char::is_control));
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

/// A server that says of its list of tools that it holds for an hour. A shell before it holds its pipes
/// open, so that its end closes nothing.
const BEHIND_A_SHELL: &str = r#"
    exec 3<&0
    serve() {
        while read -r line; do
            id=${line##*\"id\":}
            id=${id%%[,\}]*}
            case $line in
            *'"initialize"'*) result='"protocolVersion":"2025-11-25","capabilities":{"tools":{}},'
                result=$result'"serverInfo":{"name":"music","version":"1"}' ;;
            *'"tools/list"'*) result='"ttlMs":3600000,'
                result=$result'"tools":[{"name":"play","inputSchema":{"type":"object"}}]' ;;
            *'"ping"'*) result= ;;
            *) continue ;;
            esac
            echo '{"jsonrpc":"2.0","id":'$id',"result":{'$result'}}'
        done
    }
    serve <&3 &
    echo $! > "$PID_FILE"
    while :; do sleep 1000; done
"#;

#[tokio::test]
async fn the_list_of_a_killed_server_is_still_told_and_is_no_sign_of_life() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let server = StdioServer::new("sh").args(["-c", BEHIND_A_SHELL]);
    let mcp = on(server.env("PID_FILE", &pid_file));
    let handle = mcp.handle();
    handle.ping().await.unwrap();
    assert_eq!(handle.list_tools().await.unwrap().len(), 1);

    let server = fs::read_to_string(&pid_file).unwrap();
    let server = server.trim().parse().unwrap();
    kill(server).await;
    until("the server is gone", async || !runs(server).await).await;

    assert_eq!(handle.list_tools().await.unwrap().len(), 1);
    assert!(handle.state().connected, "or this test says nothing");
    // It never answers: how long that is waited for does not matter.
    let alive = timeout(Duration::from_millis(200), handle.ping()).await;
    assert!(!matches!(alive, Ok(Ok(()))), "{alive:?}");
    assert_eq!(handle.list_tools().await.unwrap().len(), 1);
    assert_eq!(handle.state().starts, 1);
    handle.shutdown(Duration::ZERO).await;
}
