//! What every layer, service and handle of one rate limit shares, and the places in its queue.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    RateLimitConfig,
    refusal::Refusal,
    state::{Entry, Limiter, Place, Turn},
};

#[derive(Debug)]
pub(crate) struct Shared(Mutex<Limiter>);

/// What becomes of a new call.
pub(crate) enum Entered {
    Passes,
    Waits(InQueue, Instant),
    Refused(Refusal),
}

impl Shared {
    pub(crate) fn new(config: RateLimitConfig) -> Self {
        Self(Mutex::new(Limiter::new(config, Instant::now())))
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        cost: NonZeroU32,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Entered {
        match self.with(|limiter| limiter.enter(cost, deadline, now)) {
            Entry::Passes => Entered::Passes,
            Entry::Waits { place, slot } => {
                let shared = self.clone();
                let place = InQueue {
                    shared,
                    place,
                    cost,
                };
                Entered::Waits(place, slot)
            }
            Entry::Refused(refusal) => Entered::Refused(refusal),
        }
    }

    pub(crate) fn throttled(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        self.with(|limiter| limiter.throttled(retry_after, now));
    }

    /// One step of the limiter. It must not run foreign code; those whom it wants to wake are woken
    /// when the lock is free again.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Limiter) -> R) -> R {
        // No foreign code runs under the lock, so a poisoned limiter is a whole one.
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = step(&mut limiter);
        let wakers = limiter.take_wakers();
        drop(limiter);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

/// A place in the queue. Dropped, it is free, and those behind it move up.
#[derive(Debug)]
pub(crate) struct InQueue {
    pub(crate) shared: Arc<Shared>,
    place: Place,
    cost: NonZeroU32,
}

impl InQueue {
    pub(crate) fn turn(&self, cx: &Context<'_>, now: Instant) -> Turn {
        // Wakers are foreign code: they are cloned before the lock is taken, and dropped after.
        let mut waker = Some(cx.waker().clone());
        self.shared
            .with(|limiter| limiter.turn(self.place, self.cost, &mut waker, now))
    }

    /// Takes the cells. `false`: something has put the turn off.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut spent = None;
        self.shared
            .with(|limiter| limiter.take(self.place, &mut spent, now))
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        let spent = self.shared.with(|limiter| limiter.leave(self.place));
        drop(spent);
    }
}
