//! One rate limit's limiters: the server's, and one for each key where keys are asked for.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use toolweir_core::{
    Facts,
    keys::{Chosen, KeyFigures, Keyed, MayLeave},
};

use crate::{RateLimitConfig, RateLimitState, shared::Shared};

/// The limiters of one rate limit.
pub(crate) struct Limiters {
    config: RateLimitConfig,
    server: Arc<Shared>,
    keys: Mutex<Keyed<Shared>>,
}

impl Limiters {
    pub(crate) fn new(config: RateLimitConfig) -> Self {
        Self {
            server: Arc::new(Shared::new(config.clone(), None)),
            keys: Mutex::new(Keyed::new(config.max_keys, config.key_idle)),
            config,
        }
    }

    pub(crate) const fn server(&self) -> &Arc<Shared> {
        &self.server
    }

    /// The limiter of a key. There is one from now on.
    pub(crate) fn of_key(&self, key: &str, now: Instant) -> Arc<Shared> {
        let another = |key| Shared::new(self.config.clone(), Some(key));
        self.lock().of_key(key, now, another)
    }

    pub(crate) fn figures(&self) -> KeyFigures {
        self.lock().figures()
    }

    /// The states of all keys' limiters, the shared one's among them.
    pub(crate) fn key_states(&self) -> Vec<(Arc<str>, RateLimitState)> {
        let limiters: Vec<Arc<Shared>> = self.lock().iter().cloned().collect();
        let state = |limiter: Arc<Shared>| Some((limiter.key()?.clone(), limiter.state()));
        limiters.into_iter().filter_map(state).collect()
    }

    pub(crate) fn overflow(&self) -> Option<Arc<Shared>> {
        self.lock().overflow().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Keyed<Shared>> {
        // No foreign code runs under the lock, so a poisoned table is a whole one.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Limiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiters")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl MayLeave for Shared {
    /// A limiter that is full and that nobody has a claim on may leave: one made anew is the same.
    /// None may that a call, handle or layer has. What was learned is kept until it is idle.
    fn may_leave(&self, is_idle: bool, now: Instant) -> bool {
        self.with(|limiter| limiter.is_at_rest(now) && (is_idle || !limiter.is_learning()))
    }
}

/// Which limiter a service's calls belong to.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// Always this one.
    One(Arc<Shared>),
    /// That of the request's key.
    ByKey(Arc<Limiters>),
}

impl Choice {
    /// The limiter for a request, and the present time.
    pub(crate) fn limiter<F: Facts<Req>, Req>(
        &self,
        facts: &F,
        request: &Req,
    ) -> (Chosen<'_, Shared>, Instant) {
        match self {
            Self::One(limiter) => (Chosen::Own(limiter), Instant::now()),
            Self::ByKey(limiters) => {
                // Foreign code, so before any lock.
                let key = facts.key(request);
                let now = Instant::now();
                let limiter = match key {
                    Some(key) => Chosen::Keyed(limiters.of_key(key, now)),
                    None => Chosen::Own(&limiters.server),
                };
                (limiter, now)
            }
        }
    }
}
