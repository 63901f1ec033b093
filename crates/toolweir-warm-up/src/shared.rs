//! What the layer, its services and its handles share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use toolweir_core::{Reason, Rejection};

use crate::{
    WarmUpState,
    flight::{Flight, Plan},
    state::{Landed, Machine, Verdict},
};

#[derive(Debug)]
pub(crate) struct Shared {
    /// Whether all is warm, as far as this layer did it: all that a warm call reads.
    warm: AtomicBool,
    /// The epoch for which it is warm. Written before `warm` and read after it.
    stamp: AtomicU64,
    plan: Arc<Plan>,
    inner: Mutex<Inner>,
    /// Rung when a warm-up is over or void.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    task: Option<AbortHandle>,
}

/// Until when somebody waits, and why no longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    pub(crate) reason: Reason,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            warm: AtomicBool::new(false),
            stamp: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                machine: Machine::new(plan.config.clone()),
                task: None,
            }),
            plan: Arc::new(plan),
            changed: Notify::new(),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether a call may pass, must wait (`None`), or is refused. Starts nothing.
    pub(crate) fn look(&self) -> Option<Result<(), Rejection>> {
        if self.is_warm() {
            return Some(Ok(()));
        }
        let now = Instant::now();
        let inner = self.lock();
        match inner.machine.verdict(now) {
            Verdict::Warm => Some(Ok(())),
            Verdict::Join | Verdict::Start => None,
            Verdict::Refuse(after) => Some(Err(inner.machine.failed(after))),
        }
    }

    /// Waits until all is warm, and starts the warm-up if nobody has.
    pub(crate) async fn wait(self: Arc<Self>, limit: Limit) -> Result<(), Rejection> {
        loop {
            // Made before the state is read, so that no change is missed in between.
            let changed = self.changed.notified();
            match self.admit() {
                Verdict::Warm => return Ok(()),
                Verdict::Refuse(after) => return Err(self.lock().machine.failed(after)),
                Verdict::Join | Verdict::Start => {}
            }
            if timeout_at(limit.until, changed).await.is_err() {
                let now = Instant::now();
                return Err(self.lock().machine.out_of_patience(limit.reason, now));
            }
        }
    }

    /// As [`look`](Self::look), but starts the warm-up that is due.
    fn admit(self: &Arc<Self>) -> Verdict {
        if self.is_warm() {
            return Verdict::Warm;
        }
        let now = Instant::now();
        let mut inner = self.lock();
        let verdict = inner.machine.verdict(now);
        if verdict == Verdict::Start {
            let number = inner.machine.begin(now);
            drop(inner);
            self.start(number);
        }
        verdict
    }

    fn start(self: &Arc<Self>, number: u64) {
        let flight = Flight::new(Arc::downgrade(self), number);
        let task = flight.launch(self.plan.clone());
        let mut inner = self.lock();
        if inner.machine.is_in_flight(number) {
            inner.task = Some(task);
        } else {
            // It was invalidated, or is over, before we could write down its task.
            drop(inner);
            task.abort();
        }
    }

    /// Whether nothing is to be done. Without an epoch this is one atomic read.
    fn is_warm(&self) -> bool {
        if !self.warm.load(Ordering::Acquire) {
            return false;
        }
        let Some(epoch) = &self.plan.epoch else {
            return true;
        };
        let stamp = self.stamp.load(Ordering::Acquire);
        if epoch() == stamp {
            return true;
        }
        let mut inner = self.lock();
        inner.machine.outdate(stamp);
        self.publish(&inner.machine);
        false
    }

    pub(crate) fn enter(&self, number: u64, step: Arc<str>) {
        self.lock().machine.enter(number, step);
    }

    pub(crate) fn land(&self, number: u64, landed: Landed) {
        let now = Instant::now();
        let mut inner = self.lock();
        if !inner.machine.land(number, landed.clone(), now) {
            return;
        }
        inner.task = None;
        self.publish(&inner.machine);
        drop(inner);
        self.changed.notify_waiters();
        match landed {
            Landed::Warm { .. } => tracing::debug!(number, "warm"),
            Landed::Failed { error } => tracing::warn!(number, %error, "the warm-up failed"),
            Landed::Refused { error, .. } => {
                tracing::debug!(number, %error, "the warm-up was refused");
            }
        }
    }

    pub(crate) fn invalidate(&self) {
        let mut inner = self.lock();
        inner.machine.invalidate();
        self.publish(&inner.machine);
        let task = inner.task.take();
        drop(inner);
        if let Some(task) = task {
            task.abort();
        }
        // Who waited for what is void now starts the next one.
        self.changed.notify_waiters();
    }

    pub(crate) fn snapshot(&self) -> WarmUpState {
        // Reads the epoch first: a warmth that it has outdated is not to be told.
        self.is_warm();
        let now = Instant::now();
        self.lock().machine.snapshot(now)
    }

    /// Tells the fast path what the machine knows. Under the machine's lock, so in its order.
    fn publish(&self, machine: &Machine) {
        if let Some(epoch) = machine.warm_epoch() {
            self.stamp.store(epoch, Ordering::Release);
            self.warm.store(true, Ordering::Release);
        } else {
            self.warm.store(false, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No foreign code runs under the lock, so a poisoned state is a whole one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody is left to be warm for.
impl Drop for Shared {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        let inner = inner.unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = inner.task.take() {
            task.abort();
        }
    }
}
