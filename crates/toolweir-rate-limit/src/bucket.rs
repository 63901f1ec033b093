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

use crate::refunds::{Refunds, Stamp};

/// Nanoseconds since the limiter was made.
pub(crate) type Nano = u64;

/// Nothing is moved farther away than some 146 years, so that more can be added.
const FARTHEST: Nano = 1 << 62;

/// governor's clock and store.
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
    burst: NonZeroU32,
    /// Nanoseconds in which one cell comes back.
    interval: u64,
    refunds: Refunds,
    /// How many times it was drained, or its pace was changed.
    drains: u32,
}

/// What a call has taken, in case it is not made. It is small, because each call carries it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    cost: NonZeroU32,
    /// How many times the bucket was drained by then.
    drains: u32,
    stamp: Stamp,
}

impl Receipt {
    /// How many cells it is for.
    pub(crate) const fn cost(&self) -> NonZeroU32 {
        self.cost
    }
}

/// What a bucket's ledger said at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(pub(crate) Nano);

impl Bucket {
    /// A full bucket. `interval` times `burst` must be some years at most.
    pub(crate) fn new(interval: Duration, burst: NonZeroU32) -> Self {
        let ledger = Ledger::default();
        let interval = interval.max(Duration::from_nanos(1));
        Self {
            limiter: limiter(interval, burst, &ledger),
            ledger,
            burst,
            interval: Nanos::from(interval).into(),
            refunds: Refunds::default(),
            drains: 0,
        }
    }

    pub(crate) const fn interval(&self) -> u64 {
        self.interval
    }

    /// Takes `cost` cells, which must not be more than the burst. If there are fewer, it takes none
    /// and says when there will be enough.
    pub(crate) fn take(&self, cost: NonZeroU32, now: Nano) -> Result<(), Nano> {
        self.ledger.0.now.store(now, Relaxed);
        self.limiter
            .check_n(cost)
            .expect("the cost is not more than the burst")
            .map_err(|refusal: NotUntil<Nanos>| refusal.earliest_possible().into())
    }

    /// What a call has that has just taken so many cells.
    pub(crate) fn receipt(&self, cost: NonZeroU32) -> Receipt {
        Receipt {
            cost,
            drains: self.drains,
            stamp: self.refunds.stamp(self.full_at()),
        }
    }

    /// Gives back cells that were taken for nothing, but for what time has brought back meanwhile.
    /// Whether that is anything.
    ///
    /// The last of its cells comes back at the time by which the bucket was to be full when it had
    /// taken them. Whatever those got back who took theirs later, they had put that time off by as
    /// much. What those got back who took theirs earlier makes it sooner. Until then the bucket was
    /// never full, so without the call it would now be fuller by at least as much as is still to come.
    pub(crate) fn refund(&mut self, receipt: Receipt, now: Nano) -> bool {
        if receipt.drains != self.drains {
            return false;
        }
        let back_at = self.refunds.back_at(receipt.stamp);
        let cells = u64::from(receipt.cost.get());
        let left = (cells * self.interval).min(back_at.saturating_sub(now));
        if left == 0 {
            return false;
        }
        // Where nobody has taken any since, it is as if there had been no such call.
        if receipt.stamp < self.refunds.stamp(self.full_at()) {
            self.refunds.add(receipt.stamp, left, now);
        }
        self.set(Mark(self.full_at() - left));
        true
    }

    /// From when on so many cells can be taken, each as early as can be. It may be past, and more
    /// cells than the burst has.
    pub(crate) fn free_at(&self, cells: u64, now: Nano) -> Nano {
        self.full_at()
            .max(now)
            .saturating_add(cells.saturating_mul(self.interval))
            .saturating_sub(self.capacity())
    }

    /// As [`free_at`](Self::free_at), with nothing saved up since the last time that anything was
    /// taken.
    pub(crate) fn free_at_the_latest(&self, cells: u64) -> Nano {
        self.free_at(cells, 0)
    }

    /// How many cells there are.
    pub(crate) fn available(&self, now: Nano) -> u32 {
        let missing = self.full_at().saturating_sub(now);
        let taken = missing.div_ceil(self.interval);
        self.burst
            .get()
            .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Sees to it that there is at most one cell at `end`, and none before.
    pub(crate) fn drain_until(&mut self, end: Nano) {
        let full_at = end.saturating_add(self.capacity() - self.interval);
        self.ledger.0.full_at.fetch_max(full_at, Relaxed);
        self.begin_anew();
    }

    /// Changes the pace at which cells come back. The cells that there are stay.
    pub(crate) fn set_interval(&mut self, interval: Duration, now: Nano) {
        let before = self.interval;
        let interval = interval.max(Duration::from_nanos(1));
        self.interval = Nanos::from(interval).into();
        self.limiter = limiter(interval, self.burst, &self.ledger);
        let full_at = scaled(self.full_at(), now, self.interval, before);
        self.set(Mark(full_at));
        self.begin_anew();
    }

    /// Nobody gets anything back any more for what he took before.
    fn begin_anew(&mut self) {
        self.drains = self.drains.wrapping_add(1);
        self.refunds = Refunds::default();
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.full_at())
    }

    pub(crate) fn set(&self, mark: Mark) {
        self.ledger.0.full_at.store(mark.0, Relaxed);
    }

    fn full_at(&self) -> Nano {
        self.ledger.0.full_at.load(Relaxed)
    }

    /// How long an empty bucket takes to fill.
    fn capacity(&self) -> u64 {
        self.interval * u64::from(self.burst.get())
    }
}

fn limiter(
    interval: Duration,
    burst: NonZeroU32,
    ledger: &Ledger,
) -> RateLimiter<NotKeyed, Ledger, Ledger, NoOpMiddleware<Nanos>> {
    let quota = Quota::with_period(interval)
        .expect("the interval is not zero")
        .allow_burst(burst);
    // governor counts from the time at which it is made, and the ledger from zero.
    ledger.0.now.store(0, Relaxed);
    RateLimiter::new(quota, ledger.clone(), ledger.clone())
}

/// A time as far from now as its distance times `to / from`; a time that is past stays.
pub(crate) fn scaled(at: Nano, now: Nano, to: u64, from: u64) -> Nano {
    let Some(ahead) = at.checked_sub(now) else {
        return at;
    };
    let ahead = u128::from(ahead) * u128::from(to) / u128::from(from.max(1));
    now.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX).min(FARTHEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_time_has_brought_back_is_not_refunded_again() {
        let second = Duration::from_secs(1);
        let nanos = Nanos::from(second).into();
        let mut bucket = Bucket::new(second, NonZeroU32::MIN);
        assert!(bucket.take(NonZeroU32::MIN, 0).is_ok());
        let receipt = bucket.receipt(NonZeroU32::MIN);
        assert!(!bucket.refund(receipt, nanos), "it is all back");
        assert!(
            bucket.refund(receipt, nanos - 1),
            "a nanosecond's worth is not"
        );
    }

    #[test]
    fn who_had_his_back_sooner_because_others_were_refused_gets_no_more() {
        let second = Duration::from_secs(1);
        let nanos: u64 = Nanos::from(second).into();
        let mut bucket = Bucket::new(second, NonZeroU32::MIN.saturating_add(1));
        let take = |bucket: &Bucket, now| {
            assert!(bucket.take(NonZeroU32::MIN, now).is_ok());
            bucket.receipt(NonZeroU32::MIN)
        };
        let (first, second) = (take(&bucket, 0), take(&bucket, 0));
        assert!(bucket.refund(first, 0));
        // Now that of the second is back after one second, and the bucket full.
        take(&bucket, nanos * 6 / 5);
        let full_at = bucket.mark().0;
        assert!(!bucket.refund(second, nanos * 3 / 2));
        assert_eq!(bucket.mark().0, full_at);
    }

    #[test]
    fn however_many_are_refused_meanwhile_who_came_before_them_gets_his_back() {
        let second = Duration::from_secs(1);
        let burst = NonZeroU32::MIN.saturating_add(1);
        let mut bucket = Bucket::new(second, burst);
        let take = |bucket: &Bucket| {
            assert!(bucket.take(NonZeroU32::MIN, 0).is_ok());
            bucket.receipt(NonZeroU32::MIN)
        };
        let first = take(&bucket);
        for _ in 0..1_000 {
            let refused = take(&bucket);
            assert!(bucket.refund(refused, 0));
            assert_eq!(bucket.available(0), 1);
        }
        assert!(bucket.refund(first, 0));
        assert_eq!(bucket.available(0), 2);
    }
}
