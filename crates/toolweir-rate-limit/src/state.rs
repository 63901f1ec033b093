//! Which call passes, which waits until when, and which is refused.
//!
//! Pure: it takes the time from its caller, takes no lock and wakes nobody. Whom to wake it notes
//! down, for when the caller's lock is free again.

use std::{collections::BTreeMap, num::NonZeroU32, task::Waker, time::Duration};

use tokio::time::Instant;
use toolweir_core::time::saturating_add;

use crate::{
    PausedBy, RateLimitConfig,
    bucket::{Bucket, Mark},
    refusal::Refusal,
};

/// How long after its limit a waiting call that nobody polls keeps its place.
const ABANDONED_AFTER: Duration = Duration::from_millis(50);

/// The quota, the queue for it, and the pause.
///
/// A call passes when there are cells for it and for all that came before it. It takes them at that
/// moment and not earlier, so a call that gives up has nothing to give back.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Bucket,
    pub(crate) config: RateLimitConfig,
    /// By place, and places are given out in rising order: the first has waited longest.
    waiters: BTreeMap<Place, Waiter>,
    next_place: Place,
    /// What all that wait will cost together.
    queued_cells: u64,
    pause: Option<Pause>,
    counts: Counts,
    to_wake: Vec<Waker>,
}

/// A place in the queue. It is never given out twice.
pub(crate) type Place = u64;

#[derive(Debug)]
struct Waiter {
    cost: NonZeroU32,
    limit: Limit,
    /// `None` until its future is polled.
    waker: Option<Waker>,
}

/// How long a call waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    deadline: Option<Instant>,
}

/// Nothing passes until it is over. The bucket says so too: it is drained until then.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    by: PausedBy,
    /// What the bucket was when the pause began, in case it is ended early.
    before: Mark,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) waited: u64,
    pub(crate) rejected: u64,
    pub(crate) throttled: u64,
}

/// What becomes of a new call.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Its cells are taken.
    Passes,
    Waits {
        place: Place,
        /// When its cells will be there, as far as can be told.
        slot: Instant,
    },
    Refused(Refusal),
}

/// What has become of a call that waits.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Its cells are there. It must take them in time.
    Come {
        until: Instant,
    },
    /// They will be then, as far as can be told.
    NotBefore(Instant),
    Refused(Refusal),
}

impl Limit {
    pub(crate) fn new(now: Instant, max_wait: Duration, deadline: Option<Instant>) -> Self {
        let patience = saturating_add(now, max_wait);
        Self {
            until: deadline.map_or(patience, |deadline| patience.min(deadline)),
            deadline,
        }
    }

    /// Whether nobody waits for the answer any more.
    fn is_past_deadline(self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Limiter {
    pub(crate) fn new(config: RateLimitConfig, now: Instant) -> Self {
        Self {
            bucket: Bucket::new(config.interval(), config.burst, now),
            config,
            waiters: BTreeMap::new(),
            next_place: 0,
            queued_cells: 0,
            pause: None,
            counts: Counts::default(),
            to_wake: Vec::new(),
        }
    }

    /// Lets a new call pass, gives it a place at the end of the queue, or refuses it.
    pub(crate) fn enter(
        &mut self,
        cost: NonZeroU32,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Entry {
        let burst = self.bucket.burst();
        if cost > burst {
            self.counts.rejected += 1;
            return Entry::Refused(Refusal::CostTooHigh { cost, burst });
        }
        self.evict_abandoned(Place::MAX, now);
        let Err(slot) = self.try_pass(cost, self.queued_cells, now) else {
            return Entry::Passes;
        };
        let limit = Limit::new(now, self.config.max_wait, deadline);
        if slot > limit.until {
            self.counts.rejected += 1;
            return Entry::Refused(self.refusal(slot, now));
        }
        let place = self.next_place;
        self.next_place += 1;
        self.queued_cells += u64::from(cost.get());
        self.counts.waited += 1;
        let waker = None;
        let waiter = Waiter { cost, limit, waker };
        self.waiters.insert(place, waiter);
        Entry::Waits { place, slot }
    }

    /// Asks for the turn of a place that costs so much. If it has not come, `waker` is kept for
    /// when things change, and the one from the last time comes out there.
    pub(crate) fn turn(
        &mut self,
        place: Place,
        cost: NonZeroU32,
        waker: &mut Option<Waker>,
        now: Instant,
    ) -> Turn {
        self.evict_abandoned(place, now);
        let ahead = self.ahead_of(place);
        let Some(waiter) = self.waiters.get_mut(&place) else {
            self.counts.rejected += 1;
            let slot = self.bucket.earliest(cost, self.queued_cells, now);
            return Turn::Refused(self.refusal(slot, now));
        };
        let slot = self.bucket.earliest(cost, ahead, now);
        if slot > waiter.limit.until && slot > now {
            self.counts.rejected += 1;
            // Once it has left the queue, it would be a new call that comes after all others.
            let others = self.queued_cells - u64::from(cost.get());
            let slot = self.bucket.earliest(cost, others, now);
            return Turn::Refused(self.refusal(slot, now));
        }
        if slot <= now && waiter.limit.is_past_deadline(now) {
            self.counts.rejected += 1;
            return Turn::Refused(Refusal::PastDeadline);
        }
        std::mem::swap(&mut waiter.waker, waker);
        if slot <= now {
            Turn::Come {
                until: waiter.limit.until,
            }
        } else {
            Turn::NotBefore(slot)
        }
    }

    /// Takes the cells of a place whose turn has come, and with them the place. `false`: something
    /// has put it off since. Its waker comes out in `spent`.
    pub(crate) fn take(&mut self, place: Place, spent: &mut Option<Waker>, now: Instant) -> bool {
        let Some(cost) = self.waiters.get(&place).map(|waiter| waiter.cost) else {
            return false;
        };
        let passes = self.try_pass(cost, self.ahead_of(place), now).is_ok();
        if passes {
            *spent = self.remove(place).and_then(|waiter| waiter.waker);
        }
        passes
    }

    /// Gives up a place, if it has not been taken or lost. Those behind it move up. Its waker comes
    /// out.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Waker> {
        let waiter = self.remove(place)?;
        self.wake_from(place);
        waiter.waker
    }

    /// Counts the refusal of a call whose turn had come.
    pub(crate) const fn not_taken(&mut self) -> Refusal {
        self.counts.rejected += 1;
        Refusal::NotTaken
    }

    /// The server asks for fewer calls.
    pub(crate) fn throttled(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.counts.throttled += 1;
        let pause = retry_after.unwrap_or(self.config.default_pause);
        self.pause(pause.min(self.config.max_pause), PausedBy::Server, now);
    }

    /// Lets nothing pass for a time, and then one cell at once and no more. A pause that lasts
    /// longer stays as it is.
    pub(crate) fn pause(&mut self, duration: Duration, by: PausedBy, now: Instant) {
        let until = saturating_add(now, duration);
        match &mut self.pause {
            Some(pause) if pause.until > now => {
                if pause.until >= until {
                    return;
                }
                pause.until = until;
                pause.by = by;
            }
            _ => {
                let before = self.bucket.mark();
                self.pause = Some(Pause { until, by, before });
            }
        }
        self.bucket.drain_until(until);
        self.evict_hopeless(now);
    }

    /// Ends a pause, as if it had been meant to last until now.
    pub(crate) fn resume(&mut self, now: Instant) {
        if let Some(pause) = self.pause.take_if(|pause| pause.until > now) {
            self.bucket.set(pause.before);
            self.bucket.drain_until(now);
            self.wake_from(0);
        }
    }

    /// What is left of the pause, and who asked for it.
    pub(crate) fn paused(&self, now: Instant) -> Option<(PausedBy, Duration)> {
        let pause = self.pause.filter(|pause| pause.until > now)?;
        Some((pause.by, pause.until - now))
    }

    /// From when on a call of cost 1, made now, could pass.
    pub(crate) fn slot(&self, now: Instant) -> Instant {
        self.bucket
            .earliest(NonZeroU32::MIN, self.queued_cells, now)
    }

    /// Why a call of cost 1, made now, would be refused.
    pub(crate) fn verdict(&self, now: Instant) -> Option<Refusal> {
        let slot = self.slot(now);
        let limit = saturating_add(now, self.config.max_wait);
        (slot > limit).then(|| self.refusal(slot, now))
    }

    pub(crate) fn available(&self, now: Instant) -> u32 {
        self.bucket.available(now)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Those who are to be woken since the last time.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.to_wake)
    }

    /// Takes `cost` cells if so many are left when `ahead` others are gone, or says when they are.
    fn try_pass(&mut self, cost: NonZeroU32, ahead: u64, now: Instant) -> Result<(), Instant> {
        if ahead > 0 {
            let slot = self.bucket.earliest(cost, ahead, now);
            if slot > now {
                return Err(slot);
            }
        }
        self.bucket.take(cost, now)?;
        self.counts.passed += 1;
        Ok(())
    }

    /// A call that could pass only at `slot`.
    fn refusal(&self, slot: Instant, now: Instant) -> Refusal {
        let retry_after = slot.saturating_duration_since(now);
        match self.paused(now) {
            Some((by, _)) => Refusal::Paused(by, retry_after),
            None if retry_after.is_zero() => Refusal::NotTaken,
            None => Refusal::QuotaSpent(retry_after),
        }
    }

    fn ahead_of(&self, place: Place) -> u64 {
        let ahead = self.waiters.range(..place);
        ahead.map(|(_, waiter)| u64::from(waiter.cost.get())).sum()
    }

    fn remove(&mut self, place: Place) -> Option<Waiter> {
        let waiter = self.waiters.remove(&place)?;
        self.queued_cells -= u64::from(waiter.cost.get());
        Some(waiter)
    }

    /// Wakes all from this place on, since they move up.
    fn wake_from(&mut self, place: Place) {
        let behind = self.waiters.range_mut(place..);
        self.to_wake
            .extend(behind.filter_map(|(_, waiter)| waiter.waker.take()));
    }

    /// Puts out calls before `place` that should have ended their wait and did not: their futures
    /// are neither polled nor dropped, and all others wait behind them.
    fn evict_abandoned(&mut self, place: Place, now: Instant) {
        while let Some(first) = self.waiters.first_entry()
            && *first.key() < place
            && saturating_add(first.get().limit.until, ABANDONED_AFTER) < now
        {
            let (place, waiter) = first.remove_entry();
            self.queued_cells -= u64::from(waiter.cost.get());
            self.to_wake.extend(waiter.waker);
            self.wake_from(place);
        }
    }

    /// Puts out calls that a pause has left without a chance, so that they can be refused at once.
    fn evict_hopeless(&mut self, now: Instant) {
        let mut ahead = 0;
        let (bucket, to_wake) = (&self.bucket, &mut self.to_wake);
        self.waiters.retain(|_, waiter| {
            let slot = bucket.earliest(waiter.cost, ahead, now);
            let has_a_chance = slot <= waiter.limit.until;
            if has_a_chance {
                ahead += u64::from(waiter.cost.get());
            } else {
                to_wake.extend(waiter.waker.take());
            }
            has_a_chance
        });
        self.queued_cells = ahead;
    }
}
