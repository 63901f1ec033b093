//! What is measured.

mod alone;
pub(crate) mod limits;
mod ours;
mod shared;
mod theirs;
mod window;

use anyhow::Result;

/// Something whose calls can be timed and counted.
pub(crate) trait Measured {
    /// Makes calls for about as long as `turn`, and says how many nanoseconds one took.
    fn time(&mut self, turn: std::time::Duration) -> f64;

    /// How many allocations a call makes, and of how many bytes. `None` where more than one thread
    /// takes part: the counter sees one.
    fn count(&mut self) -> Option<Allocations>;
}

/// What one call allocates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Allocations {
    pub(crate) number: f64,
    pub(crate) bytes: f64,
}

/// A case, by its name in the figures.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Whether it is one of ours, where nothing may be allocated.
    pub(crate) ours: bool,
    pub(crate) measured: Box<dyn Measured>,
}

impl Case {
    fn ours(name: &'static str, measured: impl Measured + 'static) -> Self {
        Self {
            name,
            ours: true,
            measured: Box::new(measured),
        }
    }

    fn theirs(name: &'static str, measured: impl Measured + 'static) -> Self {
        Self {
            name,
            ours: false,
            measured: Box::new(measured),
        }
    }
}

/// All cases. What is compared stands side by side, so that it is measured at almost the same time.
pub(crate) fn all(threads: usize) -> Result<Vec<Case>> {
    let mut cases = vec![Case::theirs("bare", alone::Alone::of(super::call::Echo)?)];
    cases.extend(ours::breakers()?);
    cases.extend(theirs::breakers()?);
    cases.extend(ours::semaphores()?);
    cases.extend(theirs::semaphores()?);
    cases.extend(ours::rate_limits()?);
    cases.extend(theirs::rate_limits()?);
    cases.extend(ours::stacks(threads)?);
    cases.extend(theirs::stacks(threads)?);
    Ok(cases)
}
