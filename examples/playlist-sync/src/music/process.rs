//! The life of the `music-server` process: start, lock, serve, stop.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::stdio_pipes;
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::EnvFilter;

use super::args::Arguments;
use super::catalogue::Catalogue;
use super::clock::WallClock;
use super::journal::{Journal, StopReason};
use super::quota::Quota;
use super::server::{MusicServer, Service};
use super::token::Token;
use crate::playlist;

/// How long calls that are being answered may hold up a stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the server with the command line's arguments.
///
/// Exit code 0 after a stop that was asked for, 1 with one sentence on stderr if it cannot run, 2
/// for a wrong command line.
#[must_use]
pub fn main() -> ExitCode {
    let clock = WallClock::system();
    let started_at_ms = clock.now_ms();
    let arguments = Arguments::parse();
    log_to_stderr();
    match run_to_end(&arguments, clock, started_at_ms) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even stderr is gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "music-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr() {
    let default = EnvFilter::new("warn,playlist_sync=info,rmcp=error");
    let filter = EnvFilter::try_from_default_env().unwrap_or(default);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would say on stderr that stderr is gone, and panic: an orphan ends in good order.
        .log_internal_errors(false)
        .init();
}

fn run_to_end(arguments: &Arguments, clock: WallClock, started_at_ms: u64) -> anyhow::Result<()> {
    // One thread for the protocol; the disk has the blocking pool.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(arguments, clock, started_at_ms));
    // A read of a terminal cannot be cancelled, and must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn run(arguments: &Arguments, clock: WallClock, started_at_ms: u64) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signals cannot be listened for")?;
    let catalogue = catalogue(arguments)?;
    let opened = tokio::select! {
        opened = Journal::open(&arguments.journal, arguments.journal_wait) => opened?,
        _ = signals.next() => return Ok(()),
    };
    let journal = Arc::new(opened);
    let generation = journal.start(std::process::id(), started_at_ms)?;
    tracing::info!(journal = %arguments.journal.display(), tracks = catalogue.len(), "started");
    let token = move || Token::issue(generation, arguments.token_life, Instant::now());
    let served = tokio::select! {
        served = serve(arguments, catalogue, Arc::clone(&journal), clock.clone(), token) => served,
        reason = signals.next() => Ok(Served::Stopped(reason)),
    };
    let (reason, result) = match served {
        Ok(Served::Running(running)) => (until_end(*running, &mut signals).await, Ok(())),
        Ok(Served::Stopped(reason)) => (reason, Ok(())),
        Err(error) => (StopReason::Failed, Err(error)),
    };
    journal.close(reason, clock.now_ms())?;
    tracing::info!(?reason, "stopped");
    result
}

type Running = rmcp::service::RunningService<rmcp::RoleServer, MusicServer>;

/// What became of the start.
enum Served {
    Running(Box<Running>),
    Stopped(StopReason),
}

/// Starts slowly, as told, and shakes hands with the client.
async fn serve(
    arguments: &Arguments,
    catalogue: Catalogue,
    journal: Arc<Journal>,
    clock: WallClock,
    token: impl FnOnce() -> Token,
) -> anyhow::Result<Served> {
    sleep(arguments.start_delay).await;
    let server = MusicServer::new(Service {
        catalogue,
        journal,
        quota: Quota::new(arguments.rate, arguments.burst),
        token: token(),
        latency: arguments.latency,
        clock,
    });
    match server.serve(stdio_pipes()).await {
        Ok(running) => Ok(Served::Running(Box::new(running))),
        Err(ServerInitializeError::ConnectionClosed(_)) => {
            Ok(Served::Stopped(StopReason::InputClosed))
        }
        Err(error) => Err(anyhow::anyhow!("the client does not speak MCP: {error}")),
    }
}

/// Serves until the input ends or a signal comes; calls in flight may finish.
async fn until_end(running: Running, signals: &mut Signals) -> StopReason {
    let cancel = running.cancellation_token();
    let mut ended = std::pin::pin!(running.waiting());
    tokio::select! {
        quit = &mut ended => match quit {
            Ok(_) => StopReason::InputClosed,
            Err(_) => StopReason::Failed,
        },
        reason = signals.next() => {
            cancel.cancel();
            // The journal is closed after this, whoever is still at work.
            let _ = timeout(STOP_LIMIT, ended).await;
            reason
        }
    }
}

/// The catalogue of the inputs, with a word on stderr about what is odd in them.
fn catalogue(arguments: &Arguments) -> anyhow::Result<Catalogue> {
    let mut tracks = Vec::new();
    for input in &arguments.inputs {
        let export = match playlist::read(input) {
            Ok(export) => export,
            Err(error) if arguments.skip_unreadable => {
                tracing::warn!("{error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for row in &export.malformed {
            tracing::warn!("{row}");
        }
        for row in &export.warnings {
            tracing::warn!("{row}");
        }
        tracks.extend(export.tracks);
    }
    let (catalogue, idle) = Catalogue::build(tracks, arguments.missing_tracks());
    for name in idle.iter().filter(|name| *name != super::DEFAULT_MISSING) {
        tracing::warn!(track = name, "is to be missing and is in no input");
    }
    Ok(catalogue)
}

/// The signals that ask a process to end.
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self {
            terminate,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> StopReason {
        tokio::select! {
            _ = self.terminate.recv() => StopReason::Terminated,
            _ = self.interrupt.recv() => StopReason::Interrupted,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) -> StopReason {
        match tokio::signal::ctrl_c().await {
            Ok(()) => StopReason::Interrupted,
            // Without the signal the end of the input is what ends the server.
            Err(_) => std::future::pending().await,
        }
    }
}
