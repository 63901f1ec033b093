//! What the runs come to, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::simulation::{CALLS, Run, Way};

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    rows: Vec<Row>,
    targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    answered_429: u32,
    answered_429_percent: f64,
    makespan_s: f64,
    of_ideal: f64,
    attempts_mean: f64,
    attempts_max: u32,
}

/// What one of ours is to reach.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    name: &'static str,
    what: &'static str,
    found: f64,
    at_most: f64,
    met: bool,
}

impl Figures {
    pub(crate) fn of(runs: &[Run]) -> Self {
        Self {
            rows: runs.iter().map(Row::of).collect(),
            targets: runs.iter().flat_map(targets).collect(),
        }
    }

    pub(crate) fn missed(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| !target.met)
    }
}

impl Row {
    fn of(run: &Run) -> Self {
        Self {
            name: run.way.name(),
            answered_429: run.throttled(),
            answered_429_percent: percent(run),
            makespan_s: run.makespan().as_secs_f64(),
            of_ideal: run.of_ideal(),
            attempts_mean: run.mean_attempts(),
            attempts_max: run.most_attempts(),
        }
    }
}

/// Of the calls, not of the answers: a call can meet more than one.
fn percent(run: &Run) -> f64 {
    100.0 * f64::from(run.throttled()) / f64::from(CALLS)
}

fn targets(run: &Run) -> Vec<Target> {
    let target = |what, found, at_most| Target {
        name: run.way.name(),
        what,
        found,
        at_most,
        met: found <= at_most,
    };
    let throttled = |most| target("answered 429, %", percent(run), most);
    let makespan = |most| target("makespan, of the ideal", run.of_ideal(), most);
    let attempts = |most| target("attempts at most", run.most_attempts().into(), most);
    match run.way {
        Way::QuotaKnown => vec![throttled(0.0), makespan(1.05), attempts(2.0)],
        // A time that is told before the rate is known is a guess, so here a call may come more often.
        Way::Learned => vec![throttled(2.0), makespan(1.15)],
        Way::LearnedBefore => vec![throttled(2.0), makespan(1.15), attempts(2.0)],
        _ => Vec::new(),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            what,
            found,
            at_most,
            ..
        } = self;
        write!(f, "{name}: {what}: {found:.3}, at most {at_most}")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:32} {:>8} {:>8} {:>11} {:>9} {:>9} {:>9}",
            "", "429", "% calls", "makespan s", "of ideal", "attempts", "at most"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:32} {:>8} {:>8.1} {:>11.1} {:>9.3} {:>9.2} {:>9}",
                row.name,
                row.answered_429,
                row.answered_429_percent,
                row.makespan_s,
                row.of_ideal,
                row.attempts_mean,
                row.attempts_max
            )?;
        }
        writeln!(f)?;
        for target in &self.targets {
            let verdict = if target.met { "reached" } else { "MISSED" };
            writeln!(f, "{target}: {verdict}")?;
        }
        Ok(())
    }
}
