//! A thousand calls at once, and a server that allows ten a second: who gets them through, when, and
//! at the price of how many answers 429. `cargo xtask bench goodput --help` says more.

mod arguments;
mod figures;
mod plot;
mod simulation;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;

use self::{arguments::Arguments, figures::Figures, simulation::Way};

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<ExitCode> {
    // Whoever waits for figures should not learn at the end that there was no place for them.
    if let Some(json) = &arguments.json {
        write(json, "")?;
    }
    let mut runs = Vec::new();
    for way in Way::ALL {
        say(&format!("bench: {}", way.name()));
        let run = simulation::run(way).with_context(|| format!("{}: cannot go on", way.name()))?;
        runs.push(run);
    }
    let figures = Figures::of(&runs);
    print(&figures.to_string());
    if let Some(json) = &arguments.json {
        write(
            json,
            &format!("{}\n", serde_json::to_string_pretty(&figures)?),
        )?;
    }
    let plot = arguments.plot();
    plot::draw(&plot, &runs).with_context(|| format!("cannot write {}", plot.display()))?;
    say(&format!(
        "bench: calls a second over time: {}",
        plot.display()
    ));
    let missed = arguments.check && !figures.all_met();
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(
    clippy::print_stderr,
    reason = "progress and errors are for the person at the terminal"
)]
fn say(message: &str) {
    eprintln!("{message}");
}

#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
fn print(table: &str) {
    print!("{table}");
}
