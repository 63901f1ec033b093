//! The sliding window: what the last counted calls were, with running totals.
//!
//! Either the last N of them, or those of the last so and so long. Both take constant time for a
//! call and a memory that is fixed from the start.

mod count;
mod time;

use tokio::time::Instant;

use self::{count::CountWindow, time::TimeWindow};
use crate::config::SlidingWindow;

/// What one counted call says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) failure: bool,
    pub(crate) slow: bool,
}

/// What a number of calls said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) slow_calls: u64,
}

impl Totals {
    fn add(&mut self, vote: Vote) {
        self.calls += 1;
        self.failures += u64::from(vote.failure);
        self.slow_calls += u64::from(vote.slow);
    }

    fn take_away(&mut self, part: Self) {
        self.calls -= part.calls;
        self.failures -= part.failures;
        self.slow_calls -= part.slow_calls;
    }
}

#[derive(Debug)]
pub(crate) enum Window {
    Count(CountWindow),
    Time(TimeWindow),
}

impl Window {
    /// An empty window.
    pub(crate) fn new(kind: SlidingWindow, now: Instant) -> Self {
        match kind {
            SlidingWindow::Count { size } => Self::Count(CountWindow::new(size)),
            SlidingWindow::Time { duration, buckets } => {
                Self::Time(TimeWindow::new(duration, buckets, now))
            }
        }
    }

    /// Counts `vote`. The clock is read where the window asks for the time.
    pub(crate) fn push(&mut self, vote: Vote, clock: impl Fn() -> Instant) {
        match self {
            Self::Count(window) => window.push(vote),
            Self::Time(window) => {
                window.slide(clock());
                window.push(vote);
            }
        }
    }

    /// Leaves out what is too old by now.
    pub(crate) fn slide(&mut self, now: Instant) {
        if let Self::Time(window) = self {
            window.slide(now);
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::Count(window) => window.clear(),
            Self::Time(window) => window.clear(),
        }
    }

    pub(crate) const fn totals(&self) -> Totals {
        match self {
            Self::Count(window) => window.totals(),
            Self::Time(window) => window.totals(),
        }
    }
}
