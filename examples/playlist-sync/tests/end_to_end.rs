//! The example against a real development server, with its processes killed under it.

mod stage;

use std::{process::Stdio, time::Duration};

use playlist_sync::{
    music::journal::{StopReason, Summary},
    sync::SyncInput,
};
use stage::{
    Stage, assert_every_track_once, exports, gone, kill_dash_nine, result, worker_command,
};
use temporalio_client::WorkflowCancelOptions;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// So slow that there is a middle to be killed in.
const SLOW: [&str; 4] = ["--latency", "100ms", "--rate", "50"];

const fn some_adds(summary: &Summary) -> bool {
    summary.counts.adds >= 5
}

fn input() -> SyncInput {
    SyncInput {
        patience_ms: 60_000,
        ..SyncInput::new(exports())
    }
}

#[tokio::test]
async fn real_exports_are_synced_and_a_second_run_finds_everything_there() {
    let stage = Stage::set().await;
    let _worker = stage.worker(&["--rate", "50", "--burst", "50"]).await;

    let first = result(&stage.start("first", input()).await).await;
    let second = result(&stage.start("second", input()).await).await;

    let count = |report: &playlist_sync::sync::SyncReport| {
        let sum = |field: fn(&playlist_sync::sync::PlaylistReport) -> usize| {
            report.playlists.iter().map(field).sum::<usize>()
        };
        (
            sum(|playlist| playlist.added),
            sum(|playlist| playlist.already_there),
            sum(|playlist| playlist.not_found),
        )
    };
    assert_eq!(count(&first), (23, 0, 1));
    assert_eq!(count(&second), (0, 23, 1));
    assert_every_track_once(&stage.summary());
}

#[tokio::test]
async fn a_server_killed_in_mid_run_is_replaced_and_nothing_is_lost_or_done_twice() {
    let stage = Stage::set().await;
    let _worker = stage.worker(&SLOW).await;
    let run = stage.start("killed-server", input()).await;

    stage.wait_for("some adds", some_adds).await;
    let process = stage.summary().starts[0].pid;
    kill_dash_nine(process).await;
    let report = result(&run).await;

    assert_eq!(report.failed(), 0, "{report:?}");
    let summary = stage.summary();
    assert_eq!(summary.counts.server_starts, 2);
    assert_every_track_once(&summary);
}

#[tokio::test]
async fn a_worker_killed_in_mid_run_is_replaced_and_nothing_is_lost_or_done_twice() {
    let stage = Stage::set().await;
    let mut worker = stage.worker(&SLOW).await;
    let run = stage.start("killed-worker", input()).await;

    stage.wait_for("some adds", some_adds).await;
    worker.kill().await.expect("the worker runs");
    let _successor = stage.worker(&SLOW).await;
    let report = result(&run).await;

    assert_eq!(report.failed(), 0, "{report:?}");
    assert_handed_over(&stage.summary());
}

#[tokio::test]
async fn a_killed_workers_server_ends_the_next_takes_over_and_the_two_never_both_serve() {
    let stage = Stage::set().await;
    let mut worker = stage.worker(&SLOW).await;
    let run = stage.start("orphaned-server", input()).await;

    stage.wait_for("some adds", some_adds).await;
    let orphan = stage.summary().starts[0].pid;
    // The next server is at the door before the first one's worker is killed.
    let successor = stage.successor(&SLOW).await;
    worker.kill().await.expect("the worker runs");
    gone(orphan).await;
    let _successor = successor.ready().await;
    let report = result(&run).await;

    assert_eq!(report.failed(), 0, "{report:?}");
    assert_handed_over(&stage.summary());
}

/// One server has ended because its input was closed, and then, and no sooner, another served; between
/// them they have lost nothing and done nothing twice.
fn assert_handed_over(summary: &Summary) {
    let [first, second] = &*summary.starts else {
        panic!("not two servers: {:?}", summary.starts);
    };
    assert_ne!(first.pid, second.pid);
    let why = first.stopped.map(|(_, reason)| reason);
    assert_eq!(why, Some(StopReason::InputClosed));
    assert_eq!(summary.overlaps, []);
    assert!(summary.calls.iter().any(|call| call.server == 1));
    assert_every_track_once(summary);
}

#[tokio::test]
async fn a_cancelled_run_cancels_the_calls_at_the_server() {
    let stage = Stage::set().await;
    // Without layers: the token tools are as slow as all others.
    let slow = ["--latency", "10m"];
    let _worker = stage.worker_with(&["--unprotected"], &slow).await;
    let input = SyncInput {
        preflight: false,
        ..input()
    };
    let run = stage.start("cancelled", input).await;

    let under_way = |summary: &Summary| summary.calls_by_tool.contains_key("search");
    stage.wait_for("a search", under_way).await;
    run.cancel(WorkflowCancelOptions::default())
        .await
        .expect("the run is open");

    // Within a heartbeat.
    stage
        .wait_for("a cancelled call", |summary| summary.counts.cancelled > 0)
        .await;
}

#[tokio::test]
async fn an_unreadable_export_fails_its_user_alone() {
    let stage = Stage::set().await;
    let _worker = stage.worker(&["--rate", "50", "--burst", "50"]).await;
    let mut exports = exports();
    exports.push("/nowhere/dora.csv".to_owned());
    let input = SyncInput { exports, ..input() };

    let report = result(&stage.start("unreadable", input).await).await;

    let dora = report.playlists.last().expect("there are four");
    let why = dora.unreadable.as_deref().unwrap_or_default();
    assert!(why.contains("/nowhere/dora.csv"), "{why}");
    assert_every_track_once(&stage.summary());
}

/// Runs a worker that cannot work, to its end. It must not need long.
async fn failing(mut worker: Command) -> (String, bool) {
    worker.stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), worker.output())
        .await
        .expect("it ends")
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (said, output.status.success())
}

#[tokio::test]
async fn a_server_that_dies_in_the_handshake_is_told_in_one_sentence() {
    let stage = Stage::set().await;
    let mut worker = Command::new(env!("CARGO_BIN_EXE_worker"));
    worker.args(["--address", stage.address(), "--"]).args([
        "sh",
        "-c",
        "echo out of order >&2; exit 3",
    ]);

    let (said, success) = failing(worker).await;

    assert!(!success);
    assert!(
        said.contains("ended before it was ready: exit status: 3"),
        "{said}"
    );
    assert!(said.contains("out of order"), "{said}");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_told_in_one_sentence() {
    let stage = Stage::set().await;
    let mut worker = Command::new(env!("CARGO_BIN_EXE_worker"));
    worker.args(["--address", stage.address(), "--", "no-such-music-server"]);

    let (said, success) = failing(worker).await;

    assert!(!success);
    assert!(said.contains("no-such-music-server"), "{said}");
    assert!(said.contains("could not be started"), "{said}");
}

#[tokio::test]
async fn a_temporal_server_that_is_not_there_is_told_in_one_sentence() {
    let folder = tempfile::tempdir().expect("there is room");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there are ports")
        .port();
    let address = format!("127.0.0.1:{port}");
    let worker = worker_command(&address, &folder.path().join("journal.jsonl"), &[], &[]);

    let (said, success) = failing(worker).await;

    assert!(!success);
    assert!(
        said.contains(&format!("no Temporal server answers at {address}")),
        "{said}"
    );
}

#[tokio::test]
async fn ctrl_c_stops_worker_and_server_and_leaves_no_process() {
    let stage = Stage::set().await;
    let mut worker = stage.worker(&["--rate", "50"]).await;
    result(&stage.start("before-ctrl-c", input()).await).await;
    let process = worker.id().expect("the worker runs").to_string();

    let interrupted = Command::new("kill").args(["-INT", &process]).status();
    assert!(interrupted.await.expect("kill runs").success());
    let status = worker.wait().await.expect("the worker ends");

    assert!(status.success(), "{status}");
    let starts = stage.summary().starts;
    assert!(
        starts[0].stopped.is_some(),
        "the server ended by itself: {starts:?}"
    );
    let alive = Command::new("kill")
        .args(["-0", &starts[0].pid.to_string()])
        .stderr(Stdio::null())
        .status();
    assert!(
        !alive.await.expect("kill runs").success(),
        "the server is gone"
    );
}

#[tokio::test]
async fn a_thousand_calls_ask_for_the_token_once_in_its_life() {
    let stage = Stage::set().await;
    let server = ["--rate", "10000", "--burst", "10000", "--latency", "1ms"];
    let _worker = stage
        .worker_with(&["--rate", "5000", "--burst", "5000"], &server)
        .await;

    for round in 0..22 {
        result(&stage.start(&format!("round-{round}"), input()).await).await;
    }

    let counts = stage.summary().counts;
    assert!(counts.tool_calls >= 1000, "{counts:?}");
    let token_calls = counts.token_status_calls + counts.token_refreshes;
    assert_eq!(
        token_calls, 1,
        "an hour's token is asked for once: {counts:?}"
    );
}

/// The demo on its own server, told to stop when it has said `line`.
async fn interrupted_at(line: &str) -> (Option<i32>, Vec<String>) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let id = demo.id().expect("it runs").to_string();
    let stderr = demo.stderr.take().expect("it has one");
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    // Its worker has the same stderr: the last line comes when both have ended.
    while let Some(next) = lines.next_line().await.expect("it writes text") {
        if next.contains(line) {
            let told = Command::new("kill").args(["-INT", &id]).status().await;
            assert!(told.expect("there is a `kill`").success());
        }
        said.push(next);
    }
    (demo.wait().await.expect("it ends").code(), said)
}

#[tokio::test]
async fn a_demo_that_is_stopped_says_so_from_its_first_line_on() {
    for line in ["starting the development server", "creating the schedules"] {
        let (code, said) = interrupted_at(line).await;
        assert_eq!(code, Some(130), "{said:?}");
        let stopping = said.iter().any(|line| line == "demo: stopping everything");
        assert!(stopping, "{said:?}");
    }
}
