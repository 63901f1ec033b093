//! What a call through our limits costs and how they behave, beside their peers in the same run.
//!
//! It is a module of the bench and of a test, so that the test runs what the bench runs.

mod arguments;
mod behaviour;
mod call;
mod cases;
pub(crate) mod figures;
mod peers;
#[path = "../../src/bin/mcp-bench/progress.rs"]
mod progress;
pub(crate) mod ratios;
pub(crate) mod rounds;
mod table;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;

pub(crate) use self::{arguments::Arguments, figures::Figures};
use self::{figures::Case, progress::Progress, ratios::Ratio};

/// The bench as a command.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    bench(&arguments).unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn bench(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        // Better now than after a minute of work.
        write(path, "")?;
    }
    let figures = measure(arguments)?;
    #[expect(clippy::print_stdout, reason = "the figures are what the bench is for")]
    {
        print!("{figures}");
    }
    if let Some(path) = &arguments.json {
        write(path, &(serde_json::to_string_pretty(&figures)? + "\n"))?;
    }
    Ok(verdict(arguments, &figures))
}

/// Measures everything that the arguments ask for.
///
/// Time is measured first: a runtime whose clock was once paused reads every clock more slowly.
pub(crate) fn measure(arguments: &Arguments) -> Result<Figures> {
    let plan = arguments.plan();
    let cases = cases::all(plan.threads)?;
    let progress = Progress::new(plan.rounds + 2);
    let (cases, ratios) = if plan.behaviour_only {
        (Vec::new(), Vec::new())
    } else {
        let measured = rounds::measure(&plan, cases, &progress);
        (Case::all(&measured), Ratio::all(&measured))
    };
    progress.say("behaviour");
    let behaviour = behaviour::observe();
    progress.done();
    Ok(Figures {
        cases,
        behaviour,
        ratios,
        quick: plan.quick,
    })
}

fn verdict(arguments: &Arguments, figures: &Figures) -> ExitCode {
    let mut complaints = Vec::new();
    for row in figures.behaviour.iter().filter(|row| !row.ours_holds) {
        complaints.push(format!("ours does not hold: {}", row.what));
    }
    if arguments.check {
        let missed = figures.ratios.iter().filter(|ratio| !ratio.is_met());
        complaints.extend(missed.map(|ratio| format!("missed its target: {ratio}")));
        let allocating = figures.cases.iter().filter(|case| case.must_not_allocate());
        complaints.extend(allocating.map(|case| format!("{} allocates", case.name)));
    }
    for complaint in &complaints {
        complain(complaint);
    }
    if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what went wrong is for the person at the terminal"
)]
fn complain(what: &str) {
    eprintln!("error: {what}");
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
