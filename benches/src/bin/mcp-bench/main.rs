//! Measures what toolweir costs over bare rmcp; see `--help`.
//!
//! Ctrl-C needs no handler: the servers end when their stdin does, and that ends with this process.

mod arguments;
mod caller;
mod counts;
mod drive;
mod figures;
mod rounds;
mod server;
mod site;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use toolweir_benches::{progress::Progress, report};

use crate::{
    arguments::{Arguments, Plan},
    caller::Way,
    counts::Memory,
    figures::{Case, Comparison, Figures, Machine, Settings},
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    report::verdict(match arguments.serve {
        Some(serve) => server::main(serve).map(|()| Vec::new()),
        None => bench(&arguments),
    })
}

/// What is wrong with what was measured.
fn bench(arguments: &Arguments) -> Result<Vec<String>> {
    let plan = arguments.plan();
    let figures = report::figures(arguments.json.as_deref(), || measure(&plan))?;
    let mut complaints = Vec::new();
    if !figures.memory.is_flat() {
        complaints.push(grown(&figures.memory));
    }
    let missed = figures.targets.iter().filter(|target| !target.reached);
    let missed = missed.filter(|_| arguments.check);
    complaints.extend(missed.map(|target| format!("missed: {target}")));
    Ok(complaints)
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
