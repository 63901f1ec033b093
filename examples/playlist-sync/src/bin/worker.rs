//! The worker: one MCP server, its layers, the activities and the workflow, on one task queue.

use std::{io::IsTerminal as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use playlist_sync::{
    stop::Stop,
    sync::{ExportActivities, MUSIC, PlaylistSync, TASK_QUEUE},
    temporal,
};
use temporalio_client::Client;
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use toolweir::{
    mcp::{Entry, McpService, ServerRegistry, StdioServer, TokenTools},
    rate_limit::RateLimitConfig,
    stack::ToolStack,
    temporal::ToolActivities,
};
use tracing_subscriber::EnvFilter;

/// What activities get to end when the worker is stopped.
const GRACE: Duration = Duration::from_secs(6);
/// What the calls in them get: less, so that each activity reports what became of its call before
/// Temporal takes it for interrupted, and has it made again.
const CALLS_GRACE: Duration = Duration::from_secs(4);

/// Syncs playlists when Temporal schedules say so.
///
/// Starts the MCP server given after `--` as a child process, warms it up, then polls the task
/// queue until Ctrl-C or SIGTERM; then ends the calls under way and the server. Says on stdout when
/// it polls; everything else goes to stderr.
#[derive(Debug, Parser)]
#[command(name = "worker", version)]
struct Arguments {
    /// The Temporal server, as host:port.
    #[arg(long, env = "TEMPORAL_ADDRESS", default_value = "127.0.0.1:7233")]
    address: String,

    /// The Temporal namespace.
    #[arg(long, env = "TEMPORAL_NAMESPACE", default_value = "default")]
    namespace: String,

    /// The task queue to poll.
    #[arg(long, default_value = TASK_QUEUE)]
    task_queue: String,

    /// How many calls a second the server is sent.
    #[arg(long, value_name = "CALLS", default_value_t = 45)]
    rate: u32,

    /// How many calls the server is sent at once after a pause.
    #[arg(long, value_name = "CALLS", default_value_t = 25)]
    burst: u32,

    /// Call the server without any layer, to see what they are for.
    #[arg(long)]
    unprotected: bool,

    /// The MCP server's program and its arguments.
    #[arg(last = true, required = true, value_name = "SERVER")]
    server: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "what went wrong is for people")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mut stop = Stop::listen()?;
    let registry = Arc::new(registry(arguments)?);
    let result = work(arguments, &registry, &mut stop).await;
    // However it ended, the server's processes are reaped.
    registry.shutdown(CALLS_GRACE).await;
    result
}

/// Connects, warms the server up, and polls until it is told to stop.
async fn work(
    arguments: &Arguments,
    registry: &Arc<ServerRegistry>,
    stop: &mut Stop,
) -> Result<()> {
    let prepared = tokio::select! {
        prepared = prepare(arguments, registry) => Some(prepared?),
        () = stop.asked() => None,
    };
    let Some(client) = prepared else {
        return Ok(());
    };
    let options = WorkerOptions::new(&arguments.task_queue)
        .register_workflow::<PlaylistSync>()?
        .register_activities(ExportActivities)
        .register_activities(ToolActivities::new(Arc::clone(registry)))
        .graceful_shutdown_period(GRACE)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let shutdown = worker.shutdown_handle();
    #[expect(
        clippy::print_stdout,
        reason = "who starts workers waits for this line"
    )]
    {
        println!("worker polls task queue {:?}", arguments.task_queue);
    }
    let mut running = std::pin::pin!(worker.run());
    tokio::select! {
        ended = &mut running => bail!("the worker ended by itself: {ended:?}"),
        () = stop.asked() => shutdown(),
    }
    let (ended, ()) = tokio::join!(running, registry.shutdown(CALLS_GRACE));
    ended.context("the worker did not stop cleanly")
}

/// What can go wrong goes wrong here, before the worker takes work.
async fn prepare(arguments: &Arguments, registry: &ServerRegistry) -> Result<Client> {
    let client = temporal::connect(&arguments.address, &arguments.namespace).await?;
    registry
        .warm_up()
        .await
        .map_err(anyhow::Error::from_boxed)?;
    Ok(client)
}

/// The one server of this worker, behind its layers.
fn registry(arguments: &Arguments) -> Result<ServerRegistry> {
    let (program, rest) = arguments
        .server
        .split_first()
        .context("no MCP server given")?;
    let mcp = McpService::builder(MUSIC)
        .stdio(StdioServer::new(program).args(rest))
        // The server's journal names who calls.
        .send_principal(true)
        .build()?;
    let entry = if arguments.unprotected {
        Entry::of(mcp)
    } else {
        let quota = RateLimitConfig::builder()
            .calls_per_second(arguments.rate)
            .burst(arguments.burst);
        ToolStack::builder(mcp)
            .rate_limit(quota.build()?)
            .token_tools(TokenTools::default())
            .build()?
            .into_entry()
    };
    Ok(ServerRegistry::builder().server(MUSIC, entry).build()?)
}
