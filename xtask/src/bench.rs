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
}

/// The benches' package.
const PACKAGE: &str = "toolweir-benches";

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    let Bench::Mcp { options } = bench;
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
