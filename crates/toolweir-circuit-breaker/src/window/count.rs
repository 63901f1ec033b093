//! The last N counted calls.

use super::{Totals, Vote};

/// A vote takes two bits: whether it is a failure, and whether it is slow.
const VOTES_IN_A_WORD: usize = 32;

/// A ring of the last votes.
#[derive(Debug)]
pub(crate) struct CountWindow {
    words: Box<[u64]>,
    size: usize,
    next: usize,
    is_full: bool,
    totals: Totals,
}

impl CountWindow {
    /// An empty window for `size` votes, at least one.
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self {
            words: vec![0; size.div_ceil(VOTES_IN_A_WORD)].into_boxed_slice(),
            size,
            next: 0,
            is_full: false,
            totals: Totals::default(),
        }
    }

    /// Counts `vote`, in the place of the oldest one if the window is full.
    pub(crate) fn push(&mut self, vote: Vote) {
        let oldest = self.replace(vote);
        if self.is_full {
            self.totals.take_away(Totals {
                calls: 1,
                failures: u64::from(oldest.failure),
                slow_calls: u64::from(oldest.slow),
            });
        }
        self.totals.add(vote);
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
            self.is_full = true;
        }
    }

    /// Writes `vote` where the ring stands, and tells what was there.
    fn replace(&mut self, vote: Vote) -> Vote {
        let word = &mut self.words[self.next / VOTES_IN_A_WORD];
        let shift = self.next % VOTES_IN_A_WORD * 2;
        let old = *word >> shift;
        let bits = u64::from(vote.failure) + 2 * u64::from(vote.slow);
        *word = (*word & !(0b11 << shift)) + (bits << shift);
        Vote {
            failure: old & 0b01 != 0,
            slow: old & 0b10 != 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        // What the ring holds is dead until it is full again.
        self.next = 0;
        self.is_full = false;
        self.totals = Totals::default();
    }

    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::tests::quick;

    proptest! {
        #![proptest_config(quick(500))]

        #[test]
        fn the_totals_are_those_of_the_last_votes(
            size in 1_usize..80,
            // `None` clears.
            votes in prop::collection::vec(
                prop::option::weighted(0.98, any::<(bool, bool)>()), 0..400),
        ) {
            let mut window = CountWindow::new(size);
            let mut all: Vec<Vote> = Vec::new();
            for vote in votes {
                match vote {
                    Some((failure, slow)) => {
                        all.push(Vote { failure, slow });
                        window.push(Vote { failure, slow });
                    }
                    None => {
                        all.clear();
                        window.clear();
                    }
                }
                let last = &all[all.len().saturating_sub(size)..];
                let count = |said: fn(&Vote) -> bool| -> u64 {
                    last.iter().map(|vote| u64::from(said(vote))).sum()
                };
                prop_assert_eq!(window.totals(), Totals {
                    calls: count(|_| true),
                    failures: count(|vote| vote.failure),
                    slow_calls: count(|vote| vote.slow),
                });
            }
        }
    }
}
