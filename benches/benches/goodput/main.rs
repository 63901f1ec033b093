//! A thousand calls at once, and a server that allows ten a second: who gets them through, when, and
//! at the price of how many answers 429. `cargo xtask bench goodput --help` says more.

mod arguments;
mod figures;
mod plot;
mod simulation;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use toolweir_benches::{progress::Progress, report};

use self::{
    arguments::Arguments,
    figures::Figures,
    simulation::{Run, Way},
};

fn main() -> ExitCode {
    report::verdict(bench(&Arguments::parse()))
}

/// Which targets are missed, if that is asked for.
fn bench(arguments: &Arguments) -> Result<Vec<String>> {
    let mut runs = Vec::new();
    let figures = report::figures(arguments.json.as_deref(), || {
        runs = simulate()?;
        Ok(Figures::of(&runs))
    })?;
    let plot = arguments.plot();
    plot::draw(&plot, &runs).with_context(|| format!("cannot write {}", plot.display()))?;
    report::note(&format!("calls a second over time: {}", plot.display()));
    let missed = figures.missed().filter(|_| arguments.check);
    Ok(missed.map(|target| format!("missed: {target}")).collect())
}

fn simulate() -> Result<Vec<Run>> {
    let progress = Progress::new(Way::ALL.len());
    let runs = Way::ALL.into_iter().map(|way| {
        progress.say(way.name());
        let run = simulation::run(way).with_context(|| format!("{}: cannot go on", way.name()));
        progress.step();
        run
    });
    let runs = runs.collect();
    progress.done();
    runs
}
