//! Reading and operating a rate limit.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    ConfigError, ReportState, StateReport,
    keys::KeyFigures,
    time::{millis, millis_ceil},
};

use crate::{
    RateLimitConfig, config::Pace, limiters::Limiters, refusal::LAYER, shared::Shared,
    state::Limiter,
};

/// Reads a limiter's state, pauses it and resumes it. Cheap to clone; clones share the limiter.
///
/// A handle is of one limiter: the server's own, or that of a key. Each finds the others'.
#[derive(Debug, Clone)]
pub struct RateLimitHandle {
    pub(crate) limiters: Arc<Limiters>,
    pub(crate) limiter: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl RateLimitHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> RateLimitState {
        self.limiter.state()
    }

    /// The key that this is the limiter of. `None`: it is the server's own.
    ///
    /// It is `"(other keys)"` for the limiter that the keys share which found no room.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.limiter.key().map(|key| &**key)
    }

    /// The handle of a key's limiter. There is one from now on, so that it can be paused before the
    /// first call; it stays as long as the handle does.
    #[must_use]
    pub fn for_key(&self, key: &str) -> Self {
        self.of(self.limiters.of_key(key, Instant::now()))
    }

    /// The handle of the server's own limiter.
    #[must_use]
    pub fn for_server(&self) -> Self {
        self.of(self.limiters.server().clone())
    }

    /// How many keys have limiters.
    #[must_use]
    pub fn keys(&self) -> KeyFigures {
        self.limiters.figures()
    }

    /// The state of each key's limiter, in no order.
    #[must_use]
    pub fn key_states(&self) -> Vec<(Arc<str>, RateLimitState)> {
        self.limiters.key_states()
    }

    /// The handle of the limiter that is shared by the keys that found no room, if there were any.
    #[must_use]
    pub fn overflow(&self) -> Option<Self> {
        Some(self.of(self.limiters.overflow()?))
    }

    fn of(&self, limiter: Arc<Shared>) -> Self {
        Self {
            limiter,
            ..self.clone()
        }
    }

    /// How long until a call of cost 1 may pass. `None`: one passes now.
    ///
    /// Calls that wait come before it. Asking takes nothing from the quota.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let now = Instant::now();
        let slot = self.limiter.with(|limiter| limiter.slot(now));
        (slot > now).then(|| slot - now)
    }

    /// What is left of a pause.
    #[must_use]
    pub fn paused_for(&self) -> Option<Duration> {
        let now = Instant::now();
        let paused = self.limiter.with(|limiter| limiter.paused(now));
        paused.map(|(_, left)| left)
    }

    /// Lets nothing pass for `duration`, and after it one call at once, as after a pause that the
    /// server asked for. A pause that lasts longer already stays as it is.
    pub fn pause(&self, duration: Duration) {
        let now = Instant::now();
        self.limiter
            .with(|limiter| limiter.pause(duration, PausedBy::Operator, now));
    }

    /// Ends a pause now, whoever asked for it. One call passes at once, and others at the pace of
    /// the quota.
    pub fn resume(&self) {
        let now = Instant::now();
        self.limiter.with(|limiter| limiter.resume(now));
    }

    /// Changes the quota, as
    /// [`RateLimitConfigBuilder::quota`](crate::RateLimitConfigBuilder::quota) sets it. The burst
    /// stays, and so do the cells that there are. Slower, bookings move away in proportion, and who
    /// comes at a time that is too early by now is told the new one; faster, they stay.
    ///
    /// # Errors
    ///
    /// The quota is out of range, or is learned.
    pub fn set_quota(&self, calls: u32, per: Duration) -> Result<(), ConfigError> {
        let now = Instant::now();
        let burst = self.limiter.with(|limiter| match limiter.config.pace {
            Pace::Quota { .. } => Ok(limiter.config.burst.get()),
            Pace::Learned { .. } => Err(ConfigError::new(
                "quota",
                "set",
                "unset where it is `learned`",
            )),
        })?;
        let config = RateLimitConfig::builder().quota(calls, per).burst(burst);
        let config = config.build()?;
        self.limiter.with(|limiter| limiter.set_pace(&config, now));
        Ok(())
    }
}

/// Ready while a call of cost 1 would pass, at once or after a wait that is allowed.
impl ReportState for RateLimitHandle {
    fn report(&self) -> StateReport {
        let now = Instant::now();
        match self.limiter.with(|limiter| limiter.verdict(now)) {
            Some(refusal) => StateReport::refusing(
                &refusal.into_rejection(self.limiter.key_or(self.name.as_ref())),
            ),
            None => StateReport::ready(LAYER),
        }
    }
}

/// Who asked for a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum PausedBy {
    /// The server, with a throttled answer.
    Server,
    /// [`RateLimitHandle::pause`].
    Operator,
}

/// What a rate limit was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RateLimitState {
    /// How many calls of cost 1 the quota has, if it is not learned …
    pub calls: Option<u32>,
    /// … in how much time.
    pub per_ms: Option<u64>,
    /// In how many microseconds a cell comes back at present.
    pub interval_us: u64,
    /// How many cells there can be at once.
    pub burst: u32,
    /// How many there are.
    pub available: u32,
    /// How many calls wait.
    pub waiting: usize,
    /// In how many milliseconds a call of cost 1 passes that is made now, if not at once.
    pub retry_after_ms: Option<u64>,
    /// What is left of a pause.
    pub paused_ms: Option<u64>,
    /// Who asked for it.
    pub paused_by: Option<PausedBy>,
    /// How many calls have passed.
    pub passed_calls: u64,
    /// How many calls have had to wait, whether or not they then passed.
    pub waited_calls: u64,
    /// How many were refused.
    pub rejected_calls: u64,
    /// How many answers asked for fewer calls.
    pub throttled_calls: u64,
    /// How many of those that have passed got their cells back, because a layer further in refused
    /// them.
    pub refunded_calls: u64,
    /// The most calls that have waited at once.
    pub most_waiting: usize,
    /// How many refused calls have a booking, those that have come back and wait among them.
    pub bookings: usize,
    /// The most that have had one at once.
    pub most_bookings: usize,
    /// How many were booked.
    pub booked_calls: u64,
    /// How many bookings have ended because their call came back.
    pub redeemed_bookings: u64,
    /// How many have ended because nobody came.
    pub lapsed_bookings: u64,
}

impl RateLimitState {
    pub(crate) fn of(limiter: &mut Limiter, now: Instant) -> Self {
        let paused = limiter.paused(now);
        let wait = limiter.slot(now).saturating_duration_since(now);
        let (counts, booked) = (limiter.counts(), limiter.bookings());
        let (calls, per_ms) = match limiter.config.pace {
            Pace::Quota { calls, per } => (Some(calls.get()), Some(millis(per))),
            Pace::Learned { .. } => (None, None),
        };
        Self {
            calls,
            per_ms,
            interval_us: micros(limiter.interval()),
            burst: limiter.config.burst.get(),
            available: limiter.available(now),
            waiting: limiter.waiting(),
            retry_after_ms: (!wait.is_zero()).then(|| millis_ceil(wait)),
            paused_ms: paused.map(|(_, left)| millis_ceil(left)),
            paused_by: paused.map(|(by, _)| by),
            passed_calls: counts.passed,
            waited_calls: counts.waited,
            rejected_calls: counts.rejected,
            throttled_calls: counts.throttled,
            refunded_calls: counts.refunded,
            most_waiting: counts.most_waiting,
            bookings: booked.len(),
            most_bookings: booked.counts.most,
            booked_calls: booked.counts.made,
            redeemed_bookings: booked.counts.redeemed,
            lapsed_bookings: booked.counts.lapsed,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
