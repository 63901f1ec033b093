//! Reading and operating a semaphore.

use tokio::time::Instant;
use toolweir_core::{
    ConfigError, ReportState, StateReport,
    time::{millis, millis_ceil},
};

use crate::{
    config::check_permits,
    keys::Name,
    refusal::rejection,
    shared::Shared,
    state::{Figures, LAYER, Permits},
    sync::Arc,
};

/// Reads a semaphore's state and changes its number of permits. Cheap to clone; clones share the
/// semaphore.
#[derive(Debug, Clone)]
pub struct SemaphoreHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Name>,
    /// The key that its layer is for.
    pub(crate) key: Option<Name>,
}

impl SemaphoreHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> SemaphoreState {
        let read = |permits: &mut Permits, now| SemaphoreState::of(&permits.figures(now), now);
        self.shared.with(read)
    }

    /// How one key stands. One that neither waits nor runs has no calls.
    #[must_use]
    pub fn for_key(&self, key: &str) -> SemaphoreKeyState {
        let key = Some(key);
        self.shared.with(|permits, now| {
            let share = permits.share(key);
            SemaphoreKeyState {
                queued: share.queued,
                in_flight: share.running,
                estimated_wait_ms: permits.estimate(key, now).map(millis_ceil),
            }
        })
    }

    /// How many keys have a call in the queue, or one under way that is
    /// [counted for its key](SemaphoreKeyState::in_flight). Calls without a key are those of one key.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.state().keys
    }

    /// Changes how many calls may be under way at once, from now on.
    ///
    /// More: calls that wait go ahead in their order. Fewer: no call under way is disturbed, and
    /// none begins until so many have ended that the new number holds.
    ///
    /// # Errors
    ///
    /// There may be 1 to 10,000,000 permits.
    pub fn resize(&self, permits: usize) -> Result<(), ConfigError> {
        check_permits(permits)?;
        self.shared.resize(permits);
        Ok(())
    }

    /// Begins the high-water marks anew, with the calls of now, and gives the state with those so
    /// far. Between the two there is nothing that neither of them saw.
    pub fn reset_peaks(&self) -> SemaphoreState {
        self.shared.with(|permits, now| {
            let state = SemaphoreState::of(&permits.figures(now), now);
            permits.reset_marks(now);
            state
        })
    }
}

/// Ready while a call would get a permit or a place in the queue: a call of the key that the
/// handle's layer is for, and else one without a key.
impl ReportState for SemaphoreHandle {
    fn report(&self) -> StateReport {
        let (key, max_wait) = (self.key.as_deref(), self.shared.max_wait());
        let refuse = |permits: &mut Permits, now| permits.would_refuse(key, max_wait, now);
        let Some(refusal) = self.shared.with(refuse) else {
            return StateReport::ready(LAYER);
        };
        let name = self.key.as_ref().or(self.name.as_ref());
        StateReport::refusing(&rejection(&refusal, name.cloned()))
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
    /// How many keys have a call in the queue, or one under way that is counted for its key.
    pub keys: usize,
    /// How long the call has waited that has waited longest.
    pub longest_wait_ms: Option<u64>,
    /// How long permits are held: a moving mean. `None`: too few were seen lately.
    pub usual_hold_ms: Option<u64>,
    /// The most calls that have been under way at once.
    pub peak_in_flight: usize,
    /// The most calls that have waited at once.
    pub peak_queued: usize,
    /// How old the two marks are: since the beginning, or since they were reset.
    pub peaks_age_ms: u64,
    /// How many calls have had a permit.
    pub admitted_calls: u64,
    /// How many were refused, whether at once or after a wait.
    pub rejected_calls: u64,
    /// How many had to give up their place to a call of a key with fewer in the queue. They are
    /// among the refused ones, once they have heard of it.
    pub pushed_out_calls: u64,
}

impl SemaphoreState {
    fn of(figures: &Figures, now: Instant) -> Self {
        let age = |since| millis(now.saturating_duration_since(since));
        Self {
            permits: figures.permits,
            in_flight: figures.in_flight,
            max_queue: figures.max_queue,
            queued: figures.queued,
            keys: figures.keys,
            longest_wait_ms: figures.oldest.map(age),
            usual_hold_ms: figures.hold.map(millis),
            peak_in_flight: figures.marks.in_flight,
            peak_queued: figures.marks.queued,
            peaks_age_ms: age(figures.marks.since),
            admitted_calls: figures.admitted,
            rejected_calls: figures.rejected,
            pushed_out_calls: figures.pushed_out,
        }
    }
}

/// How one key stood at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SemaphoreKeyState {
    /// How many of its calls wait.
    pub queued: usize,
    /// How many of its calls are under way, of those that are counted for their key: all with a
    /// [`max_per_key`](crate::SemaphoreConfigBuilder::max_per_key), else those that had to wait.
    pub in_flight: usize,
    /// How long its next call would likely wait. `None`: nobody knows.
    pub estimated_wait_ms: Option<u64>,
}
