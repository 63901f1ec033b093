//! One breaker's circuits: the server's, and one for each key where keys are asked for.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use tokio::time::Instant;
use toolweir_core::{
    Facts, LeaseOwner, Ticket,
    keys::{Chosen, KeyFigures, Keyed, MayLeave},
};

use crate::{
    CircuitBreakerConfig, CircuitBreakerState,
    refusal::Refusal,
    shared::{Dispatch, Shared},
    sync::{Mutex, MutexGuard},
};

/// The circuits of one breaker.
pub(crate) struct Circuits {
    server: Arc<Shared>,
    keys: Mutex<Keyed<Shared>>,
}

impl Circuits {
    pub(crate) fn new(config: CircuitBreakerConfig) -> Self {
        let config = Arc::new(config);
        let keys = Keyed::new(config.max_keys, config.key_idle);
        Self {
            server: Arc::new(Shared::new(config, None)),
            keys: Mutex::new(keys),
        }
    }

    pub(crate) const fn server(&self) -> &Arc<Shared> {
        &self.server
    }

    /// The circuit of a key. There is one from now on.
    pub(crate) fn of_key(&self, key: &str, now: Instant) -> Arc<Shared> {
        let another = |key| Shared::new(self.server.config().clone(), Some(key));
        self.lock().of_key(key, now, another)
    }

    /// The circuit for a call with `key`. A hold on the server's own is a hold on all.
    fn of_call(&self, key: Option<&str>, now: Instant) -> Arc<Shared> {
        match key {
            Some(key) if !self.server.is_held_at(|| now) => self.of_key(key, now),
            _ => self.server.clone(),
        }
    }

    /// The circuit for a call whose own is `circuit`.
    pub(crate) fn of_call_to<'a>(&'a self, circuit: &'a Arc<Shared>) -> &'a Arc<Shared> {
        if self.server.is_held_at(Instant::now) {
            &self.server
        } else {
            circuit
        }
    }

    pub(crate) fn figures(&self) -> KeyFigures {
        self.lock().figures()
    }

    /// The states of all keys' circuits, the shared one's among them.
    pub(crate) fn key_states(&self) -> Vec<(Arc<str>, CircuitBreakerState)> {
        let circuits: Vec<Arc<Shared>> = self.lock().iter().cloned().collect();
        let state = |circuit: Arc<Shared>| Some((circuit.key()?.clone(), circuit.state()));
        circuits.into_iter().filter_map(state).collect()
    }

    pub(crate) fn overflow(&self) -> Option<Arc<Shared>> {
        self.lock().overflow().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Keyed<Shared>> {
        // No foreign code runs under the lock, so a poisoned table is a whole one.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Circuits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuits")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl MayLeave for Shared {
    /// A closed circuit may leave, and one that has been idle for long and would let a call pass.
    /// None may that is held, or that a listener, call, handle or layer has.
    fn may_leave(&self, is_idle: bool, now: Instant) -> bool {
        !self.is_listened_to() && (self.is_closed() || is_idle && self.is_at_rest(now))
    }
}

/// Which circuit a service's calls belong to.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// The server's own.
    Server(Arc<Shared>),
    /// This key's.
    Key(Arc<Shared>, Arc<Circuits>),
    /// That of the request's key.
    ByKey(Arc<Circuits>),
}

impl Choice {
    /// The circuit for a request. `now` is the present time, where it had to be read.
    pub(crate) fn circuit<F: Facts<Req>, Req>(
        &self,
        facts: &F,
        request: &Req,
        now: &mut Option<Instant>,
    ) -> Chosen<'_, Shared> {
        match self {
            Self::Server(circuit) => Chosen::Own(circuit),
            Self::Key(circuit, circuits) => Chosen::Own(circuits.of_call_to(circuit)),
            Self::ByKey(circuits) => {
                // Foreign code, so before any lock.
                let key = facts.key(request);
                let now = *now.get_or_insert_with(Instant::now);
                Chosen::Keyed(circuits.of_call(key, now))
            }
        }
    }

    /// Whether a call that `circuit` has admitted surely still belongs to it. A hold on the server's
    /// own that has begun or ended since moves calls between that and the keys'.
    pub(crate) fn keeps(&self, circuit: &Arc<Shared>) -> bool {
        match self {
            Self::Server(_) => true,
            Self::Key(_, circuits) | Self::ByKey(circuits) => {
                let is_held = circuits.server().is_held_at(Instant::now);
                is_held == Arc::ptr_eq(circuit, circuits.server())
            }
        }
    }

    /// Dispatches a call that one circuit has admitted, and that may belong to another by now. That
    /// one admits it anew.
    #[inline(never)]
    pub(crate) fn dispatch_anew<F: Facts<Req>, Req>(
        &self,
        (circuit, ticket): (Arc<Shared>, Ticket),
        facts: &F,
        request: &Req,
    ) -> (Arc<Shared>, Result<Dispatch, Refusal>) {
        let mut now = None;
        let own = self.circuit(facts, request, &mut now).into_shared();
        let ticket = if Arc::ptr_eq(&own, &circuit) {
            Some(ticket)
        } else {
            circuit.give_back(ticket);
            None
        };
        let dispatched = own.dispatch(ticket, now);
        (own, dispatched)
    }

    /// Who takes the leases of these circuits.
    pub(crate) fn taker(&self) -> &dyn LeaseOwner {
        match self {
            Self::Server(circuit) | Self::Key(circuit, _) => &**circuit,
            Self::ByKey(circuits) => &**circuits.server(),
        }
    }
}
