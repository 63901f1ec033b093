//! Reading and operating a semaphore.

use std::sync::Arc;

use tokio::time::Instant;
use toolweir_core::{ConfigError, Reason, ReportState, StateReport, time::millis};

use crate::{config::check_permits, service::refusal, shared::Shared, state::LAYER};

/// Reads a semaphore's state and changes its number of permits. Cheap to clone; clones share the
/// semaphore.
#[derive(Debug, Clone)]
pub struct SemaphoreHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl SemaphoreHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> SemaphoreState {
        let now = Instant::now();
        let figures = self.shared.figures();
        SemaphoreState {
            permits: figures.permits,
            in_flight: figures.in_flight,
            max_queue: figures.max_queue,
            queued: figures.queued,
            longest_wait_ms: figures
                .oldest
                .map(|since| millis(now.saturating_duration_since(since))),
            peak_in_flight: figures.peak_in_flight,
            peak_queued: figures.peak_queued,
            admitted_calls: figures.admitted,
            rejected_calls: figures.rejected,
        }
    }

    /// Changes how many calls may be under way at once, from now on.
    ///
    /// More: calls that wait go ahead in their order. Fewer: no call under way is disturbed, and
    /// none begins until so many have ended that the new number holds.
    ///
    /// # Errors
    ///
    /// At least 1 permit must be left.
    pub fn resize(&self, permits: usize) -> Result<(), ConfigError> {
        check_permits(permits)?;
        self.shared.resize(permits);
        Ok(())
    }
}

/// Ready while a call would get a permit or a place in the queue.
impl ReportState for SemaphoreHandle {
    fn report(&self) -> StateReport {
        let figures = self.shared.figures();
        let reason = if figures.in_flight < figures.permits {
            return StateReport::ready(LAYER);
        } else if figures.queued >= figures.max_queue {
            Reason::QueueFull
        } else if self.shared.max_wait().is_zero() {
            Reason::WaitTooLong
        } else {
            return StateReport::ready(LAYER);
        };
        StateReport::refusing(&refusal(self.name.as_ref(), reason, &figures))
    }
}

/// What a semaphore was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SemaphoreState {
    /// How many calls may be under way at once.
    pub permits: usize,
    /// How many hold a permit. After a `resize` to fewer that may be more than there are.
    pub in_flight: usize,
    /// How many calls may wait.
    pub max_queue: usize,
    /// How many wait.
    pub queued: usize,
    /// How long the first of them has waited.
    pub longest_wait_ms: Option<u64>,
    /// The most calls that have been under way at once.
    pub peak_in_flight: usize,
    /// The most calls that have waited at once.
    pub peak_queued: usize,
    /// How many calls have had a permit.
    pub admitted_calls: u64,
    /// How many were refused.
    pub rejected_calls: u64,
}
