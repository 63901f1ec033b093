//! The counted calls of the last so and so long, by the bucket.
//!
//! Time is cut into buckets of equal width, and the window is the last so many of them: the one
//! under way and the whole ones before it. So a call is left out when it is between one bucket's
//! width younger than the window is long, and exactly as old. None that is older counts.

use std::time::Duration;

use tokio::time::Instant;
use toolweir_core::time::saturating_add;

use super::{Totals, Vote};

/// A ring of buckets, with the totals of them all.
#[derive(Debug)]
pub(crate) struct TimeWindow {
    buckets: Box<[Totals]>,
    /// Of a bucket, in nanoseconds.
    width: u64,
    /// The bucket under way.
    current: usize,
    /// When the bucket under way ends.
    end: Instant,
    totals: Totals,
}

impl TimeWindow {
    /// An empty window of `duration`, in `buckets`, at least one.
    pub(crate) fn new(duration: Duration, buckets: u32, now: Instant) -> Self {
        let count = buckets.max(1);
        // A width of nothing would never end.
        let width = nanos_of(duration / count).max(1);
        Self {
            buckets: (0..count).map(|_| Totals::default()).collect(),
            width,
            current: 0,
            end: saturating_add(now, Duration::from_nanos(width)),
            totals: Totals::default(),
        }
    }

    /// Begins as many buckets as time has, and leaves out those that are too old.
    ///
    /// A clock that is behind, as another thread's reading may be, moves nothing.
    pub(crate) fn slide(&mut self, now: Instant) {
        if now < self.end {
            return;
        }
        let late = nanos_of(now.saturating_duration_since(self.end));
        let ended = late / self.width;
        if ended >= self.buckets.len() as u64 {
            self.clear();
        } else {
            // The one under way has ended too.
            for _ in 0..=ended {
                self.begin_next();
            }
        }
        let left = self.width - late % self.width;
        self.end = saturating_add(now, Duration::from_nanos(left));
    }

    fn begin_next(&mut self) {
        self.current += 1;
        if self.current == self.buckets.len() {
            self.current = 0;
        }
        let oldest = std::mem::take(&mut self.buckets[self.current]);
        self.totals.take_away(oldest);
    }

    /// Counts `vote` in the bucket under way. To be done after `slide`.
    pub(crate) fn push(&mut self, vote: Vote) {
        self.buckets[self.current].add(vote);
        self.totals.add(vote);
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.fill(Totals::default());
        self.totals = Totals::default();
    }

    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::tests::quick;

    const fn nanos(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    /// Votes one after the other, with the time between them; `None` clears.
    fn history() -> impl Strategy<Value = Vec<(u64, Option<(bool, bool)>)>> {
        let wait = prop_oneof![
            6 => 0_u64..20,
            3 => 0_u64..200,
            1 => 0_u64..3_000,
            // A suspended machine.
            1 => Just(40 * 365 * 24 * 3_600 * 1_000_000_000_u64),
        ];
        let vote = prop::option::weighted(0.97, any::<(bool, bool)>());
        prop::collection::vec((wait, vote), 0..200)
    }

    proptest! {
        #![proptest_config(quick(2_000))]

        #[test]
        fn the_totals_are_those_of_the_last_buckets(
            width in 1_u64..100,
            rest in 0_u64..100,
            buckets in 1_u32..12,
            history in history(),
        ) {
            let start = Instant::now();
            let duration = nanos(width * u64::from(buckets) + rest % u64::from(buckets));
            let mut window = TimeWindow::new(duration, buckets, start);
            let mut all: Vec<(u64, Vote)> = Vec::new();
            let mut now = 0_u64;
            // The clock stands still where it would be too late to tell.
            for (wait, vote) in history {
                now = now.saturating_add(wait).min(80 * 365 * 24 * 3_600 * 1_000_000_000);
                window.slide(start + nanos(now));
                match vote {
                    Some((failure, slow)) => {
                        let vote = Vote { failure, slow };
                        window.push(vote);
                        all.push((now / width, vote));
                    }
                    None => {
                        window.clear();
                        all.clear();
                    }
                }
                let first = (now / width + 1).saturating_sub(u64::from(buckets));
                let count = |said: fn(&Vote) -> bool| -> u64 {
                    all.iter()
                        .filter(|(bucket, _)| *bucket >= first)
                        .map(|(_, vote)| u64::from(said(vote)))
                        .sum()
                };
                prop_assert_eq!(window.totals(), Totals {
                    calls: count(|_| true),
                    failures: count(|vote| vote.failure),
                    slow_calls: count(|vote| vote.slow),
                });
            }
        }

        #[test]
        fn a_clock_that_is_behind_loses_nothing(behind in 0_u64..10_000) {
            let start = Instant::now() + nanos(20_000);
            let mut window = TimeWindow::new(nanos(100), 10, start);
            window.push(Vote { failure: true, slow: false });
            window.slide(start.checked_sub(nanos(behind)).unwrap());
            window.push(Vote { failure: true, slow: false });
            prop_assert_eq!(window.totals().failures, 2);
        }
    }
}
