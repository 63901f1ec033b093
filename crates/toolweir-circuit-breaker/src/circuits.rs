//! One breaker's circuits: the server's, and one for each key where keys are asked for.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use tokio::time::Instant;
use toolweir_core::{
    Facts, LeaseOwner,
    keys::{Chosen, KeyFigures, Keyed, MayLeave},
};

use crate::{
    CircuitBreakerConfig, CircuitBreakerState,
    shared::Shared,
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
            Some(key) if !self.server.is_held() => self.of_key(key, now),
            _ => self.server.clone(),
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
    /// Always this one.
    One(Arc<Shared>),
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
            Self::One(circuit) => Chosen::Own(circuit),
            Self::ByKey(circuits) => {
                // Foreign code, so before any lock.
                let key = facts.key(request);
                let now = *now.get_or_insert_with(Instant::now);
                Chosen::Keyed(circuits.of_call(key, now))
            }
        }
    }

    /// Who takes the leases of these circuits.
    pub(crate) fn taker(&self) -> &dyn LeaseOwner {
        match self {
            Self::One(circuit) => &**circuit,
            Self::ByKey(circuits) => &**circuits.server(),
        }
    }
}
