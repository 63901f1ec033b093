//! One circuit, as every layer, service and handle shares it.

use std::{
    any::Any,
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use toolweir_core::{LeaseOwner, StateReport, Ticket, time::millis_ceil};

use crate::{
    Cause, CircuitBreakerConfig, CircuitBreakerState, Transition, Transitions,
    config::SlidingWindow,
    refusal::{LAYER, Refusal},
    state::{End, Machine, Mode},
    sync::{AtomicU64, Mutex, MutexGuard, Ordering},
};

/// What a word's low bits say; the rest is the generation.
mod word {
    use crate::Cause;

    pub(super) const GENERATION: u32 = 8;
    /// An operator holds the circuit.
    pub(super) const HELD: u64 = 0x80;
    pub(super) const MODE: u64 = 0x7f;
    /// Ask the machine.
    pub(super) const OTHER: u64 = 0;
    /// Every call passes.
    pub(super) const CLOSED: u64 = 1;
    /// Every call is refused until a time that stands beside the word: this and a cause's place.
    pub(super) const OPEN: u64 = 2;

    /// What opens a circuit.
    const CAUSES: [Cause; 6] = [
        Cause::FailureRate,
        Cause::SlowCallRate,
        Cause::ConsecutiveFailures,
        Cause::ProbeFailed,
        Cause::HalfOpenTimedOut,
        Cause::Throttled,
    ];

    pub(super) fn open(cause: Cause) -> u64 {
        let place = (OPEN..).zip(CAUSES).find(|(_, own)| *own == cause);
        place.map_or(OTHER, |(place, _)| place)
    }

    #[inline]
    pub(super) fn cause(word: u64) -> Option<Cause> {
        let place = (word & MODE).checked_sub(OPEN)?;
        CAUSES.get(usize::try_from(place).ok()?).copied()
    }
}

/// Keeps what calls read apart from what calls write, so that threads do not wait for each other's
/// writes to see that the circuit is closed.
#[repr(align(128))]
struct Apart<T>(T);

/// What admission reads: in most cases nothing else.
struct Front {
    /// The generation, and what is plain of the circuit.
    word: AtomicU64,
    /// The end of the open period, in nanoseconds from `base`. It belongs to the word that is the
    /// same before and after it is read.
    open_until: AtomicU64,
    base: Instant,
    /// Whether anybody asks how long calls take.
    times_calls: bool,
    /// Whether an outcome needs the time.
    needs_time: bool,
    key: Option<Arc<str>>,
    config: Arc<CircuitBreakerConfig>,
}

/// The ticket of a call under way, and when it was dispatched, where anybody asks how long calls
/// take.
pub(crate) type Dispatch = (Ticket, Option<Instant>);

pub(crate) struct Shared {
    front: Apart<Front>,
    machine: Apart<Mutex<Machine>>,
    rejected_calls: AtomicU64,
    /// The newest generation, for listeners.
    bell: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(config: Arc<CircuitBreakerConfig>, key: Option<Arc<str>>) -> Self {
        let now = Instant::now();
        let times_calls = config.slow_calls.is_some();
        let is_timed = matches!(config.sliding_window, SlidingWindow::Time { .. });
        let machine = Machine::new(config.clone(), fastrand::u64(..), now);
        Self {
            front: Apart(Front {
                word: AtomicU64::new(word_of(&machine)),
                open_until: AtomicU64::new(0),
                base: now,
                times_calls,
                needs_time: times_calls || is_timed,
                key,
                config,
            }),
            machine: Apart(Mutex::new(machine)),
            rejected_calls: AtomicU64::new(0),
            bell: watch::Sender::new(0),
        }
    }

    pub(crate) const fn config(&self) -> &Arc<CircuitBreakerConfig> {
        &self.front.0.config
    }

    /// The key that this is the circuit of. The server's has none.
    pub(crate) const fn key(&self) -> Option<&Arc<str>> {
        self.front.0.key.as_ref()
    }
}

// Calls. `now` is the present time, where it has been read already. What is inlined always hands its
// result over in registers.
impl Shared {
    #[inline]
    pub(crate) fn admit(&self, now: Option<Instant>) -> Result<Ticket, Refusal> {
        if let Some(ticket) = closed_ticket(self.word()) {
            return Ok(ticket);
        }
        let now = now.unwrap_or_else(Instant::now);
        self.refuse_at_once(now)?;
        self.ask(|machine| machine.admit(now))
    }

    /// Dispatches a call, admitted or to be admitted now. With it comes the time, where anybody
    /// asks how long calls take.
    #[inline(always)]
    pub(crate) fn dispatch(
        &self,
        ticket: Option<Ticket>,
        now: Option<Instant>,
    ) -> Result<Dispatch, Refusal> {
        // Closed, it would admit anew whatever it admitted before.
        if let Some(ticket) = closed_ticket(self.word()) {
            return Ok((ticket, self.dispatch_time(now)));
        }
        let now = now.unwrap_or_else(Instant::now);
        self.refuse_at_once(now)?;
        let ticket = self.ask(|machine| {
            let ticket = match ticket {
                Some(ticket) => ticket,
                None => machine.admit(now)?,
            };
            machine.dispatch(ticket, now)
        })?;
        Ok((ticket, self.dispatch_time(Some(now))))
    }

    /// Asks the machine for leave.
    #[inline(never)]
    fn ask(
        &self,
        step: impl FnOnce(&mut Machine) -> Result<Ticket, Refusal>,
    ) -> Result<Ticket, Refusal> {
        let result = self.step(step);
        if result.is_err() {
            self.rejected_calls.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    pub(crate) fn dispatch_unadmitted(&self, now: Option<Instant>) -> Dispatch {
        if let Some(ticket) = closed_ticket(self.word()) {
            return (ticket, self.dispatch_time(now));
        }
        let now = now.unwrap_or_else(Instant::now);
        let ticket = self.step(|machine| machine.dispatch_unadmitted(now));
        (ticket, self.dispatch_time(Some(now)))
    }

    pub(crate) fn settle(
        &self,
        ticket: &Ticket,
        end: (End, Option<Duration>),
        dispatched: Option<Instant>,
        error: Option<Arc<str>>,
    ) {
        // Read before the lock is taken, so that it is not held for so long.
        let now = self.front.0.needs_time.then(Instant::now);
        let clock = || now.unwrap_or_else(Instant::now);
        self.step(|machine| machine.settle(ticket, end, dispatched, error, clock));
    }

    #[inline]
    fn dispatch_time(&self, now: Option<Instant>) -> Option<Instant> {
        let read = || now.unwrap_or_else(Instant::now);
        self.front.0.times_calls.then(read)
    }

    /// Refuses a call, if that can be told without the machine. Nothing is locked.
    #[inline(always)]
    fn refuse_at_once(&self, now: Instant) -> Result<(), Refusal> {
        let word = self.word();
        let Some(cause) = word::cause(word) else {
            return Ok(());
        };
        let until = Duration::from_nanos(self.front.0.open_until.load(Ordering::Acquire));
        // A transition since would have changed the word before it changed the time.
        if self.word() != word {
            return Ok(());
        }
        let left = until.saturating_sub(now.saturating_duration_since(self.front.0.base));
        if left.is_zero() {
            return Ok(());
        }
        self.rejected_calls.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::open(cause, left))
    }

    /// What a rejection names: the key, or else the server.
    pub(crate) fn key_or<'a>(&'a self, name: Option<&'a Arc<str>>) -> Option<&'a Arc<str>> {
        self.key().or(name)
    }
}

// Reading and operating.
impl Shared {
    /// One step of the machine, at the present time.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Machine, Instant) -> R) -> R {
        let now = Instant::now();
        self.step(|machine| step(machine, now))
    }

    pub(crate) fn state(&self) -> CircuitBreakerState {
        CircuitBreakerState {
            rejected_calls: self.rejected_calls.load(Ordering::Relaxed),
            ..self.with(Machine::snapshot)
        }
    }

    /// Why a call made now would be refused.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.with(|machine, now| {
            machine.advance(now);
            machine.verdict(now)
        })
    }

    pub(crate) fn report(&self, name: Option<&Arc<str>>) -> StateReport {
        if let Some(refusal) = self.refusal() {
            return StateReport::refusing(&refusal.into_rejection(self.key_or(name).cloned()));
        }
        let mut report = StateReport::ready(LAYER);
        if let Some(left) = self.with(|machine, now| machine.pause_left(now)) {
            let asked = Cause::Throttled.explanation();
            report.reason = Some(format!("{asked}, which is left to a rate limit"));
            report.retry_after_ms = Some(millis_ceil(left));
        }
        report
    }

    pub(crate) fn is_closed(&self) -> bool {
        closed_ticket(self.word()).is_some()
    }

    /// Whether an operator holds the circuit. The clock is read only where one did.
    #[inline]
    pub(crate) fn is_held_at(&self, clock: impl FnOnce() -> Instant) -> bool {
        self.word() & word::HELD != 0 && {
            let now = clock();
            self.step(|machine| {
                machine.advance(now);
                machine.is_held()
            })
        }
    }

    /// Whether a call would pass, and no operator has a hand in it.
    pub(crate) fn is_at_rest(&self, now: Instant) -> bool {
        self.step(|machine| {
            machine.advance(now);
            !machine.is_held() && machine.verdict(now).is_none()
        })
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.bell.receiver_count() > 0
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Transitions {
        let mut machine = self.lock();
        // Under the lock, so that no transition comes between the receiver and the log.
        let bell = self.bell.subscribe();
        machine.listen();
        Transitions::new(Arc::downgrade(self), bell, machine.generation())
    }

    pub(crate) fn transition_after(&self, generation: u64) -> Option<Transition> {
        self.lock().transition_after(generation)
    }

    fn step<R>(&self, step: impl FnOnce(&mut Machine) -> R) -> R {
        let mut machine = self.lock();
        let before = machine.generation();
        let result = step(&mut machine);
        let generation = machine.generation();
        if generation == before {
            return result;
        }
        self.publish(&machine);
        if !self.is_listened_to() {
            machine.stop_listening();
        }
        drop(machine);
        // Listeners wake without a lock held. Two threads may come here in either order.
        self.bell.send_if_modified(|newest| {
            let is_newer = *newest < generation;
            *newest = generation.max(*newest);
            is_newer
        });
        result
    }

    /// Writes down what can be told without the machine, after a transition.
    fn publish(&self, machine: &Machine) {
        let front = &self.front.0;
        if let Mode::Open { until, .. } = machine.mode() {
            // No transition leads from open to open, so whoever reads the new time finds that the
            // word is not the one that he read before it.
            debug_assert_eq!(word::cause(self.word()), None);
            let until = until.saturating_duration_since(front.base).as_nanos();
            let until = u64::try_from(until).unwrap_or(u64::MAX);
            front.open_until.store(until, Ordering::Release);
        }
        front.word.store(word_of(machine), Ordering::Release);
    }

    #[inline]
    fn word(&self) -> u64 {
        self.front.0.word.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No foreign code runs under the lock, so a poisoned machine is a whole one.
        let machine = self.machine.0.lock();
        machine.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ticket of the present generation, if every call passes.
#[inline]
fn closed_ticket(word: u64) -> Option<Ticket> {
    (word & word::MODE == word::CLOSED).then_some(Ticket {
        generation: word >> word::GENERATION,
        probe: None,
    })
}

fn word_of(machine: &Machine) -> u64 {
    let mode = match machine.mode() {
        Mode::Closed => word::CLOSED,
        Mode::Open { cause, .. } => word::open(cause),
        Mode::Other => word::OTHER,
    };
    let held = if machine.is_held() { word::HELD } else { 0 };
    machine.generation() << word::GENERATION | held | mode
}

impl LeaseOwner for Shared {
    fn give_back(&self, ticket: Ticket) {
        // Only probes hold something.
        if ticket.probe.is_some() {
            self.lock().give_back(ticket);
        }
    }

    /// To any circuit of the same breaker: which one it is, observation learns from the lease.
    fn lends_to(&self, taker: &dyn LeaseOwner) -> bool {
        let taker: &dyn Any = taker;
        taker
            .downcast_ref::<Self>()
            .is_some_and(|taker| Arc::ptr_eq(self.config(), taker.config()))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        f.debug_struct("Shared")
            .field("key", &self.key())
            .field("generation", &(word >> word::GENERATION))
            .field("closed", &closed_ticket(word).is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_kept_only_while_somebody_listens() {
        let shared = Arc::new(Shared::new(Arc::default(), None));
        shared.with(Machine::reset);
        assert_eq!(shared.transition_after(0), None);

        let listener = shared.subscribe();
        shared.with(Machine::reset);
        assert!(shared.transition_after(0).is_some());

        drop(listener);
        shared.with(Machine::reset);
        assert_eq!(shared.transition_after(0), None);
    }
}
