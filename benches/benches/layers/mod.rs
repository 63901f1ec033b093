//! What a call through our limits costs and how they behave, beside their peers in the same run.
//!
//! It is a module of the bench and of a test, so that the test runs what the bench runs.

mod arguments;
mod behaviour;
mod call;
mod cases;
pub(crate) mod figures;
mod peers;
pub(crate) mod ratios;
pub(crate) mod rounds;
mod table;

use anyhow::Result;
use toolweir_benches::{progress::Progress, report};

pub(crate) use self::arguments::Arguments;
use self::{
    figures::{Case, Figures},
    ratios::Ratio,
};

/// Measures, writes down what was measured, and says what is wrong with it.
pub(crate) fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let figures = report::figures(arguments.json.as_deref(), || measure(arguments))?;
    Ok(complaints(arguments, &figures))
}

/// Measures everything that the arguments ask for.
///
/// Time is measured first: a runtime whose clock was once paused reads every clock more slowly.
fn measure(arguments: &Arguments) -> Result<Figures> {
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

fn complaints(arguments: &Arguments, figures: &Figures) -> Vec<String> {
    let broken = figures.behaviour.iter().filter(|row| !row.ours_holds);
    let mut complaints: Vec<String> = broken
        .map(|row| format!("ours does not hold: {}", row.what))
        .collect();
    if arguments.check {
        let missed = figures.ratios.iter().filter(|ratio| !ratio.is_met());
        complaints.extend(missed.map(|ratio| format!("missed its target: {ratio}")));
        let allocating = figures.cases.iter().filter(|case| case.must_not_allocate());
        complaints.extend(allocating.map(|case| format!("{} allocates", case.name)));
    }
    complaints
}
