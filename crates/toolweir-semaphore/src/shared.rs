//! What every layer, service and handle of one semaphore shares, and the guards that it gives out.

use std::{
    ops::{Deref, DerefMut},
    sync::PoisonError,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;
use toolweir_core::Reason;

use crate::{
    SemaphoreConfig,
    gate::Gate,
    keys::Name,
    limit::Limit,
    queue::Place,
    state::{Entry, Held, Left, Look, Permits, Refusal},
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Debug)]
pub(crate) struct Shared {
    gate: Gate,
    permits: Mutex<Permits>,
    config: SemaphoreConfig,
}

/// What a call gets that could not have a permit at once.
pub(crate) enum Entered {
    Permit(Permit),
    Queue(InQueue),
    Refused(Refusal),
}

impl Shared {
    pub(crate) fn new(config: SemaphoreConfig) -> Self {
        let shared = Self {
            gate: Gate::new(),
            permits: Mutex::new(Permits::new(&config, Instant::now())),
            config,
        };
        // The gate opens when the lock is let go.
        drop(shared.lock());
        shared
    }

    pub(crate) const fn max_wait(&self) -> Duration {
        self.config.max_wait
    }

    /// A permit, for a call that may go past the lock.
    #[inline(always)]
    pub(crate) fn pass(self: &Arc<Self>) -> Option<Permit> {
        let is_measured = self.gate.enter()?;
        let since = is_measured.then(Instant::now);
        Some(self.permit(Held::passed(since)))
    }

    /// A permit, if one is free and no key need be looked at.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut permits = self.lock();
        let now = permits.wants_time().then(Instant::now);
        let held = permits.try_acquire(now)?;
        drop(permits);
        Some(self.permit(held))
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        key: Option<&str>,
        limit: Limit,
        now: Instant,
    ) -> Entered {
        let mut permits = self.lock();
        match permits.enter(key, limit, now) {
            Entry::Permit(held) => {
                drop(permits);
                Entered::Permit(self.permit(held))
            }
            Entry::Place(place, pushed_out) => {
                let key = permits.name(place);
                drop(permits);
                let place = InQueue {
                    shared: self.clone(),
                    place: Some(place),
                    key,
                };
                // Foreign code, which may panic: the place belongs to somebody by now.
                wake(pushed_out);
                Entered::Queue(place)
            }
            Entry::Refused(refusal) => Entered::Refused(refusal),
        }
    }

    pub(crate) fn resize(&self, permits: usize) {
        let wakers = self.lock().resize(permits, Instant::now());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Reads, or operates where nobody need be woken.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Permits, Instant) -> T) -> T {
        let now = Instant::now();
        act(&mut self.lock(), now)
    }

    #[inline(always)]
    fn permit(self: &Arc<Self>, held: Held) -> Permit {
        Permit {
            shared: self.clone(),
            held,
        }
    }

    #[inline(always)]
    fn release(&self, held: Held) {
        if !(held.is_plain() && self.gate.exit()) {
            self.release_locked(held);
        }
    }

    #[inline(never)]
    fn release_locked(&self, held: Held) {
        let mut permits = self.lock();
        let wants_time = held.is_measured() || permits.has_queue();
        let next = permits.release(held, wants_time.then(Instant::now));
        drop(permits);
        wake(next);
    }

    fn leave(&self, place: Place) {
        let left = self.lock().leave(place, Instant::now());
        match left {
            Left::Waiting(own) => drop(own),
            Left::Permit(next) => wake(next),
        }
    }

    fn lock(&self) -> Locked<'_> {
        // No foreign code runs under the lock, so a poisoned state is a whole one.
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        permits.catch_up(self.gate.close());
        Locked {
            gate: &self.gate,
            permits,
        }
    }
}

/// The whole state, under the lock and with the gate closed.
struct Locked<'s> {
    gate: &'s Gate,
    permits: MutexGuard<'s, Permits>,
}

impl Deref for Locked<'_> {
    type Target = Permits;

    fn deref(&self) -> &Permits {
        &self.permits
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Permits {
        &mut self.permits
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let permits = &self.permits;
        self.gate
            .open(permits.pass(), permits.is_open(), permits.measures_all());
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The leave to make one call. Dropped, it goes to who is next in the queue.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    held: Held,
}

impl Drop for Permit {
    #[inline(always)]
    fn drop(&mut self) {
        self.shared.release(self.held);
    }
}

/// A place in the queue. Dropped, it is free, and so is the permit that may have come meanwhile.
#[derive(Debug)]
pub(crate) struct InQueue {
    shared: Arc<Shared>,
    /// `None` once the wait is over.
    place: Option<Place>,
    key: Option<Name>,
}

impl InQueue {
    /// The permit, when it comes, or `None`: the place had to go to another key's call.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Permit>> {
        let Some(place) = self.place else {
            return Poll::Pending;
        };
        // Wakers are foreign code: they are cloned before the lock is taken, and dropped after.
        let mut waker = Some(cx.waker().clone());
        let look = self.shared.lock().look(place, &mut waker);
        let permit = match look {
            Look::Waiting => return Poll::Pending,
            Look::Permit(held) => Some(self.shared.permit(held)),
            Look::PushedOut => None,
        };
        self.place = None;
        Poll::Ready(permit)
    }

    /// Ends the wait, and counts a refused call.
    pub(crate) fn refuse(&mut self, reason: Reason) -> Refusal {
        self.leave();
        let key = self.key.as_deref();
        let refuse = |permits: &mut Permits, now| permits.reject(reason, key, now);
        self.shared.with(refuse)
    }

    /// Whose call waits, if it has a key.
    pub(crate) const fn key(&self) -> Option<&Name> {
        self.key.as_ref()
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.shared.leave(place);
        }
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.leave();
    }
}
