//! What the layer, its services and its handles share.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout_at},
};
use toolweir_core::{AtomicStamp, Reason, Rejection, time::saturating_add};

use crate::{
    TokenFreshnessConfig, TokenSource,
    flight::Flight,
    state::{Demand, Landed, Machine, Quiet, Refusal, Verdict},
};

pub(crate) struct Shared {
    /// Until when every call passes: all that a call with a fresh token reads.
    quiet: AtomicStamp,
    /// Until when the token is valid, for calls that say how long they need it.
    valid: AtomicStamp,
    config: TokenFreshnessConfig,
    source: Arc<dyn TokenSource>,
    machine: Mutex<Machine>,
    /// Rung when there is something new to know for who waits.
    changed: Notify,
}

/// Until when somebody waits, and why no longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    pub(crate) reason: Reason,
}

/// What is to be done with a call.
#[derive(Debug)]
pub(crate) enum Admission {
    Pass,
    Wait,
    Refuse(Rejection),
}

impl Shared {
    pub(crate) fn new(config: TokenFreshnessConfig, source: Arc<dyn TokenSource>) -> Self {
        let now = Instant::now();
        Self {
            quiet: AtomicStamp::new(now),
            valid: AtomicStamp::new(now),
            machine: Mutex::new(Machine::new(config.clone())),
            config,
            source,
            changed: Notify::new(),
        }
    }

    pub(crate) const fn config(&self) -> &TokenFreshnessConfig {
        &self.config
    }

    pub(crate) const fn source(&self) -> &Arc<dyn TokenSource> {
        &self.source
    }

    /// Which token the source puts into calls now.
    pub(crate) fn generation(&self) -> u16 {
        self.quiet.load().generation()
    }

    /// The generation of the token, if it is fresh for a call. Takes no lock.
    pub(crate) fn fresh(&self, demand: Demand, now: Instant) -> Option<u16> {
        let quiet = self.quiet.load();
        if !quiet.covers(now) {
            return None;
        }
        let generation = quiet.generation();
        match demand.min_ttl {
            None => Some(generation),
            Some(min_ttl) => {
                let valid = self.valid.load();
                let lasts = valid.covers(saturating_add(now, min_ttl));
                (lasts && valid.generation() == generation).then_some(generation)
            }
        }
    }

    /// Decides on a call, and starts the refresh that is due.
    pub(crate) fn admit(self: &Arc<Self>, demand: Demand, now: Instant) -> Admission {
        // Outside a runtime nothing can be started. A call that passes does without; one that waits
        // is in a runtime as soon as it is polled.
        let runtime = Handle::try_current();
        let mut machine = self.lock();
        let verdict = machine.verdict(demand, now);
        let (admission, start) = match verdict {
            Verdict::Pass { start } => (Admission::Pass, start),
            Verdict::Wait { start } => (Admission::Wait, start),
            Verdict::Refuse(refusal) => (Admission::Refuse(machine.rejection(refusal, now)), false),
        };
        if start && let Ok(runtime) = runtime {
            let (number, errand) = machine.begin(now);
            self.publish(&machine, now);
            drop(machine);
            let flight = Flight::new(Arc::downgrade(self), number);
            flight.launch(self, errand, &runtime);
        }
        admission
    }

    /// Waits until the token is fit for a call.
    pub(crate) async fn wait(
        self: Arc<Self>,
        demand: Demand,
        limit: Limit,
    ) -> Result<(), Rejection> {
        loop {
            // Made before the state is read, so that no change is missed in between.
            let changed = self.changed.notified();
            match self.admit(demand, Instant::now()) {
                Admission::Pass => return Ok(()),
                Admission::Refuse(rejection) => return Err(rejection),
                Admission::Wait => {}
            }
            if timeout_at(limit.until, changed).await.is_err() {
                let now = Instant::now();
                let machine = self.lock();
                if machine.is_usable(demand, now) {
                    return Ok(());
                }
                let refusal = Refusal::OutOfPatience(limit.reason);
                return Err(machine.rejection(refusal, now));
            }
        }
    }

    pub(crate) fn land(&self, number: u64, landed: Landed) {
        let counts =
            self.change(|machine, roll, now| machine.land(number, landed.clone(), roll, now));
        if !counts {
            return;
        }
        match landed {
            Landed::Life(life) => {
                tracing::debug!(number, expires_in = ?life.expires_in, "the token source answered");
            }
            Landed::Rejected { error, recovery } => {
                tracing::error!(number, %error, %recovery, "the grant was rejected");
            }
            Landed::Unavailable { error, .. } => {
                tracing::warn!(number, %error, "no new token");
            }
            Landed::Refused { error, .. } => {
                tracing::debug!(number, %error, "the token source was not asked");
            }
        }
    }

    pub(crate) fn unauthorized(&self, generation: u16) {
        // Calls that went out with an older token are not worth a lock.
        if generation == self.generation() {
            self.change(|machine, _, now| machine.unauthorized(generation, now));
        }
    }

    /// Changes the state from outside a call, and tells those who wait.
    pub(crate) fn change<R>(&self, step: impl FnOnce(&mut Machine, f64, Instant) -> R) -> R {
        let roll = fastrand::f64();
        let now = Instant::now();
        let mut machine = self.lock();
        let result = step(&mut machine, roll, now);
        self.publish(&machine, now);
        drop(machine);
        self.changed.notify_waiters();
        result
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&Machine, Instant) -> R) -> R {
        let now = Instant::now();
        read(&self.lock(), now)
    }

    /// Tells the fast path what the machine knows. Under the machine's lock, so in its order.
    fn publish(&self, machine: &Machine, now: Instant) {
        let store = |stamp: &AtomicStamp, quiet| {
            let until = match quiet {
                // No time is covered that ends now.
                Quiet::No => Some(now),
                Quiet::Until(until) => Some(until),
                Quiet::ForEver => None,
            };
            stamp.store(machine.generation(), until);
        };
        store(&self.valid, machine.valid());
        store(&self.quiet, machine.quiet(now));
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No foreign code runs under the lock, so a poisoned machine is a whole one.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("quiet", &self.quiet)
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{TokenLife, refresh_fn};

    #[tokio::test(start_paused = true)]
    async fn a_call_with_a_demand_takes_no_lock_either() {
        let source = refresh_fn(|| async { Ok(TokenLife::EXPIRED) });
        let shared = Shared::new(TokenFreshnessConfig::default(), Arc::new(source));
        let hour = Duration::from_secs(3600);
        shared.change(|machine, roll, now| machine.supply(TokenLife::of(hour), roll, now));
        let _held = shared.lock();
        let now = Instant::now();
        let fresh = |min_ttl| {
            let demand = Demand {
                min_ttl,
                waiting_since: None,
            };
            shared.fresh(demand, now)
        };
        assert_eq!(fresh(None), Some(1));
        assert_eq!(fresh(Some(hour / 2)), Some(1));
        assert_eq!(fresh(Some(hour)), None);
    }
}
