//! Rounds in which the cases take turns.

use std::hint::black_box;

use toolweir_benches::progress::Progress;

use super::{
    arguments::Plan,
    cases::{Allocations, Case},
};

/// What a case showed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    pub(crate) ours: bool,
    /// How long a call took, in each round.
    pub(crate) nanos: Vec<f64>,
    pub(crate) allocations: Option<Allocations>,
}

/// Measures the cases that the plan names.
pub(crate) fn measure(plan: &Plan, mut cases: Vec<Case>, progress: &Progress) -> Vec<Shown> {
    let wanted = |case: &Case| {
        let mut words = plan.only.iter();
        plan.only.is_empty() || words.any(|word| case.name.contains(word.as_str()))
    };
    cases.retain(wanted);
    progress.say("allocations");
    let shown = cases.iter_mut().map(|case| Shown {
        name: case.name,
        ours: case.ours,
        nanos: Vec::with_capacity(plan.rounds),
        allocations: case.measured.count(),
    });
    let mut shown: Vec<Shown> = shown.collect();
    progress.step();
    progress.say(&format!("{} rounds of {} cases", plan.rounds, cases.len()));
    for round in 0..plan.rounds {
        for place in 0..cases.len() {
            let next = whose_turn(round, place, cases.len());
            let measured = &mut cases[next].measured;
            let nanos = further_down(round % DEPTHS, &mut || measured.time(plan.turn));
            shown[next].nanos.push(nanos);
        }
        progress.step();
    }
    shown
}

/// How many depths of the stack there are to be measured at. They lie within a page or so.
const DEPTHS: usize = 32;

/// Runs something so many steps further down the stack.
///
/// Where the stack begins is chosen at random for each process. In one place of fifty or so, what is
/// on it and something else that a call touches cannot be told apart by the low bits of their
/// addresses, and the call takes up to twice as long. So each round is measured elsewhere, and no
/// single place decides what a case's figure is.
#[inline(never)]
fn further_down(steps: usize, run: &mut dyn FnMut() -> f64) -> f64 {
    let room = black_box([0_u8; 96]);
    let nanos = match steps {
        0 => run(),
        steps => further_down(steps - 1, run),
    };
    black_box(&room);
    nanos
}

/// Forwards and backwards in turn, from another one each time. So neighbours stay neighbours, and
/// each of two goes first equally often.
pub(crate) const fn whose_turn(round: usize, place: usize, cases: usize) -> usize {
    let place = if round.is_multiple_of(2) {
        place
    } else {
        cases - 1 - place
    };
    (place + round) % cases
}
