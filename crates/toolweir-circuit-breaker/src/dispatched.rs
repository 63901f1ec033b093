//! The guard of a dispatched call: it settles the call, however it ends.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{Observation, Outcome, Ticket};

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
    #[inline]
    pub(crate) const fn new(shared: Arc<Shared>, (ticket, at): (Ticket, Option<Instant>)) -> Self {
        Self {
            at,
            shared,
            ticket,
            phase: Phase::Inside,
        }
    }

    /// Runs the inner service's code, so that its panic is known for one.
    #[inline]
    pub(crate) fn inside<R>(&mut self, run: impl FnOnce() -> R) -> R {
        self.phase = Phase::Inside;
        let result = run();
        self.phase = Phase::Outside;
        result
    }

    /// Tells how the call ended. `None`: a layer further in refused it.
    #[inline]
    pub(crate) fn settle(&mut self, observation: Option<Observation>, error: Option<Arc<str>>) {
        let asked = match observation.map(|seen| seen.outcome) {
            Some(Outcome::Throttled { retry_after }) => retry_after,
            _ => None,
        };
        self.end(End::of(observation), asked, error);
    }

    #[inline]
    fn end(&mut self, end: End, asked: Option<Duration>, error: Option<Arc<str>>) {
        self.phase = Phase::Settled;
        let shared = &self.shared;
        shared.settle(&self.ticket, (end, asked), self.at, error);
    }
}

impl Drop for Dispatched {
    #[inline]
    fn drop(&mut self) {
        match self.phase {
            Phase::Inside => self.end(End::Panicked, None, None),
            Phase::Outside => self.end(End::Dropped, None, None),
            Phase::Settled => {}
        }
    }
}
