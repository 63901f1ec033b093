//! The quota: governor's limiter, on a clock that its caller sets.
//!
//! governor decides and books in one step. Here it reads the time and the books from the
//! [`Ledger`], so that a question can be asked without an answer being booked: what if so many cells
//! were gone already?

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use tokio::time::Instant;

/// governor's clock and store. All times are nanoseconds since the bucket was made.
#[derive(Debug, Clone, Default)]
struct Ledger(Arc<Entries>);

// Atomic for their `&self` alone: whoever has the bucket has it to himself.
#[derive(Debug, Default)]
struct Entries {
    now: AtomicU64,
    /// The theoretical arrival time, governor's only state: when the bucket will be full again.
    full_at: AtomicU64,
}

impl Clock for Ledger {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.now.load(Relaxed).into()
    }
}

impl StateStore for Ledger {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, full_at) = decide(Some(self.0.full_at.load(Relaxed).into()))?;
        self.0.full_at.store(full_at.into(), Relaxed);
        Ok(answer)
    }
}

/// Cells that calls take and time gives back.
#[derive(Debug)]
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, Ledger, Ledger, NoOpMiddleware<Nanos>>,
    ledger: Ledger,
    start: Instant,
    burst: NonZeroU32,
    /// Nanoseconds in which one cell comes back.
    interval: u64,
}

/// What a bucket's ledger said at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

impl Bucket {
    /// A full bucket. `interval` times `burst` must be some years at most.
    pub(crate) fn new(interval: Duration, burst: NonZeroU32, start: Instant) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval)
            .expect("the interval is not zero")
            .allow_burst(burst);
        let ledger = Ledger::default();
        Self {
            limiter: RateLimiter::new(quota, ledger.clone(), ledger.clone()),
            ledger,
            start,
            burst,
            interval: Nanos::from(interval).into(),
        }
    }

    pub(crate) const fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// Takes `cost` cells, which must not be more than the burst. If there are fewer, it takes none
    /// and says when there will be enough.
    pub(crate) fn take(&self, cost: NonZeroU32, now: Instant) -> Result<(), Instant> {
        self.ledger.0.now.store(self.nanos(now), Relaxed);
        self.limiter
            .check_n(cost)
            .expect("the cost is not more than the burst")
            .map_err(|refusal: NotUntil<Nanos>| self.instant(refusal.earliest_possible().into()))
    }

    /// From when on `take` would succeed if `ahead` cells were taken first, each as early as can
    /// be.
    pub(crate) fn earliest(&self, cost: NonZeroU32, ahead: u64, now: Instant) -> Instant {
        let mark = self.mark();
        let taken = ahead.saturating_mul(self.interval);
        let full_at = mark.0.max(self.nanos(now)).saturating_add(taken);
        self.ledger.0.full_at.store(full_at, Relaxed);
        let answer = self.take(cost, now);
        self.set(mark);
        answer.err().unwrap_or(now)
    }

    /// How many cells there are.
    pub(crate) fn available(&self, now: Instant) -> u32 {
        let missing = self.mark().0.saturating_sub(self.nanos(now));
        let taken = missing.div_ceil(self.interval);
        self.burst
            .get()
            .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Sees to it that there is at most one cell at `end`, and none before.
    pub(crate) fn drain_until(&self, end: Instant) {
        let tolerance = self.interval * u64::from(self.burst.get() - 1);
        let full_at = self.nanos(end).saturating_add(tolerance);
        self.ledger.0.full_at.fetch_max(full_at, Relaxed);
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.ledger.0.full_at.load(Relaxed))
    }

    pub(crate) fn set(&self, mark: Mark) {
        self.ledger.0.full_at.store(mark.0, Relaxed);
    }

    fn nanos(&self, instant: Instant) -> u64 {
        let nanos = instant.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn instant(&self, nanos: u64) -> Instant {
        toolweir_core::time::saturating_add(self.start, Duration::from_nanos(nanos))
    }
}
