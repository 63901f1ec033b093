//! What every layer, service and handle of one rate limit shares, and the places in its queue.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    RateLimitConfig,
    refusal::Refusal,
    scope::Place,
    state::{Ask, Entry, Limiter, Sent, Turn},
};

#[derive(Debug)]
pub(crate) struct Shared {
    limiter: Mutex<Limiter>,
    /// Makes identities of call ids. Its keys are nobody's business.
    hasher: RandomState,
}

/// What becomes of a new call.
pub(crate) enum Entered {
    Passes(Dispatched),
    Waits(InQueue, Instant),
    Refused(Refusal),
}

impl Shared {
    pub(crate) fn new(config: RateLimitConfig) -> Self {
        Self {
            limiter: Mutex::new(Limiter::new(config, Instant::now())),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        cost: NonZeroU32,
        deadline: Option<Instant>,
        call_id: Option<&str>,
        now: Instant,
    ) -> Entered {
        if self.with(|limiter| limiter.enter_at_once(cost, now)) {
            return Entered::Passes(self.dispatched(None));
        }
        let id = call_id.map(|call_id| self.hasher.hash_one(call_id));
        let ask = Ask { cost, deadline, id };
        match self.with(|limiter| limiter.enter(ask, now)) {
            Entry::Passes(sent) => Entered::Passes(self.dispatched(sent)),
            Entry::Waits { place, slot } => {
                let shared = self.clone();
                Entered::Waits(InQueue { shared, place, ask }, slot)
            }
            Entry::Refused(refusal) => Entered::Refused(refusal),
        }
    }

    fn dispatched(self: &Arc<Self>, sent: Sent) -> Dispatched {
        let shared = self.clone();
        Dispatched { shared, sent }
    }

    /// One step of the limiter. It must not run foreign code; those whom it wants to wake are woken
    /// when the lock is free again.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Limiter) -> R) -> R {
        // No foreign code runs under the lock, so a poisoned limiter is a whole one.
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let result = step(&mut limiter);
        let wakers = limiter.take_wakers();
        drop(limiter);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

/// A call that was made.
#[derive(Debug)]
pub(crate) struct Dispatched {
    shared: Arc<Shared>,
    sent: Sent,
}

impl Dispatched {
    /// The server has dealt with it.
    pub(crate) fn served(&self) {
        if let Some(sent) = self.sent {
            let now = Instant::now();
            self.shared.with(|limiter| limiter.served(sent, now));
        }
    }

    /// The server asks for fewer calls.
    pub(crate) fn throttled(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        self.shared
            .with(|limiter| limiter.throttled(self.sent, retry_after, now));
    }
}

/// A place in the queue. Dropped, it is free, and those behind it move up.
#[derive(Debug)]
pub(crate) struct InQueue {
    shared: Arc<Shared>,
    place: Place,
    ask: Ask,
}

impl InQueue {
    pub(crate) fn turn(&self, cx: &Context<'_>, now: Instant) -> Turn {
        // Wakers are foreign code: they are cloned before the lock is taken, and dropped after.
        let mut waker = Some(cx.waker().clone());
        self.shared
            .with(|limiter| limiter.turn(self.place, self.ask, &mut waker, now))
    }

    /// Takes the cells. `None`: something has put the turn off.
    pub(crate) fn take(&self, now: Instant) -> Option<Dispatched> {
        let mut spent = None;
        let sent = self
            .shared
            .with(|limiter| limiter.take(self.place, &mut spent, now))?;
        Some(self.shared.dispatched(sent))
    }

    pub(crate) fn not_taken(&self) -> Refusal {
        self.shared.with(Limiter::not_taken)
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        let spent = self.shared.with(|limiter| limiter.leave(self.place));
        drop(spent);
    }
}
