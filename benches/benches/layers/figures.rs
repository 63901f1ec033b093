//! What was measured, as it is written down.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{behaviour::Row, ratios::Ratio, rounds::Shown};

/// Everything, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) cases: Vec<Case>,
    pub(crate) behaviour: Vec<Row>,
    #[serde(serialize_with = "by_name")]
    pub(crate) ratios: Vec<Ratio>,
    #[serde(skip)]
    pub(crate) quick: bool,
}

fn by_name<S: Serializer>(ratios: &[Ratio], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(ratios.len()))?;
    for ratio in ratios {
        map.serialize_entry(ratio.target.name, &ratio.spread.median)?;
    }
    map.end()
}

/// What one call costs.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The median of the rounds.
    pub(crate) ns: f64,
    /// `None` where it cannot be counted.
    pub(crate) allocs: Option<f64>,
    pub(crate) bytes: Option<f64>,
    #[serde(skip)]
    ours: bool,
}

impl Case {
    pub(crate) fn all(shown: &[Shown]) -> Vec<Self> {
        let case = |shown: &Shown| Self {
            name: shown.name,
            ns: Spread::of(shown.nanos.clone()).median,
            allocs: shown.allocations.map(|allocations| allocations.number),
            bytes: shown.allocations.map(|allocations| allocations.bytes),
            ours: shown.ours,
        };
        shown.iter().map(case).collect()
    }

    /// One of ours that allocates, where nothing waits.
    pub(crate) fn must_not_allocate(&self) -> bool {
        self.ours && self.allocs.is_some_and(|allocs| allocs > 0.0)
    }
}

/// A figure that was taken more than once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    pub(crate) upper_quartile: f64,
}

impl Spread {
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let last = figures.len().saturating_sub(1);
            figures.get(last * quarter / 4).copied().unwrap_or(f64::NAN)
        };
        Self {
            lower_quartile: at(1),
            median: at(2),
            upper_quartile: at(3),
        }
    }
}
