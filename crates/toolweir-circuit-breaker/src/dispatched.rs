//! The guard of a dispatched call: it settles the call, however it ends.

use std::sync::Arc;

use tokio::time::Instant;
use toolweir_core::{Observation, Ticket};

use crate::{shared::Shared, state::End};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The inner service's code runs. A guard dropped now is dropped by its panic.
    Inside,
    /// The call is out.
    Outside,
    /// Its end has been told.
    Settled,
}

#[derive(Debug)]
pub(crate) struct Dispatched {
    shared: Arc<Shared>,
    ticket: Ticket,
    at: Option<Instant>,
    phase: Phase,
}

impl Dispatched {
    /// To be made before the inner service is called.
    pub(crate) fn new(shared: Arc<Shared>, ticket: Ticket) -> Self {
        Self {
            at: shared.dispatch_time(),
            shared,
            ticket,
            phase: Phase::Inside,
        }
    }

    /// Runs the inner service's code, so that its panic is known for one.
    pub(crate) fn inside<R>(&mut self, run: impl FnOnce() -> R) -> R {
        self.phase = Phase::Inside;
        let result = run();
        self.phase = Phase::Outside;
        result
    }

    /// Tells how the call ended. `None`: a layer further in refused it.
    pub(crate) fn settle(&mut self, observation: Option<Observation>) {
        let end = observation.map_or(End::Refused, |seen| End::Observed(seen.outcome));
        self.end(end);
    }

    fn end(&mut self, end: End) {
        self.phase = Phase::Settled;
        self.shared.settle(self.ticket, end, self.at);
    }
}

impl Drop for Dispatched {
    fn drop(&mut self) {
        match self.phase {
            Phase::Inside => self.end(End::Panicked),
            Phase::Outside => self.end(End::Dropped),
            Phase::Settled => {}
        }
    }
}
