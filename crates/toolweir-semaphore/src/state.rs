//! Who holds a permit, and who waits for one.
//!
//! A queue of its own instead of tokio's semaphore: all figures are of one moment, a permit that is
//! taken away while a call holds it needs no bookkeeping, the wait for one has a type with a name,
//! and the order is fair between keys.
//!
//! Pure: it reads no clock, takes no lock and wakes nobody. What must be woken or dropped outside
//! the caller's lock, it returns.

use std::{task::Waker, time::Duration};

use tokio::time::Instant;
use toolweir_core::Reason;

use crate::{
    SemaphoreConfig,
    estimate::{Holds, Need},
    gate::{NUMBERS, Pass, is_measured},
    keys::{KeyId, Name},
    limit::Limit,
    queue::{FairQueue, Place, Share, Standing},
};

/// The layer's name, in rejections and reports.
pub(crate) const LAYER: &str = "semaphore";

/// How many times are measured before it is only one call in so many that is. In a model none need
/// be: what has to be right there is the way past the lock.
const MEASURE_ALL: u32 = if cfg!(toolweir_loom) { 0 } else { 32 };

/// From which mean hold on it matters when the last permit was taken.
const LONG: Duration = Duration::from_millis(1);

/// The permits and the queue for them.
///
/// Somebody waits only while all permits are taken, or while his key has all that one key may have.
/// So a call that finds a permit free overtakes nobody who could have had it.
#[derive(Debug)]
pub(crate) struct Permits {
    permits: usize,
    max_queue: usize,
    /// `None`: as many as there are, and then a call that need not wait is counted for no key.
    max_per_key: Option<usize>,
    in_flight: usize,
    queue: FairQueue,
    holds: Holds,
    /// When the last permit was taken, if that is known. It is where somebody waits and permits are
    /// held long.
    last_taken: Option<Instant>,
    marks: Marks,
    admitted: u64,
    rejected: u64,
    pushed_out: u64,
}

/// The highest figures since some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) since: Instant,
}

/// What belongs to a permit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// The key for which it is counted.
    key: Option<KeyId>,
    /// Since when it is held, if that is measured.
    since: Option<Instant>,
}

/// What a call gets that could not have a permit at once.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A permit after all.
    Permit(Held),
    /// A place, for which another call may have had to go: wake it.
    Place(Place, Option<Waker>),
    Refused(Refusal),
}

/// What a waiting call sees when it looks.
#[derive(Debug)]
pub(crate) enum Look {
    Waiting,
    Permit(Held),
    PushedOut,
}

/// What a place had when it was left.
#[derive(Debug)]
pub(crate) enum Left {
    /// Nothing. Inside is its own waker.
    Waiting(Option<Waker>),
    /// A permit, which has gone on to who is next: wake him.
    Permit(Option<Waker>),
}

/// Why a call is refused, and what a person would ask next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) permits: usize,
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) retry_after: Option<Duration>,
}

/// All figures of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) permits: usize,
    pub(crate) max_queue: usize,
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) keys: usize,
    pub(crate) oldest: Option<Instant>,
    pub(crate) hold: Option<Duration>,
    pub(crate) marks: Marks,
    pub(crate) admitted: u64,
    pub(crate) rejected: u64,
    pub(crate) pushed_out: u64,
}

impl Permits {
    pub(crate) fn new(config: &SemaphoreConfig, now: Instant) -> Self {
        let most = config.max_per_key.unwrap_or(usize::MAX);
        Self {
            permits: config.permits,
            max_queue: config.max_queue,
            max_per_key: config.max_per_key,
            in_flight: 0,
            queue: FairQueue::new(most),
            holds: Holds::default(),
            last_taken: None,
            marks: Marks {
                in_flight: 0,
                queued: 0,
                since: now,
            },
            admitted: 0,
            rejected: 0,
            pushed_out: 0,
        }
    }

    /// What calls have done that went past, up to now.
    pub(crate) fn catch_up(&mut self, pass: Pass) {
        self.in_flight = usize::try_from(pass.in_flight).unwrap_or(usize::MAX);
        self.admitted = self.admitted / NUMBERS * NUMBERS + pass.number;
    }

    /// What further ones may do that go past: anything that changes no more than the two figures.
    /// Not a new high-water mark, and not the last permit where it matters when it was taken.
    pub(crate) fn pass(&self) -> Pass {
        let plain = self.permits - usize::from(self.times_last_permit());
        Pass {
            in_flight: figure(self.in_flight),
            ceiling: figure(plain.min(self.marks.in_flight)),
            number: self.admitted % NUMBERS,
        }
    }

    /// Whether calls may go past at all: not where others wait, and not where keys are counted.
    pub(crate) const fn is_open(&self) -> bool {
        self.queue.len() == 0 && self.max_per_key.is_none()
    }

    /// Whether all calls are measured, because few have been.
    pub(crate) const fn measures_all(&self) -> bool {
        self.holds.seen() < MEASURE_ALL
    }

    /// Whether the time matters to a call that takes a permit now.
    pub(crate) fn wants_time(&self) -> bool {
        let is_last = self.in_flight + 1 >= self.permits;
        self.measures_all() || is_measured(self.admitted) || is_last && self.times_last_permit()
    }

    fn times_last_permit(&self) -> bool {
        self.holds.last_mean() >= LONG
    }

    /// Whether anybody waits.
    pub(crate) const fn has_queue(&self) -> bool {
        self.queue.len() > 0
    }

    /// Takes a permit if one is free, for no key, where keys are not counted.
    pub(crate) fn try_acquire(&mut self, now: Option<Instant>) -> Option<Held> {
        if self.in_flight >= self.permits || self.max_per_key.is_some() {
            return None;
        }
        let is_measured = self.measures_all() || is_measured(self.admitted);
        let is_last = self.in_flight + 1 == self.permits;
        self.take(now.filter(|_| is_last && self.times_last_permit()));
        Some(Held::passed(now.filter(|_| is_measured)))
    }

    /// Takes a permit, or else a place, if the wait can end in time.
    pub(crate) fn enter(&mut self, key: Option<&str>, limit: Limit, now: Instant) -> Entry {
        if let Some(held) = self.acquire_for(key, now) {
            return Entry::Permit(held);
        }
        if limit.has_come(now) || self.is_hopeless(key, limit, now) {
            return Entry::Refused(self.reject(limit.reason(), key, now));
        }
        let mut pushed_out = None;
        if self.queue.len() >= self.max_queue {
            let Some(waker) = self.queue.make_room(key) else {
                return Entry::Refused(self.reject(Reason::QueueFull, key, now));
            };
            pushed_out = waker;
            self.pushed_out += 1;
        }
        let place = self.queue.join(key, now);
        self.marks.queued = self.marks.queued.max(self.queue.len());
        Entry::Place(place, pushed_out)
    }

    /// The name of the key that a place is for.
    pub(crate) fn name(&self, place: Place) -> Option<Name> {
        self.queue.name(place)
    }

    /// Whether a place's permit has come. From then on it is the caller's.
    ///
    /// If not, `waker` is kept for when it does, and the one from the last time comes out there.
    pub(crate) fn look(&mut self, place: Place, waker: &mut Option<Waker>) -> Look {
        match self.queue.look(place, waker.take()) {
            Standing::Waiting(old) => {
                *waker = old;
                Look::Waiting
            }
            Standing::Served(key, since) => Look::Permit(Held::counted(key, since)),
            Standing::PushedOut => Look::PushedOut,
        }
    }

    /// Gives up a place, and with it the permit that may have come meanwhile.
    pub(crate) fn leave(&mut self, place: Place, now: Instant) -> Left {
        match self.queue.leave(place) {
            Standing::Waiting(own) => Left::Waiting(own),
            Standing::Served(key, since) => {
                Left::Permit(self.release(Held::counted(key, since), Some(now)))
            }
            Standing::PushedOut => Left::Waiting(None),
        }
    }

    /// Gives a permit back. It goes to the next in the queue, who is to be woken. The time must be
    /// given where there is a queue or the permit was measured.
    pub(crate) fn release(&mut self, held: Held, now: Option<Instant>) -> Option<Waker> {
        self.in_flight -= 1;
        if let Some(key) = held.key {
            self.queue.end(key);
        }
        let now = now?;
        if let Some(since) = held.since {
            self.holds.see(now.saturating_duration_since(since), now);
        }
        self.serve_next(now).flatten()
    }

    /// Changes the number of permits. New ones go to those who are next, who are to be woken. If
    /// there are fewer, none is taken from a call: they go as they come back.
    pub(crate) fn resize(&mut self, permits: usize, now: Instant) -> Vec<Waker> {
        self.permits = permits;
        let served = std::iter::from_fn(|| self.serve_next(now));
        served.flatten().collect()
    }

    /// Counts a refused call.
    pub(crate) fn reject(&mut self, reason: Reason, key: Option<&str>, now: Instant) -> Refusal {
        self.rejected += 1;
        self.refusal(reason, key, now)
    }

    /// How a call of `key` would be refused now. `None`: it would not.
    pub(crate) fn would_refuse(
        &self,
        key: Option<&str>,
        max_wait: Duration,
        now: Instant,
    ) -> Option<Refusal> {
        let limit = Limit::new(now, max_wait, None);
        let share = self.queue.share(key);
        let reason = if self.has_permit_for(share) {
            return None;
        } else if limit.has_come(now) || self.is_hopeless(key, limit, now) {
            Reason::WaitTooLong
        } else if self.queue.len() >= self.max_queue && !self.queue.has_room_for(share) {
            Reason::QueueFull
        } else {
            return None;
        };
        Some(self.refusal(reason, key, now))
    }

    /// How long a call of `key` would likely wait if it were made now. `None`: nobody knows.
    pub(crate) fn estimate(&self, key: Option<&str>, now: Instant) -> Option<Duration> {
        if self.has_permit_for(self.queue.share(key)) {
            return Some(Duration::ZERO);
        }
        let needs = self.needs(key).into_iter().flatten();
        needs.filter_map(|need| self.holds.likely(need, now)).max()
    }

    pub(crate) fn share(&self, key: Option<&str>) -> Share {
        self.queue.share(key)
    }

    pub(crate) fn figures(&self, now: Instant) -> Figures {
        Figures {
            permits: self.permits,
            max_queue: self.max_queue,
            in_flight: self.in_flight,
            queued: self.queue.len(),
            keys: self.queue.keys(),
            oldest: self.queue.oldest(),
            hold: self.holds.mean(now),
            marks: self.marks,
            admitted: self.admitted,
            rejected: self.rejected,
            pushed_out: self.pushed_out,
        }
    }

    /// Begins the highest figures anew, with those of now.
    pub(crate) fn reset_marks(&mut self, now: Instant) {
        self.marks = Marks {
            in_flight: self.in_flight,
            queued: self.queue.len(),
            since: now,
        };
    }

    fn acquire_for(&mut self, key: Option<&str>, now: Instant) -> Option<Held> {
        if !self.has_permit_for(self.queue.share(key)) {
            return None;
        }
        self.take(Some(now));
        Some(Held {
            key: self.max_per_key.map(|_| self.queue.run(key, now)),
            since: Some(now),
        })
    }

    fn has_permit_for(&self, share: Share) -> bool {
        let may_have = self.max_per_key.unwrap_or(usize::MAX);
        self.in_flight < self.permits && share.running < may_have
    }

    fn take(&mut self, now: Option<Instant>) {
        self.in_flight += 1;
        self.marks.in_flight = self.marks.in_flight.max(self.in_flight);
        self.admitted += 1;
        self.last_taken = now.or(self.last_taken);
    }

    /// Hands a free permit to the call that is next. `None`: there is none free, or nobody waits.
    fn serve_next(&mut self, now: Instant) -> Option<Option<Waker>> {
        if self.in_flight >= self.permits {
            return None;
        }
        let waker = self.queue.serve(now)?;
        self.take(Some(now));
        Some(waker)
    }

    /// Whether a call of `key` that waits cannot have its permit in time, as far as is known.
    fn is_hopeless(&self, key: Option<&str>, limit: Limit, now: Instant) -> bool {
        let needs = self.needs(key).into_iter().flatten();
        let mut least = needs.filter_map(|need| self.holds.least(need, now));
        least.any(|wait| limit.is_shorter_than(wait, now))
    }

    /// What a new call of `key` needs that finds no permit: of all permits, and of its key's own
    /// where one key may have only so many.
    fn needs(&self, key: Option<&str>) -> [Option<Need>; 2] {
        let share = self.queue.share(key);
        let of_all = (self.in_flight >= self.permits).then(|| Need {
            turns: self.queue.ahead(key) + 1 + self.in_flight - self.permits,
            of: self.in_flight,
            last_taken: self.last_taken,
        });
        let max_per_key = self.max_per_key.filter(|most| share.running >= *most);
        let of_key = max_per_key.map(|most| Need {
            turns: share.queued + 1,
            of: most,
            last_taken: share.last_taken,
        });
        [of_all, of_key]
    }

    fn refusal(&self, reason: Reason, key: Option<&str>, now: Instant) -> Refusal {
        Refusal {
            reason,
            permits: self.permits,
            in_flight: self.in_flight,
            queued: self.queue.len(),
            retry_after: self.estimate(key, now).filter(|wait| !wait.is_zero()),
        }
    }
}

impl Held {
    const fn counted(key: KeyId, since: Instant) -> Self {
        Self {
            key: Some(key),
            since: Some(since),
        }
    }

    /// A permit of a call that went past.
    pub(crate) const fn passed(since: Option<Instant>) -> Self {
        Self { key: None, since }
    }

    /// Whether the time is wanted when it is given back.
    pub(crate) const fn is_measured(self) -> bool {
        self.since.is_some()
    }

    /// Whether nothing need be known of it when it is given back.
    pub(crate) const fn is_plain(self) -> bool {
        self.since.is_none() && self.key.is_none()
    }
}

fn figure(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What calls that go past rest on. How it goes for those that do not, the tests of the whole crate
/// show.
#[cfg(all(test, not(toolweir_loom)))]
mod tests {
    use super::*;
    use crate::gate::MEASURE_ONE_IN;

    const MILLI: Duration = Duration::from_millis(1);

    fn permits(permits: usize) -> Permits {
        let config = SemaphoreConfig::builder()
            .permits(permits)
            .build()
            .expect("a number in range");
        Permits::new(&config, Instant::now())
    }

    /// Calls that held their permits for so long, one after the other, up to all that are measured at
    /// the start.
    fn after(permits: usize, hold: Duration) -> Permits {
        let mut permits = self::permits(permits);
        for _ in 0..MEASURE_ALL {
            assert!(permits.measures_all());
            call(&mut permits, hold);
        }
        permits
    }

    fn call(permits: &mut Permits, hold: Duration) {
        let now = Instant::now();
        let held = permits.try_acquire(Some(now)).expect("one is free");
        assert!(held.is_measured());
        permits.release(held, Some(now + hold));
    }

    #[test]
    fn all_are_measured_until_enough_have_been() {
        let mut permits = after(3, Duration::ZERO);
        assert!(!permits.measures_all() && !permits.wants_time());
        let held = permits.try_acquire(Some(Instant::now())).unwrap();
        assert!(held.is_plain());
    }

    #[test]
    fn the_time_is_wanted_for_one_call_in_so_many() {
        let mut permits = after(3, Duration::ZERO);
        for number in [MEASURE_ONE_IN - 1, MEASURE_ONE_IN, MEASURE_ONE_IN + 1] {
            let in_flight = 0;
            permits.catch_up(Pass {
                in_flight,
                ceiling: 1,
                number,
            });
            assert_eq!(permits.wants_time(), number == MEASURE_ONE_IN);
            let held = permits.try_acquire(Some(Instant::now())).unwrap();
            assert_eq!(held.is_measured(), number == MEASURE_ONE_IN);
        }
    }

    #[test]
    fn when_the_last_permit_is_taken_matters_where_they_are_held_long() {
        for (hold, matters) in [(MILLI - Duration::from_nanos(8), false), (MILLI, true)] {
            let mut permits = after(3, hold);
            let now = Instant::now();
            for taken in 0..3 {
                let is_last = taken == 2;
                assert_eq!(permits.wants_time(), matters && is_last, "{hold:?} {taken}");
                permits.try_acquire(Some(now)).unwrap();
                assert_eq!(permits.last_taken, (matters && is_last).then_some(now));
            }
            assert!(permits.try_acquire(Some(now)).is_none());
            // The most at once were three, so the third can go past where it does not matter.
            assert_eq!(permits.pass().ceiling, if matters { 2 } else { 3 });
        }
    }

    #[test]
    fn calls_go_past_up_to_what_there_has_been() {
        let mut permits = permits(5);
        assert_eq!(
            permits.pass(),
            Pass {
                in_flight: 0,
                ceiling: 0,
                number: 0
            }
        );
        let held = [0, 1].map(|_| permits.try_acquire(None).unwrap());
        permits.release(held[0], Some(Instant::now()));
        assert_eq!(
            permits.pass(),
            Pass {
                in_flight: 1,
                ceiling: 2,
                number: 2
            }
        );
    }

    #[test]
    fn nobody_goes_past_those_who_wait_or_where_keys_are_counted() {
        let now = Instant::now();
        let mut permits = permits(1);
        assert!(permits.is_open());
        permits.try_acquire(Some(now)).unwrap();
        let limit = Limit::new(now, Duration::from_secs(1), None);
        let Entry::Place(place, _) = permits.enter(None, limit, now) else {
            panic!("there is a free permit, or no place")
        };
        assert!(!permits.is_open() && permits.has_queue());
        permits.leave(place, now);
        assert!(permits.is_open() && !permits.has_queue());

        let config = SemaphoreConfig::builder().permits(2).max_per_key(1);
        let permits = Permits::new(&config.build().unwrap(), now);
        assert!(!permits.is_open());
    }

    #[test]
    fn the_numbers_of_calls_that_went_past_go_round() {
        let mut permits = permits(1);
        let at = |number| Pass {
            in_flight: 0,
            ceiling: 1,
            number,
        };
        permits.catch_up(at(NUMBERS - 1));
        permits.try_acquire(None).unwrap();
        assert_eq!(permits.pass().number, 0);
        permits.catch_up(at(5));
        assert_eq!(permits.figures(Instant::now()).admitted, NUMBERS + 5);
        assert_eq!(permits.pass().number, 5);
    }
}
