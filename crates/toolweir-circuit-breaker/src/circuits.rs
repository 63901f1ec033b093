//! One breaker's circuits: the server's, and one for each key where keys are asked for.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use tokio::time::Instant;
use toolweir_core::{Facts, LeaseOwner};

use crate::{
    CircuitBreakerConfig, CircuitBreakerState, KeyFigures,
    keys::{Keys, MayLeave},
    shared::Shared,
    sync::{Mutex, MutexGuard},
};

/// A longer key has no circuit of its own: keys may come from outside, and are kept.
const LONGEST_KEY: usize = 256;

/// What the circuit of the keys without one of their own is called.
pub(crate) const OVERFLOW: &str = "(other keys)";

/// The circuits of one breaker.
pub(crate) struct Circuits {
    server: Arc<Shared>,
    table: Mutex<Table>,
}

struct Table {
    keys: Keys<Arc<Shared>>,
    overflow: Option<Arc<Shared>>,
    overflowed: u64,
}

impl Circuits {
    pub(crate) fn new(config: CircuitBreakerConfig) -> Self {
        let config = Arc::new(config);
        let keys = Keys::new(config.max_keys, config.key_idle);
        Self {
            server: Arc::new(Shared::new(config, None)),
            table: Mutex::new(Table {
                keys,
                overflow: None,
                overflowed: 0,
            }),
        }
    }

    pub(crate) const fn server(&self) -> &Arc<Shared> {
        &self.server
    }

    /// The circuit of a key. There is one from now on.
    pub(crate) fn of_key(&self, key: &str, now: Instant) -> Arc<Shared> {
        let mut table = self.lock();
        if let Some(circuit) = table.keys.get(key, now) {
            return circuit.clone();
        }
        if key.len() <= LONGEST_KEY {
            let name: Arc<str> = key.into();
            let circuit = self.another(name.clone());
            if table.keys.insert(name, circuit.clone(), now) {
                return circuit;
            }
        }
        table.overflowed += 1;
        let overflow = &mut table.overflow;
        overflow
            .get_or_insert_with(|| self.another(OVERFLOW.into()))
            .clone()
    }

    /// The circuit for a call with `key`. A hold on the server's own is a hold on all.
    fn of_call(&self, key: Option<&str>, now: Instant) -> Arc<Shared> {
        match key {
            Some(key) if !self.server.is_held() => self.of_key(key, now),
            _ => self.server.clone(),
        }
    }

    pub(crate) fn figures(&self) -> KeyFigures {
        let table = self.lock();
        KeyFigures {
            keys: table.keys.len(),
            max_keys: self.server.config().max_keys,
            evicted: table.keys.evicted(),
            overflowed: table.overflowed,
        }
    }

    /// The states of all keys' circuits, the shared one's among them.
    pub(crate) fn key_states(&self) -> Vec<(Arc<str>, CircuitBreakerState)> {
        let circuits: Vec<Arc<Shared>> = {
            let table = self.lock();
            table.keys.iter().chain(&table.overflow).cloned().collect()
        };
        let state = |circuit: Arc<Shared>| Some((circuit.key()?.clone(), circuit.state()));
        circuits.into_iter().filter_map(state).collect()
    }

    pub(crate) fn overflow(&self) -> Option<Arc<Shared>> {
        self.lock().overflow.clone()
    }

    fn another(&self, key: Arc<str>) -> Arc<Shared> {
        Arc::new(Shared::new(self.server.config().clone(), Some(key)))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No foreign code runs under the lock, so a poisoned table is a whole one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Circuits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuits")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl MayLeave for Arc<Shared> {
    /// A closed circuit may leave, and one that has been idle for long and would let a call pass.
    /// None may that is held, that a call is out on, or that a handle, layer or listener has.
    fn may_leave(&self, is_idle: bool, now: Instant) -> bool {
        // Others get it from the table alone, which is locked.
        let is_alone = Self::strong_count(self) == 1 && !self.is_listened_to();
        is_alone && (self.is_closed() || is_idle && self.is_at_rest(now))
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
    ) -> Chosen<'_> {
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

/// A circuit, counted as a reference only where it must be.
pub(crate) enum Chosen<'a> {
    Own(&'a Arc<Shared>),
    Keyed(Arc<Shared>),
}

impl Chosen<'_> {
    pub(crate) fn into_shared(self) -> Arc<Shared> {
        match self {
            Self::Own(circuit) => circuit.clone(),
            Self::Keyed(circuit) => circuit,
        }
    }
}

impl std::ops::Deref for Chosen<'_> {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        match self {
            Self::Own(circuit) => circuit,
            Self::Keyed(circuit) => circuit,
        }
    }
}
