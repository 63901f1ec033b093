//! What every layer, service and handle of one breaker shares.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};
use toolweir_core::{LeaseOwner, Ticket};

use crate::{
    CircuitBreakerConfig, Transition, Transitions,
    state::{End, Machine, Refusal},
};

/// The low bit of [`Shared::word`].
const CLOSED: u64 = 1;

pub(crate) struct Shared {
    /// The generation, shifted left by one, and whether the circuit is plainly closed. While it is,
    /// admission reads this word and nothing else: no lock, no clock.
    word: AtomicU64,
    machine: Mutex<Machine>,
    /// The newest generation, for listeners.
    bell: watch::Sender<u64>,
    /// Whether anybody asks how long calls take.
    times_calls: bool,
}

impl Shared {
    pub(crate) fn new(config: CircuitBreakerConfig) -> Self {
        let times_calls = config.slow_calls.is_some();
        let machine = Machine::new(Arc::new(config), fastrand::u64(..), Instant::now());
        Self {
            word: AtomicU64::new(word_of(&machine)),
            machine: Mutex::new(machine),
            bell: watch::Sender::new(0),
            times_calls,
        }
    }

    pub(crate) fn admit(&self) -> Result<Ticket, Refusal> {
        match self.closed_ticket() {
            Some(ticket) => Ok(ticket),
            None => self.with(Machine::admit),
        }
    }

    /// Dispatches a call, admitted or to be admitted now.
    pub(crate) fn dispatch(&self, ticket: Option<Ticket>) -> Result<Ticket, Refusal> {
        // Closed, it would admit anew whatever it admitted before.
        if let Some(current) = self.closed_ticket() {
            return Ok(current);
        }
        self.with(|machine, now| {
            let ticket = match ticket {
                Some(ticket) => ticket,
                None => machine.admit(now)?,
            };
            machine.dispatch(ticket, now)
        })
    }

    pub(crate) fn dispatch_unadmitted(&self) -> Ticket {
        match self.closed_ticket() {
            Some(ticket) => ticket,
            None => self.with(Machine::dispatch_unadmitted),
        }
    }

    pub(crate) fn settle(&self, ticket: Ticket, end: End, dispatched: Option<Instant>) {
        self.step(|machine| machine.settle(ticket, end, dispatched, Instant::now));
    }

    /// The time of a dispatch, where anybody asks for it.
    pub(crate) fn dispatch_time(&self) -> Option<Instant> {
        self.times_calls.then(Instant::now)
    }

    /// One step of the machine, at the present time.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Machine, Instant) -> R) -> R {
        let now = Instant::now();
        self.step(|machine| step(machine, now))
    }

    fn step<R>(&self, step: impl FnOnce(&mut Machine) -> R) -> R {
        let mut machine = self.lock();
        let before = machine.generation();
        let result = step(&mut machine);
        let generation = machine.generation();
        if generation != before {
            self.word.store(word_of(&machine), Ordering::Release);
            if self.bell.receiver_count() == 0 {
                machine.stop_listening();
            }
        }
        drop(machine);
        if generation != before {
            // Listeners wake without a lock held. Two threads may come here in either order.
            self.bell.send_if_modified(|newest| {
                let is_newer = *newest < generation;
                *newest = generation.max(*newest);
                is_newer
            });
        }
        result
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Transitions {
        let mut machine = self.lock();
        // Under the lock, so that no transition comes between the receiver and the log.
        let bell = self.bell.subscribe();
        machine.listen();
        Transitions::new(Arc::downgrade(self), bell, machine.generation())
    }

    pub(crate) fn transition_after(&self, generation: u64) -> Option<Transition> {
        self.lock().transition_after(generation)
    }

    /// A ticket of the present generation, if every call passes.
    fn closed_ticket(&self) -> Option<Ticket> {
        let word = self.word.load(Ordering::Acquire);
        (word & CLOSED != 0).then_some(Ticket {
            generation: word >> 1,
            probe: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No foreign code runs under the lock, so a poisoned machine is a whole one.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn word_of(machine: &Machine) -> u64 {
    let closed = if machine.is_plainly_closed() {
        CLOSED
    } else {
        0
    };
    machine.generation() << 1 | closed
}

impl LeaseOwner for Shared {
    fn give_back(&self, ticket: Ticket) {
        // Only probes hold something.
        if ticket.probe.is_some() {
            self.lock().give_back(ticket);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Acquire);
        f.debug_struct("Shared")
            .field("generation", &(word >> 1))
            .field("closed", &(word & CLOSED != 0))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_kept_only_while_somebody_listens() {
        let shared = Arc::new(Shared::new(CircuitBreakerConfig::default()));
        shared.with(Machine::reset);
        assert_eq!(shared.transition_after(0), None);

        let listener = shared.subscribe();
        shared.with(Machine::reset);
        assert!(shared.transition_after(0).is_some());

        drop(listener);
        shared.with(Machine::reset);
        assert_eq!(shared.transition_after(0), None);
    }
}
