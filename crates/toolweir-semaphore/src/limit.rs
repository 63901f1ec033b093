//! How long a call waits.

use std::time::Duration;

use tokio::time::Instant;
use toolweir_core::{Reason, time::until};

/// When a wait ends, and why then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    until: Instant,
    deadline: Option<Instant>,
}

impl Limit {
    pub(crate) fn new(now: Instant, max_wait: Duration, deadline: Option<Instant>) -> Self {
        Self {
            until: until(now, max_wait, deadline),
            deadline,
        }
    }

    pub(crate) const fn until(self) -> Instant {
        self.until
    }

    pub(crate) fn has_come(self, now: Instant) -> bool {
        self.until <= now
    }

    /// Whether a wait of this length does not end in time.
    pub(crate) fn is_shorter_than(self, wait: Duration, now: Instant) -> bool {
        self.until.saturating_duration_since(now) < wait
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_past_deadline(self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(crate) fn reason(self) -> Reason {
        if self.deadline == Some(self.until) {
            Reason::DeadlineTooShort
        } else {
            Reason::WaitTooLong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_sooner_of_the_two_ends_a_wait_and_gives_the_reason() {
        let now = Instant::now();
        let limit = |deadline| Limit::new(now, 2 * SECOND, Some(now + deadline));
        assert_eq!(limit(SECOND).until(), now + SECOND);
        assert_eq!(limit(SECOND).reason(), Reason::DeadlineTooShort);
        assert_eq!(limit(2 * SECOND).reason(), Reason::DeadlineTooShort);
        assert_eq!(limit(3 * SECOND).until(), now + 2 * SECOND);
        assert_eq!(limit(3 * SECOND).reason(), Reason::WaitTooLong);
        assert_eq!(Limit::new(now, SECOND, None).reason(), Reason::WaitTooLong);
    }

    #[test]
    fn its_moment_counts_as_come() {
        let now = Instant::now();
        let limit = Limit::new(now, 2 * SECOND, Some(now + SECOND));
        let just_before = now + SECOND - Duration::from_nanos(1);
        assert!(limit.has_come(now + SECOND) && !limit.has_come(just_before));
        assert!(limit.is_past_deadline(now + SECOND) && !limit.is_past_deadline(just_before));
        assert!(!Limit::new(now, SECOND, None).is_past_deadline(now + 9 * SECOND));
    }

    #[test]
    fn a_wait_that_ends_with_it_is_short_enough() {
        let now = Instant::now();
        let limit = Limit::new(now, SECOND, None);
        assert!(!limit.is_shorter_than(SECOND, now));
        assert!(limit.is_shorter_than(SECOND + Duration::from_nanos(1), now));
        assert!(limit.is_shorter_than(Duration::from_nanos(1), now + 2 * SECOND));
    }
}
