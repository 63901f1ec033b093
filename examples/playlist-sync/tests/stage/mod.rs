//! A development server, workers and a journal for one test.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's own set-up a failure is the test's"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use playlist_sync::{
    music::journal::{self, Summary, WAITS_FOR_JOURNAL},
    sync::{PlaylistSync, SyncInput, SyncReport, TASK_QUEUE},
};
use temporalio_client::{Client, WorkflowGetResultOptions, WorkflowHandle, WorkflowStartOptions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::oneshot,
    time::{Instant, sleep},
};
use toolweir_testkit::temporal::{Options, TemporalServer};

/// A machine that compiles on every core is slow; one that hangs is slower.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a test runs on. Dropped, everything ends.
pub(crate) struct Stage {
    temporal: TemporalServer,
    folder: tempfile::TempDir,
}

/// A worker that was started while another's server has the journal. Dropped, it is killed.
pub(crate) struct Successor {
    worker: Child,
}

impl Successor {
    /// Waits until it polls.
    pub(crate) async fn ready(mut self) -> Child {
        ready(&mut self.worker).await;
        self.worker
    }
}

/// A workflow run.
pub(crate) type Run = WorkflowHandle<Client, PlaylistSync>;

impl Stage {
    pub(crate) async fn set() -> Self {
        Self {
            temporal: TemporalServer::start(Options::new()).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.jsonl")
    }

    pub(crate) fn address(&self) -> &str {
        self.temporal.address()
    }

    /// A worker whose music server takes `options` besides its inputs.
    pub(crate) async fn worker(&self, options: &[&str]) -> Child {
        self.worker_with(&[], options).await
    }

    /// A worker with options of its own, and its music server's.
    pub(crate) async fn worker_with(&self, own: &[&str], server: &[&str]) -> Child {
        let mut worker = worker_command(self.address(), &self.journal(), own, server)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        ready(&mut worker).await;
        worker
    }

    /// Another worker, with a server that has come to the journal and found it taken.
    pub(crate) async fn successor(&self, server: &[&str]) -> Successor {
        let mut worker = worker_command(self.address(), &self.journal(), &[], server)
            .env("RUST_LOG", "toolweir_mcp::stderr=debug,playlist_sync=info")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = worker.stderr.take().unwrap();
        let (tell, waits) = oneshot::channel();
        // Read to its end, or the worker would be held up.
        tokio::spawn(async move {
            let mut tell = Some(tell);
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains(WAITS_FOR_JOURNAL) {
                    let _ = tell.take().map(|tell| tell.send(()));
                }
            }
        });
        tokio::select! {
            told = waits => told.expect("the worker ended before its server waited"),
            () = self.wait_for("a second server", |summary| summary.starts.len() > 1) => {
                panic!("two servers have the journal at once");
            }
        }
        Successor { worker }
    }

    pub(crate) async fn start(&self, id: &str, input: SyncInput) -> Run {
        let client = self.temporal.client("default").await.unwrap();
        let options = WorkflowStartOptions::new(TASK_QUEUE, id).build();
        client
            .start_workflow(PlaylistSync::run, input, options)
            .await
            .unwrap();
        client.get_workflow_handle(id)
    }

    pub(crate) fn summary(&self) -> Summary {
        journal::read(&self.journal()).unwrap()
    }

    /// Waits until the journal says so.
    pub(crate) async fn wait_for(&self, what: &str, holds: impl Fn(&Summary) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !self.journal().exists() || !holds(&self.summary()) {
            assert!(Instant::now() < give_up, "{what} did not come about");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ready(worker: &mut Child) {
    let stdout = worker.stdout.take().unwrap();
    let line = BufReader::new(stdout).lines().next_line().await.unwrap();
    assert!(line.is_some(), "the worker ended before it was ready");
}

pub(crate) fn worker_command(
    address: &str,
    journal: &Path,
    own: &[&str],
    server: &[&str],
) -> Command {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_worker"));
    worker
        .args(["--address", address])
        .args(own)
        .arg("--")
        .arg(env!("CARGO_BIN_EXE_music-server"))
        .arg("--journal")
        .arg(journal)
        .args(server)
        .arg("--inputs")
        .args(exports())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    worker
}

pub(crate) async fn result(run: &Run) -> SyncReport {
    let options = WorkflowGetResultOptions::default();
    tokio::time::timeout(PATIENCE, run.get_result(options))
        .await
        .expect("the run did not end in time")
        .unwrap()
}

/// The example's own exports.
pub(crate) fn exports() -> Vec<String> {
    ["anna.csv", "ben.csv", "chloe.m3u8"]
        .map(|name| format!("{}/../data/{name}", env!("CARGO_MANIFEST_DIR")))
        .to_vec()
}

/// Ends a process as a crash or the kernel would.
pub(crate) async fn kill_dash_nine(process: u32) {
    let status = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status()
        .await
        .unwrap();
    assert!(status.success());
}

/// Waits until a process has ended. Its remains do not count: nobody may be there to reap an orphan.
pub(crate) async fn gone(process: u32) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &process.to_string()])
            .output();
        let state = ps.await.unwrap().stdout;
        if matches!(state.trim_ascii().first(), None | Some(b'Z')) {
            return;
        }
        assert!(Instant::now() < give_up, "process {process} does not end");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every findable track of the example's exports stands in its playlist, once.
pub(crate) fn assert_every_track_once(summary: &Summary) {
    assert_eq!(summary.entries(), 23, "23 of the 24 tracks can be found");
    assert_eq!(summary.duplicates(), vec![], "a track stands twice");
    for (playlist, entries) in &summary.playlists {
        let mut ids: Vec<_> = entries.iter().map(|entry| &entry.track_id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), entries.len(), "in {playlist}");
    }
}
