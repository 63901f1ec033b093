//! What every layer, service and handle of one rate limit shares, and the places in its queue.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::PoisonError,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;
use toolweir_core::{Delivery, Observation, Outcome};

use crate::{
    RateLimitConfig, RateLimitState,
    bucket::Receipt,
    refusal::Refusal,
    scope::Place,
    state::{Ask, Entry, Limiter, Sent, Turn},
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Debug)]
pub(crate) struct Shared {
    limiter: Mutex<Limiter>,
    /// Makes identities of call ids. Its keys are nobody's business.
    hasher: RandomState,
    /// Whose it is. `None`: the server's own.
    key: Option<Arc<str>>,
}

/// What becomes of a new call.
pub(crate) enum Entered {
    Passes(Sent, Receipt),
    Waits(Place, Ask, Instant),
    Refused(Refusal),
}

impl Shared {
    pub(crate) fn new(config: RateLimitConfig, key: Option<Arc<str>>) -> Self {
        Self {
            limiter: Mutex::new(Limiter::new(config, Instant::now())),
            hasher: RandomState::new(),
            key,
        }
    }

    pub(crate) const fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    /// The key, or else the server's name.
    pub(crate) fn key_or<'a>(&'a self, name: Option<&'a Arc<str>>) -> Option<&'a Arc<str>> {
        self.key().or(name)
    }

    pub(crate) fn state(&self) -> RateLimitState {
        let now = Instant::now();
        self.with(|limiter| RateLimitState::of(limiter, now))
    }

    pub(crate) fn enter(
        &self,
        cost: NonZeroU32,
        deadline: Option<Instant>,
        call_id: Option<&str>,
        now: Instant,
    ) -> Entered {
        if let Some(receipt) = self.enter_at_once(cost, now) {
            return Entered::Passes(None, receipt);
        }
        let id = call_id.map(|call_id| self.hasher.hash_one((call_id, cost)));
        let ask = Ask { cost, deadline, id };
        self.with(|limiter| match limiter.enter(ask, now) {
            Entry::Passes(sent) => Entered::Passes(sent, limiter.receipt(cost)),
            Entry::Waits { place, slot } => Entered::Waits(place, ask, slot),
            Entry::Refused(refusal) => Entered::Refused(refusal),
        })
    }

    /// Lets a call pass that nobody comes before. There is nobody to wake then.
    #[inline]
    fn enter_at_once(&self, cost: NonZeroU32, now: Instant) -> Option<Receipt> {
        let mut limiter = self.lock();
        let passes = limiter.enter_at_once(cost, now);
        passes.then(|| limiter.receipt(cost))
    }

    /// One step of the limiter. It must not run foreign code; those whom it wants to wake are woken
    /// when the lock is free again.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Limiter) -> R) -> R {
        let mut limiter = self.lock();
        let result = step(&mut limiter);
        let wakers = limiter.take_wakers();
        drop(limiter);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Limiter> {
        // No foreign code runs under the lock, so a poisoned limiter is a whole one.
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was made.
#[derive(Debug)]
pub(crate) struct Dispatched {
    shared: Arc<Shared>,
    sent: Sent,
    receipt: Receipt,
}

impl Dispatched {
    #[inline]
    pub(crate) const fn new(shared: Arc<Shared>, sent: Sent, receipt: Receipt) -> Self {
        Self {
            shared,
            sent,
            receipt,
        }
    }

    /// How it went.
    pub(crate) fn observed(&self, seen: Observation) {
        match (seen.outcome, seen.delivery) {
            (Outcome::Throttled { retry_after }, _) => self.throttled(retry_after),
            (_, Delivery::Executed) => self.served(),
            // Whether it fits the quota, only a server can say that has answered.
            _ => {}
        }
    }

    /// The server has dealt with it.
    fn served(&self) {
        if let Some(sent) = self.sent {
            let (cost, now) = (self.receipt.cost(), Instant::now());
            self.shared.with(|limiter| limiter.served(sent, cost, now));
        }
    }

    /// A layer further in has refused it: the server knows nothing of it.
    pub(crate) fn not_made(&self) {
        let now = Instant::now();
        self.shared
            .with(|limiter| limiter.refund(self.receipt, now));
    }

    /// The server asks for fewer calls.
    fn throttled(&self, retry_after: Option<Duration>) {
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
    pub(crate) const fn new(shared: Arc<Shared>, place: Place, ask: Ask) -> Self {
        Self { shared, place, ask }
    }

    pub(crate) fn turn(&self, cx: &Context<'_>, now: Instant) -> Turn {
        // Wakers are foreign code: they are cloned before the lock is taken, and dropped after.
        let mut waker = Some(cx.waker().clone());
        self.shared
            .with(|limiter| limiter.turn(self.place, self.ask, &mut waker, now))
    }

    /// Takes the cells. `None`: something has put the turn off.
    pub(crate) fn take(&self, now: Instant) -> Option<Dispatched> {
        let mut spent = None;
        let (sent, receipt) = self.shared.with(|limiter| {
            let sent = limiter.take(self.place, &mut spent, now)?;
            Some((sent, limiter.receipt(self.ask.cost)))
        })?;
        Some(Dispatched::new(self.shared.clone(), sent, receipt))
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
