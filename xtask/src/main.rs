//! The workspace's commands: `cargo xtask demo`, `test`, `bench` and `ci`.

mod bench;
mod ci;
mod demo;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The workspace's commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the playlist sync end to end on this machine: development server, MCP server, worker,
    /// schedules and backfills. Stops everything it started.
    ///
    /// Its own options follow, such as `--json FILE` and `--unprotected`; `cargo xtask demo --help`
    /// lists them.
    #[command(disable_help_flag = true)]
    Demo {
        /// Handed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run every test, the end-to-end ones against a real development server included.
    Test {
        /// Handed on to `cargo nextest run`, or to `cargo test` where nextest is not installed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Measure, in an optimised build.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check what must hold before a change lands, and with `--full` the tests themselves.
    Ci(ci::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo { options } => demo::run(&options),
        Command::Test { options } => test::run(&options),
        Command::Bench(bench) => bench::run(&bench),
        Command::Ci(arguments) => ci::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        #[expect(
            clippy::print_stderr,
            reason = "what went wrong is for the person at the terminal"
        )]
        {
            eprintln!("error: {error:#}");
        }
        ExitCode::FAILURE
    })
}
