//! The bench's command line, and the plan that follows from it.

use std::{
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::site::Transport;

/// Measure what toolweir costs over bare rmcp: time and allocations of a call, and memory.
///
/// Four ways to call one tool of one small server are compared: `bare` is rmcp's own
/// `Peer::call_tool`, `timed` is the same with tokio's timeout around each call, `mcp` is `McpService`
/// alone, `full` is a `ToolStack` with all its layers and limits so wide that nothing waits. They take
/// turns of a tenth of a second, so that what else the machine does meets all of them; `bare` takes part
/// twice, which shows how much of a difference is noise.
///
/// It fails if calls through the full stack leave memory behind, and with --check also if a ratio
/// misses its target.
#[derive(Debug, Parser)]
#[command(name = "mcp-bench", bin_name = "cargo xtask bench mcp", version)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) serve: Option<Serve>,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Fail if a ratio misses its target.
    #[arg(long)]
    pub(crate) check: bool,

    /// Only see whether it works: a few calls of each kind, whose figures mean nothing.
    #[arg(long)]
    quick: bool,

    /// How many runs the medians are taken of.
    #[arg(long, default_value = "9", value_parser = clap::value_parser!(u16).range(5..=999))]
    runs: u16,

    /// How long each way is measured in a run, in turns of a tenth of a second.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "500ms")]
    run_time: Duration,

    /// The transports to measure over.
    #[arg(
        long = "transport",
        value_name = "TRANSPORT",
        value_delimiter = ',',
        default_value = "memory,stdio,http"
    )]
    transports: Vec<Transport>,

    /// How many calls are under way at once.
    #[arg(
        long,
        value_name = "CALLS",
        value_delimiter = ',',
        default_value = "1,16,256"
    )]
    in_flight: Vec<NonZeroU16>,

    /// The client's worker threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

/// The servers, which the bench starts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Serve {
    /// Serve on stdin and stdout.
    #[command(hide = true)]
    ServeStdio,
    /// Serve over HTTP, on a free port that is told on stdout, until stdin ends.
    #[command(hide = true)]
    ServeHttp,
}

/// What is measured, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) transports: Vec<Transport>,
    pub(crate) in_flight: Vec<usize>,
    pub(crate) threads: usize,
    pub(crate) runs: usize,
    /// How many turns each way has in a run.
    pub(crate) turns: usize,
    pub(crate) turn: Duration,
    /// How many calls each task makes before anything is measured, and at most.
    pub(crate) warm_up: usize,
    /// How many calls allocations are counted of, at least.
    pub(crate) counted: usize,
    /// How many calls memory must be the same after as before.
    pub(crate) flat: usize,
    pub(crate) quick: bool,
}

const TURN: Duration = Duration::from_millis(100);

impl Arguments {
    pub(crate) fn plan(&self) -> Plan {
        let cores = std::thread::available_parallelism();
        let threads = self.threads.or(cores.ok()).map_or(1, NonZeroUsize::get);
        let turns = self.run_time.as_millis() / TURN.as_millis();
        let plan = Plan {
            transports: self.transports.clone(),
            in_flight: self
                .in_flight
                .iter()
                .map(|calls| calls.get().into())
                .collect(),
            threads,
            runs: self.runs.into(),
            turns: usize::try_from(turns).unwrap_or(usize::MAX).max(1),
            turn: TURN,
            warm_up: 500,
            counted: 5_000,
            flat: 10_000,
            quick: self.quick,
        };
        if !self.quick {
            return plan;
        }
        Plan {
            runs: 2,
            turns: 1,
            turn: Duration::from_millis(20),
            warm_up: 20,
            counted: 50,
            flat: 500,
            ..plan
        }
    }
}
