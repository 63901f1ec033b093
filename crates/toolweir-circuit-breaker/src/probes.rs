//! The probes of a half-open circuit: who is out, until when, and what they have found.

use std::time::Duration;

use tokio::time::Instant;

/// A probe that is out.
#[derive(Debug)]
struct Slot {
    number: u64,
    lease_end: Instant,
}

#[derive(Debug)]
pub(crate) struct Probes {
    /// Never longer than the permitted number, which is small.
    out: Vec<Slot>,
    permitted: usize,
    lease: Duration,
    /// Numbers are never used twice, so a late answer cannot free another probe's slot.
    last_number: u64,
    successes: u32,
    slow_successes: u32,
    /// Dispatched without an answer so far, whether still out or not.
    unanswered: u64,
}

impl Probes {
    pub(crate) fn new(permitted: usize, lease: Duration) -> Self {
        Self {
            out: Vec::with_capacity(permitted),
            permitted,
            lease,
            last_number: 0,
            successes: 0,
            slow_successes: 0,
            unanswered: 0,
        }
    }

    /// Forgets what was found. The slots are empty already, since every transition recalls them.
    pub(crate) const fn start_afresh(&mut self) {
        self.successes = 0;
        self.slow_successes = 0;
    }

    /// Takes all slots back. The probes that held them report to nobody.
    pub(crate) fn recall(&mut self) {
        self.out.clear();
        self.unanswered = 0;
    }

    /// Takes a slot if one is free.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        self.expire(now);
        if self.out.len() >= self.permitted {
            return None;
        }
        self.last_number += 1;
        self.out.push(Slot {
            number: self.last_number,
            lease_end: toolweir_core::time::saturating_add(now, self.lease),
        });
        Some(self.last_number)
    }

    /// When the next slot is free, or `None` where one is free now.
    pub(crate) fn next_free(&self, now: Instant) -> Option<Instant> {
        let held = self.out.iter().filter(|slot| slot.lease_end > now);
        if held.clone().count() < self.permitted {
            return None;
        }
        held.map(|slot| slot.lease_end).min()
    }

    /// Starts the lease of a probe anew, at its dispatch. `false` if the probe has lost its slot.
    pub(crate) fn dispatch(&mut self, number: u64, now: Instant) -> bool {
        self.expire(now);
        let Some(slot) = self.out.iter_mut().find(|slot| slot.number == number) else {
            return false;
        };
        slot.lease_end = toolweir_core::time::saturating_add(now, self.lease);
        self.unanswered += 1;
        true
    }

    /// Frees the slot of a probe, if it still has it.
    pub(crate) fn free(&mut self, number: u64) {
        self.out.retain(|slot| slot.number != number);
    }

    /// A dispatched probe was answered, or turned out never to have been sent.
    pub(crate) const fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    pub(crate) fn succeeded(&mut self, slow: bool) {
        self.successes = self.successes.saturating_add(1);
        self.slow_successes = self.slow_successes.saturating_add(u32::from(slow));
    }

    pub(crate) const fn successes(&self) -> u32 {
        self.successes
    }

    pub(crate) const fn slow_successes(&self) -> u32 {
        self.slow_successes
    }

    pub(crate) const fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// How many slots are held.
    pub(crate) fn out(&self, now: Instant) -> usize {
        self.out.iter().filter(|slot| slot.lease_end > now).count()
    }

    fn expire(&mut self, now: Instant) {
        self.out.retain(|slot| slot.lease_end > now);
    }
}
