//! The bench's command line, and the plan that follows from it.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Parser;

/// Measure our limits beside their peers: what a call costs, and how they behave.
///
/// Time is measured of a service that is ready at once, on one thread unless a case says otherwise.
/// The cases take turns, in an order that changes, so that whatever else the machine does meets all
/// of them. A figure is the median of the rounds, a ratio the median of the ratios that each round
/// showed. Behaviour is looked at on a paused clock, of ours and of the peer by the same test.
///
/// It fails if a behaviour of ours does not hold, and with --check also if a ratio misses its
/// target, or if a call through ours allocates.
#[derive(Debug, Parser)]
#[command(name = "layers", bin_name = "cargo xtask bench layers", version)]
pub(crate) struct Arguments {
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Fail if a ratio misses its target, or if a call through ours allocates.
    #[arg(long)]
    pub(crate) check: bool,

    /// Only see whether it works: a few calls of each kind, whose times mean nothing.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Look at behaviour alone, and measure no time.
    #[arg(long)]
    pub(crate) behaviour: bool,

    /// How many rounds the medians are taken of.
    #[arg(long, default_value = "25", value_parser = clap::value_parser!(u16).range(5..=999))]
    pub(crate) rounds: u16,

    /// How long each case is measured in a round.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "20ms")]
    pub(crate) turn: Duration,

    /// How many threads share one instance where a case is of many; by default one a core, at least
    /// two and at most four.
    #[arg(long)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Measure only cases whose name has this in it; may be given more than once. A ratio is shown if
    /// both of its cases are measured.
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,

    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What is measured, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) turn: Duration,
    pub(crate) threads: usize,
    pub(crate) only: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) behaviour_only: bool,
}

impl Arguments {
    pub(crate) fn plan(&self) -> Plan {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let plan = Plan {
            rounds: self.rounds.into(),
            turn: self.turn,
            threads: self.threads.map_or(cores.clamp(2, 4), NonZeroUsize::get),
            only: self.only.clone(),
            quick: self.quick,
            behaviour_only: self.behaviour,
        };
        if !self.quick {
            return plan;
        }
        Plan {
            rounds: 2,
            turn: Duration::from_micros(200),
            ..plan
        }
    }
}
