//! Which call passes, which waits until when, and which is refused.
//!
//! Pure: it takes the time from its caller, takes no lock and wakes nobody. Whom to wake it notes
//! down, for when the caller's lock is free again.

use std::{collections::BTreeMap, num::NonZeroU32, task::Waker, time::Duration};

use tokio::time::Instant;
use toolweir_core::time::saturating_add;

use crate::{
    PausedBy, RateLimitConfig,
    bookings::{Bookings, CallId},
    bucket::{Mark, Nano, Receipt},
    config::Pace,
    learner::Learner,
    refusal::Refusal,
    scope::{self, Place, Scope},
};

/// How long after its limit a waiting call that nobody polls keeps its place.
const ABANDONED_AFTER: Duration = Duration::from_millis(50);

/// No booking is farther away: ten years. It bounds the arithmetic.
const FARTHEST: Nano = 316_224_000_000_000_000;

/// The quota, the queue for it, the bookings and the pause.
///
/// A call passes when there are cells for it and for all that came before it. It takes them at that
/// moment and not earlier, so a call that gives up has nothing to give back.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) config: RateLimitConfig,
    /// That which it was made with.
    first_pace: Pace,
    start: Instant,
    scope: Scope,
    bookings: Bookings,
    learner: Option<Learner>,
    /// By place: the first has waited longest.
    waiters: BTreeMap<Place, Waiter>,
    next_place: Place,
    pause: Option<Pause>,
    counts: Counts,
    to_wake: Vec<Waker>,
}

#[derive(Debug)]
struct Waiter {
    cost: NonZeroU32,
    limit: Limit,
    /// `None` until its future is polled.
    waker: Option<Waker>,
}

/// What a call is to the limiter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) cost: NonZeroU32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) id: Option<CallId>,
}

/// How long a call waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Nano,
    deadline: Option<Nano>,
}

/// Nothing passes until it is over. The bucket says so too: it is drained until then.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Nano,
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
    pub(crate) refunded: u64,
    pub(crate) most_waiting: usize,
}

/// When a call was sent, where a rate is learned from what becomes of it.
pub(crate) type Sent = Option<Nano>;

/// What becomes of a new call.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Its cells are taken.
    Passes(Sent),
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
    /// Whether nobody waits for the answer any more.
    fn is_past_deadline(self, now: Nano) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

// Calls.
impl Limiter {
    pub(crate) fn new(config: RateLimitConfig, start: Instant) -> Self {
        let learner = match config.pace {
            Pace::Quota { .. } => None,
            Pace::Learned { first_rate } => Some(Learner::new(first_rate)),
        };
        Self {
            scope: Scope::new(config.interval(), config.burst),
            bookings: Bookings::new(config.max_bookings, config.booking_grace),
            first_pace: config.pace,
            config,
            start,
            learner,
            waiters: BTreeMap::new(),
            next_place: 0,
            pause: None,
            counts: Counts::default(),
            to_wake: Vec::new(),
        }
    }

    /// Lets a call pass if that can be told without knowing which one it is.
    #[inline]
    pub(crate) fn enter_at_once(&mut self, cost: NonZeroU32, now: Instant) -> bool {
        let is_plain = self.learner.is_none()
            && self.waiters.is_empty()
            && !self.scope.is_claimed()
            && cost <= self.config.burst;
        let passes = is_plain && self.scope.take(cost, self.nano(now));
        self.counts.passed += u64::from(passes);
        passes
    }

    /// Lets a call pass, gives it a place in the queue, or refuses it.
    pub(crate) fn enter(&mut self, ask: Ask, now: Instant) -> Entry {
        let (cost, burst) = (ask.cost, self.config.burst);
        if cost > burst {
            self.counts.rejected += 1;
            return Entry::Refused(Refusal::CostTooHigh { cost, burst });
        }
        let now = self.nano(now);
        self.tick(now);
        self.evict_abandoned(Place::MAX, now);
        let limit = self.limit(ask.deadline, now);
        if let Some(place) = ask.id.and_then(|id| self.bookings.find(id)) {
            return self.come_back(place, cost, limit, now);
        }
        if self.scope.admits(cost, now) {
            return Entry::Passes(self.pass(cost, now));
        }
        self.wants_more();
        let slot = self.scope.next_slot(cost, now);
        if slot > limit.until {
            return Entry::Refused(self.refuse(cost, ask.id, now));
        }
        let place = self.new_place();
        self.scope.enqueue(place, cost, now);
        self.wait(place, cost, limit, slot)
    }

    /// A caller that was told to.
    fn come_back(&mut self, place: Place, cost: NonZeroU32, limit: Limit, now: Nano) -> Entry {
        let slot = self.slot_of(place, cost, now);
        if slot <= now {
            self.bookings.redeem(place);
            self.scope.release(place);
            return Entry::Passes(self.pass(cost, now));
        }
        if slot > limit.until {
            // A call that would pass if it were new is early, and not held up by the pace.
            if !self.scope.admits(cost, now) {
                self.wants_more();
            }
            return Entry::Refused(self.tell_again(place, cost, now));
        }
        self.bookings.comes_back(place);
        self.wait(place, cost, limit, slot)
    }

    fn wait(&mut self, place: Place, cost: NonZeroU32, limit: Limit, slot: Nano) -> Entry {
        self.counts.waited += 1;
        let waker = None;
        let waiter = Waiter { cost, limit, waker };
        self.waiters.insert(place, waiter);
        self.counts.most_waiting = self.counts.most_waiting.max(self.waiters.len());
        let slot = self.instant(slot.min(limit.until));
        Entry::Waits { place, slot }
    }

    /// Asks for the turn of a place. If it has not come, `waker` is kept for when things change, and
    /// the one from the last time comes out there.
    pub(crate) fn turn(
        &mut self,
        place: Place,
        ask: Ask,
        waker: &mut Option<Waker>,
        now: Instant,
    ) -> Turn {
        let (cost, now) = (ask.cost, self.nano(now));
        self.tick(now);
        self.evict_abandoned(place, now);
        let slot = self.slot_of(place, cost, now);
        let Some(waiter) = self.waiters.get_mut(&place) else {
            return Turn::Refused(self.refuse_again(ask, now));
        };
        let limit = waiter.limit;
        if slot > limit.until && slot > now {
            *waker = self.leave(place);
            // Once it has left the queue, it would be a new call that comes after all others.
            return Turn::Refused(self.refuse_again(ask, now));
        }
        if slot <= now && limit.is_past_deadline(now) {
            self.counts.rejected += 1;
            return Turn::Refused(Refusal::PastDeadline);
        }
        std::mem::swap(&mut waiter.waker, waker);
        if slot <= now {
            Turn::Come {
                until: self.instant(limit.until),
            }
        } else {
            Turn::NotBefore(self.instant(slot.min(limit.until)))
        }
    }

    /// Takes the cells of a place whose turn has come, and with them the place. `None`: something
    /// has put it off since. Its waker comes out in `spent`.
    pub(crate) fn take(
        &mut self,
        place: Place,
        spent: &mut Option<Waker>,
        now: Instant,
    ) -> Option<Sent> {
        let now = self.nano(now);
        let cost = self.waiters.get(&place)?.cost;
        if self.slot_of(place, cost, now) > now {
            return None;
        }
        *spent = self.waiters.remove(&place).and_then(|waiter| waiter.waker);
        self.bookings.redeem(place);
        self.scope.leave(place, cost);
        Some(self.pass(cost, now))
    }

    /// Gives up a place, if it has not been taken or lost. Those behind it move up. Its waker comes
    /// out.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Waker> {
        let waiter = self.put_out(place)?;
        self.wake_from(place);
        waiter.waker
    }

    /// What a call has taken that passed in the same moment.
    pub(crate) fn receipt(&self, cost: NonZeroU32) -> Receipt {
        self.scope.bucket().receipt(cost)
    }

    /// A call has passed, and was not made: a layer further in refused it. It gets back what time has
    /// not brought back meanwhile.
    pub(crate) fn refund(&mut self, receipt: Receipt, now: Instant) {
        self.counts.refunded += 1;
        let now = self.nano(now);
        if self.scope.refund(receipt, now) {
            self.wake_from(0);
        }
    }

    /// Counts the refusal of a call whose turn had come.
    pub(crate) const fn not_taken(&mut self) -> Refusal {
        self.counts.rejected += 1;
        Refusal::NotTaken
    }

    /// The server has dealt with a call that was sent then.
    pub(crate) fn served(&mut self, sent: Nano, cost: NonZeroU32, now: Instant) {
        let now = self.nano(now);
        let learner = self.learner.as_mut();
        if learner.is_some_and(|learner| learner.served(sent, cost, now)) {
            self.follow(now);
        }
    }

    /// The server asks for fewer calls.
    pub(crate) fn throttled(&mut self, sent: Sent, retry_after: Option<Duration>, now: Instant) {
        self.counts.throttled += 1;
        let pause = retry_after.unwrap_or(self.config.default_pause);
        let pause = pause.min(self.config.max_pause);
        let (at, resumes) = (self.nano(now), self.nano(saturating_add(now, pause)));
        self.pause(pause, PausedBy::Server, now);
        if let (Some(learner), Some(sent)) = (&mut self.learner, sent)
            && learner.refused(sent, at, resumes)
        {
            self.follow(at);
        }
    }
}

// Operating and reading.
impl Limiter {
    /// Lets nothing pass for a time, and then one cell at once and no more. A pause that lasts
    /// longer stays as it is.
    pub(crate) fn pause(&mut self, duration: Duration, by: PausedBy, now: Instant) {
        let until = self.nano(saturating_add(now, duration));
        let now = self.nano(now);
        self.scope.advance(now);
        match &mut self.pause {
            Some(pause) if pause.until > now => {
                if pause.until >= until {
                    return self.evict_hopeless(now);
                }
                pause.until = until;
                pause.by = by;
            }
            _ => {
                let before = self.scope.bucket().mark();
                self.pause = Some(Pause { until, by, before });
            }
        }
        self.scope.pause(until);
        self.evict_hopeless(now);
    }

    /// Ends a pause, as if it had been meant to last until now.
    pub(crate) fn resume(&mut self, now: Instant) {
        let now = self.nano(now);
        if let Some(pause) = self.pause.take_if(|pause| pause.until > now) {
            self.scope.resume(pause.before, now);
            self.wake_from(0);
        }
    }

    /// Changes the quota. Who was told to come back at a time that is too early now is told again.
    pub(crate) fn set_pace(&mut self, config: &RateLimitConfig, now: Instant) {
        self.config.pace = config.pace;
        let now = self.nano(now);
        let pace = scope::Pace {
            interval: config.interval(),
            is_learned: false,
            spacing: None,
        };
        self.go_at(pace, now);
    }

    /// What is left of the pause, and who asked for it.
    pub(crate) fn paused(&self, now: Instant) -> Option<(PausedBy, Duration)> {
        let now = self.nano(now);
        let pause = self.pause_at(now)?;
        Some((pause.by, Duration::from_nanos(pause.until - now)))
    }

    /// From when on a call of cost 1, made now, could pass.
    pub(crate) fn slot(&mut self, now: Instant) -> Instant {
        let at = self.nano(now);
        self.tick(at);
        if self.scope.admits(NonZeroU32::MIN, at) {
            return now;
        }
        self.instant(self.scope.next_slot(NonZeroU32::MIN, at))
    }

    /// Why a call of cost 1, made now, would be refused.
    pub(crate) fn verdict(&mut self, now: Instant) -> Option<Refusal> {
        let slot = self.slot(now);
        let limit = saturating_add(now, self.config.max_wait);
        (slot > limit).then(|| self.refusal(slot.saturating_duration_since(now), self.nano(now)))
    }

    pub(crate) fn available(&self, now: Instant) -> u32 {
        self.scope.bucket().available(self.nano(now))
    }

    /// In which time a cell comes back.
    pub(crate) const fn interval(&self) -> Duration {
        Duration::from_nanos(self.scope.bucket().interval())
    }

    /// Whether it is what it was when it was made, as far as the quota goes: that is the same, and
    /// nobody waits, has a booking or lacks a cell.
    pub(crate) fn is_at_rest(&mut self, now: Instant) -> bool {
        let at = self.nano(now);
        self.tick(at);
        let has_claims = self.scope.is_claimed() || !self.waiters.is_empty();
        // A pause has drained the bucket.
        let is_full = self.available(now) == self.config.burst.get();
        !has_claims && is_full && self.config.pace == self.first_pace
    }

    /// Whether its pace is learned.
    pub(crate) const fn is_learning(&self) -> bool {
        self.learner.is_some()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) const fn bookings(&self) -> &Bookings {
        &self.bookings
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Those who are to be woken since the last time.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.to_wake)
    }
}

// What the rest is made of.
impl Limiter {
    fn nano(&self, at: Instant) -> Nano {
        nanos(at.saturating_duration_since(self.start))
    }

    fn instant(&self, at: Nano) -> Instant {
        saturating_add(self.start, Duration::from_nanos(at))
    }

    fn limit(&self, deadline: Option<Instant>, now: Nano) -> Limit {
        let deadline = deadline.map(|deadline| self.nano(deadline));
        let patience = now.saturating_add(nanos(self.config.max_wait));
        Limit {
            until: deadline.map_or(patience, |deadline| patience.min(deadline)),
            deadline,
        }
    }

    const fn new_place(&mut self) -> Place {
        let place = self.next_place;
        self.next_place += 1;
        place
    }

    fn pause_at(&self, now: Nano) -> Option<Pause> {
        self.pause.filter(|pause| pause.until > now)
    }

    /// Lets the time pass.
    fn tick(&mut self, now: Nano) {
        if self.scope.is_claimed() {
            self.scope.advance(now);
            while let Some(place) = self.bookings.lapse(now) {
                self.scope.release(place);
            }
        }
    }

    /// Somebody wants to go faster than the pace.
    const fn wants_more(&mut self) {
        if let Some(learner) = &mut self.learner {
            learner.limits();
        }
    }

    /// Goes at the pace that was learned.
    fn follow(&mut self, now: Nano) {
        if let Some(learner) = &self.learner {
            let pace = scope::Pace {
                interval: Duration::from_nanos(learner.interval()),
                is_learned: true,
                spacing: learner.spacing(),
            };
            self.go_at(pace, now);
        }
    }

    fn go_at(&mut self, pace: scope::Pace, now: Nano) {
        self.scope.advance(now);
        let paused = self.pause_at(now).map(|pause| (pause.until, pause.before));
        let before = self.scope.set_pace(pace, paused, now);
        if let Some(pause) = &mut self.pause {
            pause.before = before;
        }
        self.evict_hopeless(now);
        self.wake_from(0);
    }

    /// When a place has its turn.
    fn slot_of(&self, place: Place, cost: NonZeroU32, now: Nano) -> Nano {
        let ahead = self.waiters.range(..place);
        let ahead = ahead.map(|(_, waiter)| u64::from(waiter.cost.get())).sum();
        let slot = self.scope.slot(place).unwrap_or(now);
        slot.max(self.scope.free_at(cost, ahead, now))
    }

    /// Takes the cells of a call that is about to be made.
    fn pass(&mut self, cost: NonZeroU32, now: Nano) -> Sent {
        self.counts.passed += 1;
        self.scope.take(cost, now);
        self.learner.is_some().then_some(now)
    }

    /// Refuses a call that comes after all others, and books it if it can be known again.
    fn refuse(&mut self, cost: NonZeroU32, id: Option<CallId>, now: Nano) -> Refusal {
        self.counts.rejected += 1;
        let slot = self.scope.next_slot(cost, now);
        let told = self.told(slot, now);
        if slot > now
            && slot - now <= FARTHEST
            && let Some(id) = id.filter(|id| self.bookings.has_room_for(*id))
        {
            let place = self.new_place();
            self.scope.claim(place, cost, now);
            self.bookings.insert(place, id, told);
        }
        self.refusal(Duration::from_nanos(told - now), now)
    }

    /// Refuses a call that has waited, and that may have a booking.
    fn refuse_again(&mut self, ask: Ask, now: Nano) -> Refusal {
        match ask.id.and_then(|id| self.bookings.find(id)) {
            Some(place) => self.tell_again(place, ask.cost, now),
            None => self.refuse(ask.cost, ask.id, now),
        }
    }

    /// Refuses a call that keeps its booking.
    fn tell_again(&mut self, place: Place, cost: NonZeroU32, now: Nano) -> Refusal {
        self.counts.rejected += 1;
        // Where several are late, each is told a time of its own.
        let before = self.scope.due_before(place);
        let free = self.scope.free_at(cost, before, now);
        let slot = self.slot_of(place, cost, now).max(free);
        let told = self.told(slot, now);
        self.bookings.tell(place, told);
        self.refusal(Duration::from_nanos(told - now), now)
    }

    /// When to come back for a slot.
    fn told(&self, slot: Nano, now: Nano) -> Nano {
        let wait = slot.saturating_sub(now);
        let learner = self.learner.as_ref();
        now + learner.map_or(wait, |learner| learner.told(wait))
    }

    /// A call that could pass only after so long.
    fn refusal(&self, retry_after: Duration, now: Nano) -> Refusal {
        match self.pause_at(now) {
            Some(pause) => Refusal::Paused(pause.by, retry_after),
            None if retry_after.is_zero() => Refusal::NotTaken,
            None => Refusal::QuotaSpent(retry_after),
        }
    }

    /// Takes a place out of the queue. A booking stays.
    fn put_out(&mut self, place: Place) -> Option<Waiter> {
        let waiter = self.waiters.remove(&place)?;
        if !self.bookings.goes_away(place) {
            self.scope.leave(place, waiter.cost);
        }
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
    fn evict_abandoned(&mut self, place: Place, now: Nano) {
        let late = now.saturating_sub(nanos(ABANDONED_AFTER));
        while let Some((first, waiter)) = self.waiters.first_key_value()
            && *first < place
            && waiter.limit.until < late
        {
            let first = *first;
            if let Some(waiter) = self.put_out(first) {
                self.to_wake.extend(waiter.waker);
            }
            self.wake_from(first);
        }
    }

    /// Puts out calls that are left without a chance, so that they can be refused at once. Those
    /// behind them move up.
    fn evict_hopeless(&mut self, now: Nano) {
        let mut ahead = 0;
        let mut hopeless = Vec::new();
        for (place, waiter) in &self.waiters {
            let slot = self.scope.slot(*place).unwrap_or(now);
            let slot = slot.max(self.scope.free_at(waiter.cost, ahead, now));
            if slot <= waiter.limit.until {
                ahead += u64::from(waiter.cost.get());
            } else {
                hopeless.push(*place);
            }
        }
        for place in &hopeless {
            let waker = self.put_out(*place).and_then(|waiter| waiter.waker);
            self.to_wake.extend(waker);
        }
        if let Some(first) = hopeless.first() {
            self.wake_from(*first);
        }
    }
}

fn nanos(duration: Duration) -> Nano {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One call a second, and what a caller may wait is as long.
    fn limiter(start: Instant) -> Limiter {
        let config = RateLimitConfig::builder().calls_per_second(1).burst(1);
        let config = config.max_wait(SECOND).build().unwrap();
        Limiter::new(config, start)
    }

    fn ask(id: CallId) -> Ask {
        Ask {
            cost: NonZeroU32::MIN,
            deadline: None,
            id: Some(id),
        }
    }

    fn passes(entry: &Entry) -> bool {
        matches!(entry, Entry::Passes(_))
    }

    fn place(entry: &Entry) -> Place {
        match entry {
            Entry::Waits { place, .. } => *place,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    #[test]
    fn who_would_wait_no_longer_than_is_allowed_waits() {
        let start = Instant::now();
        let mut limiter = limiter(start);
        assert!(passes(&limiter.enter(ask(1), start)));
        assert!(
            limiter.verdict(start).is_none(),
            "the next cell is a second away"
        );
        place(&limiter.enter(ask(2), start));
        assert!(matches!(limiter.enter(ask(3), start), Entry::Refused(_)));
        // Told two seconds, it comes back after one.
        place(&limiter.enter(ask(3), start + SECOND));
    }

    #[test]
    fn a_turn_that_was_put_off_before_it_was_taken_is_not_taken() {
        let start = Instant::now();
        let mut limiter = limiter(start);
        assert!(passes(&limiter.enter(ask(1), start)));
        let place = place(&limiter.enter(ask(2), start));
        let now = start + SECOND;
        let turn = limiter.turn(place, ask(2), &mut None, now);
        assert!(matches!(turn, Turn::Come { .. }));
        limiter.scope.pause(limiter.nano(now + SECOND));
        assert!(limiter.take(place, &mut None, now).is_none());
        assert!(limiter.take(place, &mut None, now + SECOND).is_some());
    }

    #[test]
    fn who_is_put_out_when_there_are_cells_is_told_now_and_books_nothing() {
        let start = Instant::now();
        let mut limiter = limiter(start);
        assert!(passes(&limiter.enter(ask(1), start)));
        let place = place(&limiter.enter(ask(2), start));
        // To the nanosecond, it has not been gone for too long.
        let limit = start + SECOND + ABANDONED_AFTER;
        limiter.evict_abandoned(Place::MAX, limiter.nano(limit));
        assert_eq!(limiter.waiting(), 1);
        limiter.evict_abandoned(Place::MAX, limiter.nano(limit) + 1);
        assert_eq!(limiter.waiting(), 0);
        let turn = limiter.turn(place, ask(2), &mut None, limit + SECOND);
        assert!(matches!(turn, Turn::Refused(Refusal::NotTaken)), "{turn:?}");
        assert_eq!(limiter.bookings().len(), 0);
    }

    #[test]
    fn a_limiter_that_is_ten_years_old_takes_bookings() {
        let start = Instant::now();
        let mut limiter = limiter(start);
        let now = start + Duration::from_nanos(FARTHEST);
        assert!(passes(&limiter.enter(ask(1), now)));
        place(&limiter.enter(ask(2), now));
        assert!(matches!(limiter.enter(ask(3), now), Entry::Refused(_)));
        assert_eq!(limiter.bookings().len(), 1);
    }

    #[test]
    fn who_is_refused_again_is_counted_again() {
        let start = Instant::now();
        let mut limiter = limiter(start);
        assert!(passes(&limiter.enter(ask(1), start)));
        place(&limiter.enter(ask(2), start));
        for refused in 1..=3 {
            let entry = limiter.enter(ask(3), start);
            assert!(matches!(entry, Entry::Refused(_)), "{entry:?}");
            assert_eq!(limiter.counts().rejected, refused);
        }
    }
}
