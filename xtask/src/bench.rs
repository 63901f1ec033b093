//! Builds the benches, optimised, and runs one.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Subcommand;

use crate::workspace;

/// What can be measured.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Bench {
    /// What the layers cost over bare rmcp: time and allocations of a call, and memory.
    ///
    /// Its own options follow, such as `--json FILE`; `cargo xtask bench mcp --help` lists them.
    #[command(disable_help_flag = true)]
    Mcp {
        /// Handed on to the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// How a thousand calls get through a server that allows ten a second, in simulated time.
    ///
    /// Its own options follow, such as `--json FILE`; `cargo xtask bench goodput --help` lists them.
    #[command(disable_help_flag = true)]
    Goodput {
        /// Handed on to the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

/// The benches' package.
const PACKAGE: &str = "toolweir-benches";

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Mcp { options } => mcp(options),
        Bench::Goodput { options } => goodput(options),
    }
}

fn mcp(options: &[String]) -> Result<ExitCode> {
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", PACKAGE, "--bins"]);
    let built = workspace::status(&mut build)?;
    if !built.success() {
        return Ok(workspace::exit_code(built));
    }
    let mut bench = Command::new(workspace::target().join("release").join("mcp-bench"));
    bench.args(options);
    workspace::become_the(&mut bench)
}

fn goodput(options: &[String]) -> Result<ExitCode> {
    let mut bench = workspace::cargo();
    // The time in it is simulated, so there is nothing to optimise.
    bench.args(["bench", "--quiet", "--profile", "dev", "--package", PACKAGE]);
    bench.args(["--bench", "goodput", "--"]).args(options);
    workspace::become_the(&mut bench)
}
