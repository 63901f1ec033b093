//! The demo's command line. Its defaults make the load bite.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Parser;

/// Run a scheduled playlist sync end to end on this machine.
///
/// Starts a Temporal development server, a worker and the music service behind its MCP server;
/// creates a schedule of five seconds and triggers it by hand; backfills two daily schedules over
/// the same past days at once, one run by run and one all at once; lets the service's token expire
/// meanwhile; then prints what happened and stops everything it started.
///
/// It succeeds only if every findable track of every export stands in its playlist exactly once,
/// both backfills completed all their runs, and no run failed. With --unprotected, which shows what
/// the layers are for, it succeeds when the load was run.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo", bin_name = "cargo xtask demo", version)]
pub(crate) struct Arguments {
    /// Playlist exports (.csv, .m3u, .m3u8); by default those that come with the example.
    #[arg(value_name = "EXPORT")]
    pub(crate) exports: Vec<PathBuf>,

    /// Run the same load on the bare connection: no layers, no preflight, three attempts a call.
    #[arg(long)]
    pub(crate) unprotected: bool,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// How many past days the daily schedules are backfilled over.
    #[arg(long, default_value_t = 17, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) days: u16,

    /// How many calls a second the service takes.
    #[arg(long, value_name = "CALLS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) server_rate: u32,

    /// How many calls the service takes at once after a pause.
    #[arg(long, value_name = "CALLS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) server_burst: u32,

    /// How many calls a second the layers hold to.
    #[arg(long, value_name = "CALLS", default_value_t = 45, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,

    /// How many calls the layers let through at once after a pause.
    #[arg(long, value_name = "CALLS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,

    /// How many calls a run has under way at once.
    #[arg(long, value_name = "CALLS", default_value = "4")]
    pub(crate) in_flight: NonZeroUsize,

    /// How long the service's token lives.
    #[arg(long, value_name = "DURATION", value_parser = longer_than_zero, default_value = "20s")]
    pub(crate) token_life: Duration,

    /// How long the service takes to start.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "2s")]
    pub(crate) start_delay: Duration,

    /// After how long the demo stops waiting for the backfills; by default 150s, or 60s without
    /// layers, where runs fail slowly.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    give_up_after: Option<Duration>,
}

impl Arguments {
    /// After how long the demo stops waiting for the backfills.
    pub(crate) fn give_up_after(&self) -> Duration {
        let default = if self.unprotected { 60 } else { 150 };
        self.give_up_after.unwrap_or(Duration::from_secs(default))
    }

    /// What runs may take to end once no more are started.
    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_secs(if self.unprotected { 5 } else { 30 })
    }
}

/// A token without a life would never do, and every run would wait for another one.
fn longer_than_zero(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero, such as 20s".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_work_is_refused_at_once() {
        for option in [
            "--server-rate=0",
            "--server-burst=0",
            "--rate=0",
            "--burst=0",
            "--in-flight=0",
            "--token-life=0s",
            "--days=0",
        ] {
            let (name, _) = option.split_once('=').unwrap();
            let refused = Arguments::try_parse_from(["demo", option]).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let defaults = Arguments::try_parse_from(["demo"]).unwrap();
        assert_eq!(defaults.in_flight.get(), 4);
    }
}
