//! The sliding window: what the last N counted calls were, with running totals.

/// What one counted call says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) failure: bool,
    pub(crate) slow: bool,
}

/// A ring of the last votes. A push takes constant time and no allocation.
#[derive(Debug)]
pub(crate) struct Window {
    ring: Box<[Vote]>,
    next: usize,
    calls: usize,
    failures: usize,
    slow_calls: usize,
}

impl Window {
    /// An empty window for `size` votes, at least one.
    pub(crate) fn new(size: usize) -> Self {
        Self {
            ring: vec![Vote::default(); size.max(1)].into_boxed_slice(),
            next: 0,
            calls: 0,
            failures: 0,
            slow_calls: 0,
        }
    }

    /// Counts `vote`, in the place of the oldest one if the window is full.
    pub(crate) fn push(&mut self, vote: Vote) {
        let oldest = std::mem::replace(&mut self.ring[self.next], vote);
        self.next = (self.next + 1) % self.ring.len();
        if self.calls < self.ring.len() {
            self.calls += 1;
        } else {
            self.failures -= usize::from(oldest.failure);
            self.slow_calls -= usize::from(oldest.slow);
        }
        self.failures += usize::from(vote.failure);
        self.slow_calls += usize::from(vote.slow);
    }

    pub(crate) const fn clear(&mut self) {
        // What the ring holds is dead once no call counts.
        self.next = 0;
        self.calls = 0;
        self.failures = 0;
        self.slow_calls = 0;
    }

    pub(crate) const fn calls(&self) -> usize {
        self.calls
    }

    pub(crate) const fn failures(&self) -> usize {
        self.failures
    }

    pub(crate) const fn slow_calls(&self) -> usize {
        self.slow_calls
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_totals_are_those_of_the_last_votes(
            size in 1_usize..20,
            // `None` clears.
            votes in prop::collection::vec(
                prop::option::weighted(0.95, any::<(bool, bool)>()), 0..200),
        ) {
            let mut window = Window::new(size);
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
                prop_assert_eq!(window.calls(), last.len());
                prop_assert_eq!(window.failures(), last.iter().filter(|v| v.failure).count());
                prop_assert_eq!(window.slow_calls(), last.iter().filter(|v| v.slow).count());
            }
        }
    }
}
