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
use toolweir_core::{AtomicStamp, Health, HealthReport, Outcome, Rejection, time::saturating_add};

use crate::{
    HealthGateConfig, Probe,
    flight::Flight,
    state::{Gate, Landed, Machine},
};

pub(crate) struct Shared {
    /// Until when every call passes: all that a call to a healthy server reads.
    quiet: AtomicStamp,
    config: HealthGateConfig,
    probe: Arc<dyn Probe>,
    machine: Mutex<Machine>,
    /// Rung when a probe is over.
    landed: Notify,
}

impl Shared {
    pub(crate) fn new(config: HealthGateConfig, probe: Arc<dyn Probe>) -> Self {
        Self {
            quiet: AtomicStamp::new(Instant::now()),
            machine: Mutex::new(Machine::new(config.clone())),
            config,
            probe,
            landed: Notify::new(),
        }
    }

    pub(crate) const fn config(&self) -> &HealthGateConfig {
        &self.config
    }

    pub(crate) const fn probe(&self) -> &Arc<dyn Probe> {
        &self.probe
    }

    /// Lets a call through, with the generation in which that was, or refuses it. Starts the probe
    /// that is due.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<u16, Rejection> {
        let now = Instant::now();
        let quiet = self.quiet.load();
        if quiet.covers(now) {
            return Ok(quiet.generation());
        }
        let machine = self.lock();
        let verdict = machine.verdict(now);
        let admitted = match verdict.gate {
            Gate::Open => Ok(machine.generation()),
            Gate::Closed(reason) => Err(machine.rejection(reason, now)),
        };
        if verdict.start {
            self.start(machine, now);
        }
        admitted
    }

    /// Starts a probe, if we are in a runtime. Else it stays due, for the next call.
    fn start(self: &Arc<Self>, mut machine: MutexGuard<'_, Machine>, now: Instant) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let number = machine.begin(now);
        self.publish(&machine, now);
        drop(machine);
        Flight::new(Arc::downgrade(self), number, now).launch(self, &runtime);
    }

    /// Starts the probe that is due, and returns the number of the one in flight.
    fn join(self: &Arc<Self>, now: Instant) -> Option<u64> {
        let machine = self.lock();
        if !machine.verdict(now).start {
            return machine.in_flight(now);
        }
        self.start(machine, now);
        self.lock().in_flight(now)
    }

    /// Waits for the probe in flight, or for the one that is due.
    pub(crate) async fn check(self: &Arc<Self>) -> HealthReport {
        let now = Instant::now();
        let asked = self.join(now);
        // A probe ends by itself. Twice its time is for a runtime that does not come round to it.
        let patience = saturating_add(now, self.config.timeout.saturating_mul(2));
        loop {
            // Made before the state is read, so that no end is missed in between.
            let landed = self.landed.notified();
            let report = self.read(|machine, now| {
                let is_over = asked.is_none() || machine.in_flight(now) != asked;
                is_over.then(|| machine.report(now))
            });
            if let Some(report) = report {
                return report;
            }
            if timeout_at(patience, landed).await.is_err() {
                return self.read(Machine::report);
            }
        }
    }

    pub(crate) fn observe(&self, generation: u16, outcome: Outcome) {
        let now = Instant::now();
        if outcome == Outcome::Success {
            let soon = saturating_add(now, self.config.period / 2);
            if self.quiet.load().covers(soon) {
                // Known to be well, and recently enough: nothing would change.
                return;
            }
        }
        self.change(|machine, now| machine.observe(generation, outcome, now));
    }

    pub(crate) fn land(&self, number: u64, landed: Landed) {
        self.change(|machine, now| machine.land(number, landed, now));
        self.landed.notify_waiters();
    }

    pub(crate) fn set(&self, health: Health) {
        self.change(|machine, _| machine.set(health));
    }

    fn change(&self, step: impl FnOnce(&mut Machine, Instant)) {
        let now = Instant::now();
        let mut machine = self.lock();
        let before = machine.health();
        step(&mut machine, now);
        let after = machine.health();
        self.publish(&machine, now);
        let report = (before != after).then(|| machine.report(now));
        drop(machine);
        if let Some(report) = report {
            let error = report.error.unwrap_or_default();
            if after == Health::Unhealthy {
                tracing::warn!(?before, %error, "the server is unhealthy");
            } else {
                tracing::info!(?before, ?after, "the server's health changed");
            }
        }
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&Machine, Instant) -> R) -> R {
        let now = Instant::now();
        read(&self.lock(), now)
    }

    /// Tells the fast path what the machine knows. Under the machine's lock, so in its order.
    fn publish(&self, machine: &Machine, now: Instant) {
        let until = machine.quiet_until(now);
        self.quiet.store(machine.generation(), Some(until));
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
            .finish_non_exhaustive()
    }
}
