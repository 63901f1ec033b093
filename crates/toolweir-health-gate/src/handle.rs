//! Reading and operating a health gate.

use std::sync::Arc;

use toolweir_core::{BoxFuture, CheckHealth, Health, HealthReport, ReportState, StateReport};

use crate::{
    service::with_key,
    shared::Shared,
    state::{Gate, LAYER, Machine},
};

/// Reads how a server is, and operates its gate. Cheap to clone; clones share the layer's gate.
#[derive(Debug, Clone)]
pub struct HealthGateHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl HealthGateHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> HealthGateState {
        self.shared.read(Machine::snapshot)
    }

    /// What is known, if that is recent; else what a probe finds out.
    ///
    /// It joins the probe in flight, or starts the one that is due, and waits for it. Calls that come
    /// meanwhile do not wait.
    pub async fn check_health(&self) -> HealthReport {
        self.shared.check().await
    }

    /// Says that the server was stopped because nobody called it. Calls pass, and it is not probed.
    ///
    /// The result of the first call then tells what it is. A probe that knows
    /// ([`Probe::is_dormant`](crate::Probe::is_dormant)) says so itself.
    pub fn set_dormant(&self) {
        self.shared.set(Health::Dormant);
    }

    /// Forgets all that is known: the server is `Unknown`, and a probe is due.
    pub fn reset(&self) {
        self.shared.set(Health::Unknown);
    }
}

impl CheckHealth for HealthGateHandle {
    fn check_health(&self) -> BoxFuture<'_, HealthReport> {
        Box::pin(self.check_health())
    }
}

impl ReportState for HealthGateHandle {
    fn report(&self) -> StateReport {
        self.shared
            .read(|machine, now| match machine.verdict(now).gate {
                Gate::Open => StateReport::ready(LAYER),
                Gate::Closed(reason) => {
                    let rejection = machine.rejection(reason, now);
                    StateReport::refusing(&with_key(rejection, &self.name))
                }
            })
    }
}

/// What a health gate was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HealthGateState {
    /// What is known of the server.
    pub health: Health,
    /// Whether a call made now would pass.
    pub is_open: bool,
    /// How many results in a row were failures, of probes and of calls.
    pub failures: u32,
    /// How many probes in a row succeeded while the server is unhealthy.
    pub successes: u32,
    /// Whether a probe is in flight.
    pub is_probing: bool,
    /// How many probes were started, those included that found the server dormant.
    pub probes: u64,
    /// How long the last probe took.
    pub latency_ms: Option<u64>,
    /// What the last failure said. A success while the gate is open ends that.
    pub error: Option<String>,
    /// A stable word for it: `probe-failed`, `probe-timed-out`, `probe-panicked` or `call-failed`.
    pub error_type: Option<String>,
    /// How old the knowledge is. While calls succeed, it is brought up to date twice a period.
    pub age_ms: Option<u64>,
    /// In how many milliseconds a probe is due, for the next call to start. `None` while dormant.
    pub probe_due_in_ms: Option<u64>,
}
