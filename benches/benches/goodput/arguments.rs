//! The bench's command line.

use std::path::{Path, PathBuf};

use clap::Parser;

/// Show how a thousand calls get through a server that allows ten a second.
///
/// All calls are made at once. The server takes ten at once and ten more each second, and answers any
/// other with 429 and a retry-after of one second. A request and its answer are on their way for 5 to
/// 15 ms each. Time is simulated, so the figures are the same on every machine.
#[derive(Debug, Parser)]
#[command(name = "goodput", bin_name = "cargo xtask bench goodput", version)]
pub(crate) struct Arguments {
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Draw the calls per second over time to this file; by default goodput.svg in cargo's target
    /// directory.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Fail if one of ours misses its target.
    #[arg(long)]
    pub(crate) check: bool,

    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    pub(crate) fn plot(&self) -> PathBuf {
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("goodput.svg");
        self.svg.clone().unwrap_or(beside)
    }
}
