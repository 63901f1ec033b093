//! Reading and operating a breaker.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{Reason, ReportState, StateReport, keys::KeyFigures};

use crate::{Circuit, Transitions, circuits::Circuits, shared::Shared, state::Machine};

/// Reads a circuit's state and operates it. Cheap to clone; clones share the circuit.
///
/// A handle is of one circuit: the server's own, or that of a key. Each finds the others'.
#[derive(Debug, Clone)]
pub struct CircuitBreakerHandle {
    pub(crate) circuits: Arc<Circuits>,
    pub(crate) circuit: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl CircuitBreakerHandle {
    /// The state of this circuit, all of one moment. A hold on the server's own circuit does not show
    /// in that of a key: ask [`is_open`](Self::is_open) whether a call would be refused.
    #[must_use]
    pub fn state(&self) -> CircuitBreakerState {
        self.circuit.state()
    }

    /// Whether a call made now would be refused.
    ///
    /// It is `false` once the open period is over, although the circuit changes to half-open only
    /// with the next call: who asks before a call must make that call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.asked().refusal().is_some()
    }

    /// Why a call made now would be refused.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.asked().refusal().map(|refusal| refusal.reason)
    }

    /// How long until a call may pass. `None` where one may pass now, or where nobody knows.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.asked()
            .refusal()
            .and_then(|refusal| refusal.retry_after)
    }

    /// The key that this is the circuit of. `None`: it is the server's own.
    ///
    /// It is `"(other keys)"` for the circuit that the keys share which found no room.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.circuit.key().map(|key| &**key)
    }

    /// The handle of a key's circuit. There is one from now on, so that it can be held before the
    /// first call; it stays as long as the handle does.
    #[must_use]
    pub fn for_key(&self, key: &str) -> Self {
        self.of(self.circuits.of_key(key, Instant::now()))
    }

    /// The handle of the server's own circuit. A hold on it is a hold on all keys.
    #[must_use]
    pub fn for_server(&self) -> Self {
        self.of(self.circuits.server().clone())
    }

    /// How many keys have circuits.
    #[must_use]
    pub fn keys(&self) -> KeyFigures {
        self.circuits.figures()
    }

    /// The state of each key's circuit, in no order.
    #[must_use]
    pub fn key_states(&self) -> Vec<(Arc<str>, CircuitBreakerState)> {
        self.circuits.key_states()
    }

    /// The handle of the circuit that is shared by the keys that found no room, if there were any.
    #[must_use]
    pub fn overflow(&self) -> Option<Self> {
        Some(self.of(self.circuits.overflow()?))
    }

    /// The circuit that a call made now would belong to.
    fn asked(&self) -> &Shared {
        self.circuits.of_call_to(&self.circuit)
    }

    fn of(&self, circuit: Arc<Shared>) -> Self {
        Self {
            circuit,
            ..self.clone()
        }
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
        self.circuit.with(Machine::release);
    }

    /// Closes the circuit and forgets what was counted, also when it is closed already. The next
    /// open period is the first one again. Calls under way are not counted. A hold stays.
    pub fn reset(&self) {
        self.circuit.with(Machine::reset);
    }

    /// The transitions of this circuit from now on. While nobody listens, none is recorded.
    ///
    /// They are this handle's circuit's alone. The layer's handle is of the server's own circuit and
    /// hears nothing of the keys': for those of a key, `handle.for_key("search").subscribe()`.
    #[must_use]
    pub fn subscribe(&self) -> Transitions {
        self.circuit.subscribe()
    }

    fn hold(&self, circuit: Circuit, note: Arc<str>, duration: Option<Duration>) {
        self.circuit
            .with(|machine, now| machine.hold(circuit, note, duration, now));
    }
}

impl ReportState for CircuitBreakerHandle {
    fn report(&self) -> StateReport {
        self.asked().report(self.name.as_ref())
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
    /// Whether this circuit would refuse a call made now.
    pub is_open: bool,
    /// Why the circuit is not closed: what opened it, with the text of the last error where that is
    /// known, or what the operator said.
    pub reason: Option<String>,
    /// What the last counted failure said, since the circuit was last closed. Only a classifier that
    /// describes failures makes it known.
    pub last_error: Option<String>,
    /// In how many milliseconds a call may pass, where one would be refused now and that is known.
    pub retry_after_ms: Option<u64>,
    /// How much is left of a pause that the server asked for and that the circuit leaves to others:
    /// see [`OnThrottled::Ignore`](crate::OnThrottled::Ignore).
    pub pause_left_ms: Option<u64>,
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
    pub calls: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How many of them were slow.
    pub slow_calls: u64,
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
