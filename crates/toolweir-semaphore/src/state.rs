//! Who holds a permit, and who waits for one.
//!
//! A queue of its own instead of tokio's semaphore: all figures are of one moment, a permit that is
//! taken away while a call holds it needs no bookkeeping, and the wait for one has a type with a
//! name.
//!
//! Pure: it reads no clock, takes no lock and wakes nobody. What must be woken or dropped outside
//! the caller's lock, it returns.

use std::{collections::BTreeMap, task::Waker};

use tokio::time::Instant;

/// The layer's name, in rejections and reports.
pub(crate) const LAYER: &str = "semaphore";

/// The permits and the queue for them.
///
/// Somebody waits only while all permits are taken. So a call that finds one free overtakes nobody.
#[derive(Debug)]
pub(crate) struct Permits {
    permits: usize,
    max_queue: usize,
    in_flight: usize,
    /// By place, and places are given out in rising order: the first has waited longest.
    waiters: BTreeMap<Place, Waiter>,
    next_place: Place,
    peak_in_flight: usize,
    peak_queued: usize,
    admitted: u64,
    rejected: u64,
}

/// A place in the queue. It is never given out twice.
pub(crate) type Place = u64;

#[derive(Debug)]
struct Waiter {
    since: Instant,
    /// `None` until its future is polled.
    waker: Option<Waker>,
}

/// What a call gets that could not have a permit at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A permit after all.
    Permit,
    Place(Place),
    QueueFull,
}

/// What a place had when it was left.
#[derive(Debug)]
pub(crate) enum Left {
    Waiting(Option<Waker>),
    /// A permit, which has gone on to the next in the queue: wake it.
    Permit(Option<Waker>),
}

/// All figures of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) permits: usize,
    pub(crate) max_queue: usize,
    pub(crate) in_flight: usize,
    pub(crate) queued: usize,
    pub(crate) oldest: Option<Instant>,
    pub(crate) peak_in_flight: usize,
    pub(crate) peak_queued: usize,
    pub(crate) admitted: u64,
    pub(crate) rejected: u64,
}

impl Permits {
    pub(crate) const fn new(permits: usize, max_queue: usize) -> Self {
        Self {
            permits,
            max_queue,
            in_flight: 0,
            waiters: BTreeMap::new(),
            next_place: 0,
            peak_in_flight: 0,
            peak_queued: 0,
            admitted: 0,
            rejected: 0,
        }
    }

    /// Takes a permit if one is free.
    pub(crate) fn try_acquire(&mut self) -> bool {
        let is_free = self.in_flight < self.permits;
        if is_free {
            self.in_flight += 1;
            self.peak_in_flight = self.peak_in_flight.max(self.in_flight);
            self.admitted += 1;
        }
        is_free
    }

    /// Takes a permit, or else a place at the end of the queue.
    pub(crate) fn enter(&mut self, now: Instant) -> Entry {
        if self.try_acquire() {
            return Entry::Permit;
        }
        if self.waiters.len() >= self.max_queue {
            return Entry::QueueFull;
        }
        let place = self.next_place;
        self.next_place += 1;
        let waiter = Waiter {
            since: now,
            waker: None,
        };
        self.waiters.insert(place, waiter);
        self.peak_queued = self.peak_queued.max(self.waiters.len());
        Entry::Place(place)
    }

    /// Whether a place's permit has come. From then on it is the caller's.
    ///
    /// If not, `waker` is kept for when it does, and the one from the last time comes out there.
    pub(crate) fn has_come(&mut self, place: Place, waker: &mut Option<Waker>) -> bool {
        match self.waiters.get_mut(&place) {
            Some(waiter) => {
                std::mem::swap(&mut waiter.waker, waker);
                false
            }
            // Only a permit takes a place out of the queue while it has an owner.
            None => true,
        }
    }

    /// Gives up a place, and with it the permit that may have come meanwhile.
    pub(crate) fn leave(&mut self, place: Place) -> Left {
        match self.waiters.remove(&place) {
            Some(waiter) => Left::Waiting(waiter.waker),
            None => Left::Permit(self.release()),
        }
    }

    /// Gives a permit back. It goes to the first in the queue, who is to be woken.
    pub(crate) fn release(&mut self) -> Option<Waker> {
        self.in_flight -= 1;
        self.serve_next().flatten()
    }

    /// Changes the number of permits. New ones go to the first in the queue, who are to be woken.
    /// If there are fewer, none is taken from a call: they go as they come back.
    pub(crate) fn resize(&mut self, permits: usize) -> Vec<Waker> {
        self.permits = permits;
        std::iter::from_fn(|| self.serve_next()).flatten().collect()
    }

    /// Counts a refused call.
    pub(crate) fn reject(&mut self) {
        self.rejected += 1;
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            permits: self.permits,
            max_queue: self.max_queue,
            in_flight: self.in_flight,
            queued: self.waiters.len(),
            oldest: self.waiters.values().next().map(|waiter| waiter.since),
            peak_in_flight: self.peak_in_flight,
            peak_queued: self.peak_queued,
            admitted: self.admitted,
            rejected: self.rejected,
        }
    }

    /// Hands a free permit to the first in the queue. `None`: there is none free, or nobody waits.
    fn serve_next(&mut self) -> Option<Option<Waker>> {
        if self.in_flight >= self.permits {
            return None;
        }
        let (_, waiter) = self.waiters.pop_first()?;
        self.try_acquire();
        Some(waiter.waker)
    }
}
