//! Builds the benches, optimised, and runs one.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::Value;

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
    /// What a call through our limits costs, and how they behave, beside their peers.
    ///
    /// Its own options follow, such as `--json FILE`; `cargo xtask bench layers --help` lists them.
    #[command(disable_help_flag = true)]
    Layers {
        /// Handed on to the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

/// The benches' package.
const PACKAGE: &str = "toolweir-benches";

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Mcp { options } => run_mcp(options),
        // The time in it is simulated, so there is nothing to optimise.
        Bench::Goodput { options } => run_target("goodput", "dev", options),
        Bench::Layers { options } => run_target("layers", "bench", options),
    }
}

fn run_mcp(options: &[String]) -> Result<ExitCode> {
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

/// A bench target, run by its own name rather than by `cargo bench`: that would run it in the
/// directory of its package, where the paths in its options mean something else.
fn run_target(name: &str, profile: &str, options: &[String]) -> Result<ExitCode> {
    let mut build = workspace::cargo();
    build.args([
        "bench",
        "--no-run",
        "--profile",
        profile,
        "--package",
        PACKAGE,
    ]);
    // What the other bench needs would take most of the time.
    build.args([
        "--bench",
        name,
        "--no-default-features",
        "--message-format=json-render-diagnostics",
    ]);
    let built = build.stderr(Stdio::inherit()).output();
    let built = built.context("cannot run cargo")?;
    if !built.status.success() {
        return Ok(workspace::exit_code(built.status));
    }
    let program = executable(&String::from_utf8_lossy(&built.stdout), name);
    let program = program.with_context(|| format!("cargo built no bench named {name}"))?;
    workspace::become_the(Command::new(program).args(options))
}

/// The program of a bench, by what cargo says that it has built.
fn executable(messages: &str, name: &str) -> Option<String> {
    let mut messages = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name && message["target"]["kind"][0] == "bench";
        let program = message["executable"].as_str()?;
        is_it.then(|| program.to_owned())
    });
    messages.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_is_found_in_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"layers"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"goodput"},"executable":"/t/goodput-1"}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"layers"},"executable":"/t/layers-2"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "layers").as_deref(),
            Some("/t/layers-2")
        );
        assert_eq!(executable(messages, "other"), None);
    }
}
