//! Measures what toolweir costs over bare rmcp; see `--help`.
//!
//! Ctrl-C needs no handler: the servers end when their stdin does, and that ends with this process.

mod arguments;
mod caller;
mod counts;
mod drive;
mod figures;
mod progress;
mod rounds;
mod server;
mod site;
mod table;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::{
    arguments::{Arguments, Plan},
    caller::Way,
    counts::Memory,
    figures::{Case, Comparison, Figures, Machine, Settings},
    progress::Progress,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.serve {
        Some(serve) => server::main(serve).map(|()| ExitCode::SUCCESS),
        None => bench(&arguments),
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

#[expect(
    clippy::print_stderr,
    reason = "what went wrong is for the person at the terminal"
)]
fn complain(what: &str) {
    eprintln!("error: {what}");
}

fn bench(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        // Better now than after minutes of work.
        write(path, "")?;
    }
    let plan = arguments.plan();
    let figures = measure(&plan)?;
    #[expect(clippy::print_stdout, reason = "the figures are what the bench is for")]
    {
        print!("{figures}");
    }
    if let Some(path) = &arguments.json {
        write(path, &(serde_json::to_string_pretty(&figures)? + "\n"))?;
    }
    Ok(verdict(arguments, &figures))
}

fn verdict(arguments: &Arguments, figures: &Figures) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    if !figures.memory.is_flat() {
        complain(&grown(&figures.memory));
        code = ExitCode::FAILURE;
    }
    let missed = figures.targets.iter().filter(|target| !target.reached);
    for target in missed.filter(|_| arguments.check) {
        complain(&format!("missed: {target}"));
        code = ExitCode::FAILURE;
    }
    code
}

fn grown(memory: &Memory) -> String {
    format!(
        "{} calls left {} bytes behind, where {} are allowed: something grows with each call",
        memory.calls, memory.growth_bytes, memory.allowed_growth_bytes
    )
}

fn measure(plan: &Plan) -> Result<Figures> {
    let mut machine = Machine::look();
    let cells = plan.transports.len() * plan.in_flight.len();
    let progress = Progress::new(cells * (plan.runs + 1) + 1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads)
        .enable_all()
        .build()?;
    let (mut cases, mut comparisons) = (Vec::new(), Vec::new());
    for &transport in &plan.transports {
        for &in_flight in &plan.in_flight {
            progress.say(&format!("{transport}, {in_flight} in flight"));
            let runs = rounds::measure(plan, transport, in_flight, &progress);
            let runs = runtime.block_on(runs)?;
            let mut allocations = [0.0; Way::ALL.len()];
            for (way, count) in Way::ALL.into_iter().zip(&mut allocations) {
                *count = counts::allocations(plan, transport, in_flight, way)?;
            }
            progress.step();
            cases.extend(Case::all(transport, in_flight, &runs, allocations));
            comparisons.extend(Comparison::all(transport, in_flight, &runs));
        }
    }
    drop(runtime);
    progress.say("memory");
    let memory = counts::memory(plan)?;
    progress.done();
    machine.load_after = figures::load();
    let (ratios, targets) = figures::targets(&comparisons);
    Ok(Figures {
        machine,
        settings: Settings::of(plan),
        cases,
        ratios,
        targets,
        comparisons,
        memory,
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
