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
struct Target {
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

    pub(crate) fn all_met(&self) -> bool {
        self.targets.iter().all(|target| target.met)
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
    let most = match run.way {
        Way::QuotaKnown => (0.0, 1.05, Some(2.0)),
        // A time that is told before the rate is known is a guess, so here a call may come more often.
        Way::Learned => (2.0, 1.15, None),
        _ => return Vec::new(),
    };
    let target = |what, found, at_most| Target {
        name: run.way.name(),
        what,
        found,
        at_most,
        met: found <= at_most,
    };
    let (throttled, makespan, attempts) = most;
    let mut targets = vec![
        target("answered 429, %", percent(run), throttled),
        target("makespan, of the ideal", run.of_ideal(), makespan),
    ];
    let tried = attempts.map(|most| target("attempts at most", run.most_attempts().into(), most));
    targets.extend(tried);
    targets
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
            let Target {
                name,
                what,
                found,
                at_most,
                met,
            } = target;
            let verdict = if *met { "reached" } else { "MISSED" };
            writeln!(
                f,
                "{name}: {what}: {found:.3}, at most {at_most}: {verdict}"
            )?;
        }
        Ok(())
    }
}
