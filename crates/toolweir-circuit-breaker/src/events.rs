//! What a circuit can be, why it changes, and who wants to know.

use std::{collections::VecDeque, fmt, sync::Weak};

use tokio::sync::watch;

use crate::shared::Shared;

/// How many transitions are kept for a listener that falls behind.
const KEPT: usize = 64;

/// What a circuit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Circuit {
    /// Calls pass and are counted.
    Closed,
    /// Calls are refused until a known time.
    Open,
    /// A few probes pass.
    HalfOpen,
    /// Calls are refused until an operator says otherwise, or for as long as one said.
    HeldOpen,
    /// Calls pass, and nothing is counted.
    HeldClosed,
    /// Calls pass and are counted, and the count decides nothing.
    ObserveOnly,
}

impl Circuit {
    /// The state's stable word, in kebab case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::HeldOpen => "held-open",
            Self::HeldClosed => "held-closed",
            Self::ObserveOnly => "observe-only",
        }
    }
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a circuit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Cause {
    /// Too large a share of the calls in the window failed.
    FailureRate,
    /// Too large a share of the calls in the window, or of the probes, was slow.
    SlowCallRate,
    /// Too many calls in a row failed.
    ConsecutiveFailures,
    /// A probe failed.
    ProbeFailed,
    /// The longest stay in half-open ended without a verdict.
    HalfOpenTimedOut,
    /// The server asked for a pause.
    Throttled,
    /// The open period is over, and a call came.
    OpenPeriodOver,
    /// The pause that the server asked for is over.
    PauseOver,
    /// The probes succeeded.
    ProbesSucceeded,
    /// An operator took hold of the circuit.
    Held,
    /// An operator's hold has ended by its own time.
    HoldOver,
    /// An operator released the circuit.
    Released,
    /// An operator reset the circuit.
    Reset,
}

impl Cause {
    /// The cause's stable word, in kebab case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure-rate",
            Self::SlowCallRate => "slow-call-rate",
            Self::ConsecutiveFailures => "consecutive-failures",
            Self::ProbeFailed => "probe-failed",
            Self::HalfOpenTimedOut => "half-open-timed-out",
            Self::Throttled => "throttled",
            Self::OpenPeriodOver => "open-period-over",
            Self::PauseOver => "pause-over",
            Self::ProbesSucceeded => "probes-succeeded",
            Self::Held => "held",
            Self::HoldOver => "hold-over",
            Self::Released => "released",
            Self::Reset => "reset",
        }
    }

    /// Whether calls that failed brought it about.
    pub(crate) const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::FailureRate | Self::ConsecutiveFailures | Self::ProbeFailed
        )
    }

    #[inline]
    pub(crate) const fn explanation(self) -> &'static str {
        match self {
            Self::FailureRate => "the failure rate reached its threshold",
            Self::SlowCallRate => "the slow call rate reached its threshold",
            Self::ConsecutiveFailures => "too many calls in a row failed",
            Self::ProbeFailed => "a probe failed",
            Self::HalfOpenTimedOut => "half-open ended without a verdict",
            Self::Throttled => "the server asked for a pause",
            Self::OpenPeriodOver => "the open period is over",
            Self::PauseOver => "the pause is over",
            Self::ProbesSucceeded => "the probes succeeded",
            Self::Held => "an operator holds the circuit",
            Self::HoldOver => "the hold is over",
            Self::Released => "an operator released the circuit",
            Self::Reset => "an operator reset the circuit",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Transition {
    /// The generation that begins with it. Each transition adds exactly one, so a gap between two
    /// that a listener gets tells how many it missed.
    pub generation: u64,
    /// What the circuit was.
    pub from: Circuit,
    /// What it is. The same as `from` after a reset of a closed or held circuit, and where one hold
    /// takes the place of another of its kind.
    pub to: Circuit,
    /// Why.
    pub cause: Cause,
}

/// The last transitions, kept while somebody listens.
#[derive(Debug, Default)]
pub(crate) struct Log(VecDeque<Transition>);

impl Log {
    pub(crate) fn push(&mut self, transition: Transition) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(transition);
    }

    /// The oldest kept transition that is younger than `generation`.
    pub(crate) fn after(&self, generation: u64) -> Option<Transition> {
        self.0
            .iter()
            .find(|transition| transition.generation > generation)
            .copied()
    }
}

/// The transitions of one circuit since the subscription, in their order.
///
/// A change that time brings about (the end of a pause, of a hold, of a stay in half-open) is seen
/// when the next call is made or the state is read. A listener more than 64 transitions behind
/// loses the oldest, and sees the gap in [`Transition::generation`].
#[derive(Debug)]
pub struct Transitions {
    // A listener does not keep the breaker alive.
    shared: Weak<Shared>,
    bell: watch::Receiver<u64>,
    seen: u64,
}

impl Transitions {
    pub(crate) const fn new(shared: Weak<Shared>, bell: watch::Receiver<u64>, seen: u64) -> Self {
        Self { shared, bell, seen }
    }

    /// Waits for the next transition. `None` once the breaker is gone: every layer, service,
    /// handle and call of it.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Transition> {
        loop {
            if let Some(transition) = self.try_next() {
                return Some(transition);
            }
            self.bell.changed().await.ok()?;
        }
    }

    /// The next transition, if it has happened already.
    pub fn try_next(&mut self) -> Option<Transition> {
        let transition = self.shared.upgrade()?.transition_after(self.seen)?;
        self.seen = transition.generation;
        Some(transition)
    }
}
