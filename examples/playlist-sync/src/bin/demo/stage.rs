//! What the demo starts and stops: the development server, the worker, the files.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use playlist_sync::sync::TASK_QUEUE;
use temporalio_client::Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use toolweir_testkit::temporal::{Options, TemporalServer};

use crate::arguments::Arguments;

/// A worker that starts its server, with the start delay on top.
const WORKER_READY_WITHIN: Duration = Duration::from_secs(60);
/// A graceful shutdown: the calls under way, then the server's own end.
const WORKER_STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Two demos on one server keep out of each other's way.
const NAMESPACE: &str = "default";

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    temporal: TemporalServer,
    worker: Child,
    folder: tempfile::TempDir,
    task_queue: String,
}

impl Stage {
    /// Starts the development server, and a worker on it, which is not ready yet.
    pub(crate) async fn set(arguments: &Arguments, exports: &[PathBuf]) -> Result<Self> {
        let folder = folder()?;
        let temporal = TemporalServer::start(Options::new()).await?;
        let task_queue = format!("{TASK_QUEUE}-demo-{}", std::process::id());
        let journal = journal(folder.path());
        let worker = match worker(
            arguments,
            exports,
            &journal,
            temporal.address(),
            &task_queue,
        ) {
            Ok(worker) => worker,
            Err(error) => {
                temporal.stop().await?;
                return Err(error);
            }
        };
        Ok(Self {
            temporal,
            worker,
            folder,
            task_queue,
        })
    }

    /// Waits until the worker polls, with its MCP server behind it.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        ready(&mut self.worker).await
    }

    pub(crate) fn task_queue(&self) -> &str {
        &self.task_queue
    }

    pub(crate) fn journal(&self) -> PathBuf {
        journal(self.folder.path())
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(self.temporal.client(NAMESPACE).await?)
    }

    /// Ends when the worker does, which it should not.
    pub(crate) async fn worker_ended(&mut self) -> Result<ExitStatus> {
        Ok(self.worker.wait().await?)
    }

    /// Stops the worker gracefully, which reaps the MCP server.
    pub(crate) async fn stop_worker(&mut self) -> Result<()> {
        if self.worker.try_wait()?.is_some() {
            return Ok(());
        }
        interrupt(&self.worker).await?;
        match timeout(WORKER_STOPS_WITHIN, self.worker.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("the worker did not end well: {status}");
                }
                Ok(())
            }
            Err(_) => {
                self.worker.kill().await?;
                bail!("the worker did not end within {WORKER_STOPS_WITHIN:?} and was killed");
            }
        }
    }

    /// Stops what still runs and removes the files.
    pub(crate) async fn strike(mut self) -> Result<()> {
        let worker = self.stop_worker().await;
        self.temporal.stop().await?;
        self.folder.close()?;
        worker
    }
}

/// Beside the program, under the target directory.
fn programs() -> Result<PathBuf> {
    let me = env::current_exe().context("cannot tell where this program is")?;
    Ok(me.parent().map(Path::to_owned).unwrap_or_default())
}

fn folder() -> Result<tempfile::TempDir> {
    let demos = programs()?.join("demos");
    std::fs::create_dir_all(&demos)
        .with_context(|| format!("cannot make the folder {}", demos.display()))?;
    Ok(tempfile::tempdir_in(demos)?)
}

fn journal(folder: &Path) -> PathBuf {
    folder.join("music-journal.jsonl")
}

fn worker(
    arguments: &Arguments,
    exports: &[PathBuf],
    journal: &Path,
    address: &str,
    task_queue: &str,
) -> Result<Child> {
    let programs = programs()?;
    let mut worker = Command::new(programs.join("worker"));
    worker
        .args(["--address", address, "--namespace", NAMESPACE])
        .args(["--task-queue", task_queue])
        .args(["--rate", &arguments.rate.to_string()])
        .args(["--burst", &arguments.burst.to_string()])
        .args(arguments.unprotected.then_some("--unprotected"))
        .arg("--")
        .arg(programs.join("music-server"))
        .arg("--journal")
        .arg(journal)
        .args(["--rate", &arguments.server_rate.to_string()])
        .args(["--burst", &arguments.server_burst.to_string()])
        .args(["--token-life", &humantime::format_duration(arguments.token_life).to_string()])
        .args(["--start-delay", &humantime::format_duration(arguments.start_delay).to_string()])
        // An export that cannot be read fails its own user alone.
        .arg("--skip-unreadable")
        .arg("--inputs")
        .args(exports)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ctrl-C is for the demo, which then stops the worker in its turn.
        .process_group(0)
        .kill_on_drop(true);
    worker
        .spawn()
        .context("cannot start the worker; `cargo xtask demo` builds it")
}

/// Waits for the line with which a worker says that it polls.
async fn ready(worker: &mut Child) -> Result<()> {
    let stdout = worker.stdout.take().context("the worker has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(WORKER_READY_WITHIN, lines.next_line())
        .await
        .with_context(|| format!("the worker was not ready within {WORKER_READY_WITHIN:?}"))??;
    if line.is_none() {
        bail!("the worker ended before it was ready; its own message is above");
    }
    Ok(())
}

/// Asks a process to end, as Ctrl-C would.
async fn interrupt(child: &Child) -> Result<()> {
    let Some(id) = child.id() else { return Ok(()) };
    // The standard library can only kill. `kill` is on every Linux and macOS.
    let status = Command::new("kill")
        .args(["-INT", &id.to_string()])
        .status()
        .await?;
    if !status.success() {
        bail!("cannot stop the worker, process {id}");
    }
    Ok(())
}
