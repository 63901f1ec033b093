//! The comparisons that have a target.

use std::fmt;

use super::{figures::Spread, rounds::Shown};

/// What a ratio is of, and what it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// The case over …
    over: &'static str,
    /// … the case under the line.
    under: &'static str,
    goal: Goal,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    const fn at_most(
        most: f64,
        name: &'static str,
        over: &'static str,
        under: &'static str,
    ) -> Self {
        Self {
            name,
            over,
            under,
            goal: Goal::AtMost(most),
        }
    }
}

/// All of them. A throughput is the inverse of a time, so that of ours over that of a peer is the
/// peer's time over ours.
const TARGETS: [Target; 7] = [
    Target::at_most(0.40, "breaker_vs_tr", "breaker", "tr_breaker"),
    Target::at_most(
        0.25,
        "breaker_open_vs_tr",
        "breaker_open",
        "tr_breaker_open",
    ),
    Target::at_most(
        1.1,
        "breaker_time_10000_vs_100",
        "breaker_time_10000",
        "breaker_time_100",
    ),
    Target::at_most(
        1.5,
        "semaphore_vs_tower",
        "semaphore",
        "tower_concurrency_limit",
    ),
    Target::at_most(2.2, "rate_limit_vs_governor", "rate_limit", "governor"),
    Target::at_most(0.35, "stack_vs_tr", "stack", "tr_stack"),
    Target {
        name: "shared_throughput_vs_tr",
        over: "tr_shared_breaker",
        under: "shared_breaker",
        goal: Goal::AtLeast(3.0),
    },
];

/// What a ratio turned out to be.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) target: Target,
    /// Of the ratios that each round showed.
    pub(crate) spread: Spread,
}

impl Ratio {
    /// Those whose two cases were both measured.
    pub(crate) fn all(shown: &[Shown]) -> Vec<Self> {
        let find = |name| shown.iter().find(|shown| shown.name == name);
        let ratio = |target: Target| {
            let (over, under) = (find(target.over)?, find(target.under)?);
            let rounds = over.nanos.iter().zip(&under.nanos);
            Some(Self {
                target,
                spread: Spread::of(rounds.map(|(over, under)| over / under).collect()),
            })
        };
        TARGETS.into_iter().filter_map(ratio).collect()
    }

    pub(crate) fn is_met(&self) -> bool {
        match self.target.goal {
            Goal::AtMost(most) => self.spread.median <= most,
            Goal::AtLeast(least) => self.spread.median >= least,
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread {
            lower_quartile,
            median,
            upper_quartile,
        } = self.spread;
        let goal = match self.target.goal {
            Goal::AtMost(most) => format!("at most {most:.2}"),
            Goal::AtLeast(least) => format!("at least {least:.2}"),
        };
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let name = self.target.name;
        write!(
            f,
            "{name:<27}  {median:>6.3} ({lower_quartile:.3} to {upper_quartile:.3})  {goal:<14}  \
             {verdict}"
        )
    }
}
