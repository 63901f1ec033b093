//! Reading and operating a breaker.

use std::{sync::Arc, time::Duration};

use toolweir_core::{Reason, ReportState, StateReport};

use crate::{
    Circuit, Transitions,
    shared::Shared,
    state::{LAYER, Machine, Refusal},
};

/// Reads a circuit's state and operates it. Cheap to clone; clones share the circuit.
#[derive(Debug, Clone)]
pub struct CircuitBreakerHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl CircuitBreakerHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> CircuitBreakerState {
        self.shared.with(Machine::snapshot)
    }

    /// Whether a call made now would be refused.
    ///
    /// It is `false` once the open period is over, although the circuit changes to half-open only
    /// with the next call: who asks before a call must make that call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.refusal().is_some()
    }

    /// Why a call made now would be refused.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.refusal().map(|refusal| refusal.reason)
    }

    /// How long until a call may pass. `None` where one may pass now, or where nobody knows.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// Refuses all calls, for `duration` or until [`release`](Self::release).
    ///
    /// `reason` is told to every refused caller.
    pub fn hold_open(&self, reason: impl Into<Arc<str>>, duration: Option<Duration>) {
        self.hold(Circuit::HeldOpen, reason.into(), duration);
    }

    /// Lets all calls pass and counts nothing, for `duration` or until [`release`](Self::release).
    pub fn hold_closed(&self, reason: impl Into<Arc<str>>, duration: Option<Duration>) {
        self.hold(Circuit::HeldClosed, reason.into(), duration);
    }

    /// Lets all calls pass and counts them without consequence, for `duration` or until
    /// [`release`](Self::release).
    pub fn observe_only(&self, reason: impl Into<Arc<str>>, duration: Option<Duration>) {
        self.hold(Circuit::ObserveOnly, reason.into(), duration);
    }

    /// Ends a hold. The circuit is again what it was under the hold, where time has gone on: an
    /// open period may be over. What `observe_only` has counted stays in the window, and the next
    /// counted call is judged with it.
    pub fn release(&self) {
        self.shared.with(Machine::release);
    }

    /// Closes the circuit and forgets what was counted, also when it is closed already. The next
    /// open period is the first one again. Calls under way are not counted. A hold stays.
    pub fn reset(&self) {
        self.shared.with(Machine::reset);
    }

    /// The transitions from now on. While nobody listens, none is recorded.
    #[must_use]
    pub fn subscribe(&self) -> Transitions {
        self.shared.subscribe()
    }

    fn hold(&self, circuit: Circuit, note: Arc<str>, duration: Option<Duration>) {
        self.shared
            .with(|machine, now| machine.hold(circuit, note, duration, now));
    }

    fn refusal(&self) -> Option<Refusal> {
        self.shared.with(|machine, now| {
            machine.advance(now);
            machine.verdict(now)
        })
    }
}

impl ReportState for CircuitBreakerHandle {
    fn report(&self) -> StateReport {
        match self.refusal() {
            Some(refusal) => StateReport::refusing(&refusal.into_rejection(self.name.as_ref())),
            None => StateReport::ready(LAYER),
        }
    }
}

/// What a circuit was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CircuitBreakerState {
    /// What the circuit is.
    pub state: Circuit,
    /// How long it has been so.
    pub since_ms: u64,
    /// Whether a call made now would be refused.
    pub is_open: bool,
    /// Why the circuit is not closed: what opened it, or what the operator said.
    pub reason: Option<String>,
    /// In how many milliseconds a call may pass, where one would be refused now and that is known.
    pub retry_after_ms: Option<u64>,
    /// How many transitions there have been.
    pub generation: u64,
    /// What the sliding window holds. While the circuit is open, that is what it held at the time.
    pub window: WindowFigures,
    /// How the probes of the present, or else of the last, half-open state are doing.
    pub probes: ProbeFigures,
    /// How many times the circuit has opened since the last sustained success. Each doubles the
    /// open period.
    pub openings: u32,
    /// How many outcomes came from before the then last transition, and so changed nothing.
    pub stale_outcomes: u64,
    /// How many calls were refused.
    pub rejected_calls: u64,
}

/// What a sliding window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WindowFigures {
    /// How many calls.
    pub calls: usize,
    /// How many of them failed.
    pub failures: usize,
    /// How many of them were slow.
    pub slow_calls: usize,
    /// How many calls have failed since the last success, in the window or before it.
    pub consecutive_failures: u32,
}

/// How probes are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ProbeFigures {
    /// How many hold a slot.
    pub out: usize,
    /// How many have succeeded.
    pub successes: u32,
}
