//! How long a call waits.

use std::time::Duration;

use tokio::time::Instant;
use toolweir_core::{Reason, time::saturating_add};

/// When a wait ends, and why then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    until: Instant,
    deadline: Option<Instant>,
}

impl Limit {
    pub(crate) fn new(now: Instant, max_wait: Duration, deadline: Option<Instant>) -> Self {
        let patience = saturating_add(now, max_wait);
        Self {
            until: deadline.map_or(patience, |deadline| patience.min(deadline)),
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
