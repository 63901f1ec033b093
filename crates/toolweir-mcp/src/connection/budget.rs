//! How often a connection may be started again: pure, given the time.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// At most so many restarts within a window that slides.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    most: usize,
    window: Duration,
    /// When the last ones were, no more than `most`.
    restarts: VecDeque<Instant>,
}

impl Budget {
    pub(crate) const fn new(most: usize, window: Duration) -> Self {
        Self {
            most,
            window,
            restarts: VecDeque::new(),
        }
    }

    /// Takes one restart out of it; `false` where none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        while let Some(first) = self.restarts.front()
            && now.saturating_duration_since(*first) >= self.window
        {
            self.restarts.pop_front();
        }
        let left = self.restarts.len() < self.most;
        if left {
            self.restarts.push_back(now);
        }
        left
    }

    /// Puts back the one that was taken last.
    pub(crate) fn give_back(&mut self) {
        self.restarts.pop_back();
    }

    /// Forgets the restarts so far.
    pub(crate) fn reset(&mut self) {
        self.restarts.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_algorithm: prop::test_runner::RngAlgorithm::XorShift,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_window_holds_more_than_the_most(
            most in 1_usize..6,
            steps in prop::collection::vec(0_u64..40, 1..200),
        ) {
            let mut now = Instant::now();
            let mut budget = Budget::new(most, WINDOW);
            let mut taken: Vec<Instant> = Vec::new();
            for step in steps {
                now += Duration::from_secs(step);
                let within = taken.iter().filter(|at| now - **at < WINDOW).count();
                let left = budget.take(now);
                prop_assert_eq!(left, within < most);
                if left {
                    taken.push(now);
                }
                prop_assert!(budget.restarts.len() <= most);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_gives_all_of_it_back() {
        let now = Instant::now();
        let mut budget = Budget::new(1, WINDOW);
        assert!(budget.take(now));
        assert!(!budget.take(now));
        budget.reset();
        assert!(budget.take(now));
    }
}
