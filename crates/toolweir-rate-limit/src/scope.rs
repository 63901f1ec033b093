//! One quota with all that have a claim on it: calls that wait, and calls that were told to come
//! back. Pure: it takes the time from its caller.
//!
//! A claim has a place, and a slot: the time at which its cells are there if every earlier claim
//! takes its own in time. Places and slots rise together, and each slot is at least as long after
//! the one before it as its cells take to come back. So if the first slot can be kept, all can.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use crate::bucket::{Bucket, Mark, Nano, Receipt, scaled};

/// A place in the order in which calls came. It is never given out twice.
pub(crate) type Place = u64;

#[derive(Debug)]
pub(crate) struct Scope {
    bucket: Bucket,
    /// What those will cost together that wait without a claim. They came before all claims.
    queued: u64,
    /// Claims whose slot has come, with that.
    due: BTreeMap<Place, Claim>,
    due_cells: u64,
    /// The others.
    ahead: BTreeMap<Place, Claim>,
    /// What is to be added to the slots of these, modulo 2^64.
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    slot: Nano,
    cost: u32,
}

impl Scope {
    pub(crate) fn new(interval: Duration, burst: NonZeroU32) -> Self {
        Self {
            bucket: Bucket::new(interval, burst),
            queued: 0,
            due: BTreeMap::new(),
            due_cells: 0,
            ahead: BTreeMap::new(),
            offset: 0,
        }
    }

    pub(crate) const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Whether anybody has a claim.
    pub(crate) fn is_claimed(&self) -> bool {
        !self.due.is_empty() || !self.ahead.is_empty()
    }

    /// Lets the time pass. Claims whose slot has come are due.
    pub(crate) fn advance(&mut self, now: Nano) {
        while let Some(first) = self.ahead.first_entry() {
            let (place, mut claim) = (*first.key(), *first.get());
            claim.slot = claim.slot.wrapping_add(self.offset);
            if claim.slot > now {
                return;
            }
            first.remove();
            self.due.insert(place, claim);
            self.due_cells += u64::from(claim.cost);
        }
        self.offset = 0;
    }

    /// Whether a call that nobody has heard of before may take its cells now: there are cells for
    /// it and for all who wait or are due, and the next one will find its own in time.
    pub(crate) fn admits(&self, cost: NonZeroU32, now: Nano) -> bool {
        let cells = self.queued + self.due_cells + u64::from(cost.get());
        if self.bucket.free_at(cells, now) > now {
            return false;
        }
        self.first()
            .is_none_or(|(slot, next)| self.bucket.free_at(cells + u64::from(next), now) <= slot)
    }

    /// When a call that nobody has heard of before may take its cells, after all others.
    pub(crate) fn next_slot(&self, cost: NonZeroU32, now: Nano) -> Nano {
        let cells = u64::from(cost.get());
        let slot = match self.ahead.last_key_value() {
            Some((_, last)) => last
                .slot
                .wrapping_add(self.offset)
                .saturating_add(cells.saturating_mul(self.bucket.interval())),
            None => {
                let cells = self.queued + self.due_cells + cells;
                self.bucket.free_at(cells, now)
            }
        };
        slot.max(now)
    }

    /// When `cost` cells can be taken after `before` others, whatever claims there are.
    pub(crate) fn free_at(&self, cost: NonZeroU32, before: u64, now: Nano) -> Nano {
        let cells = before + u64::from(cost.get());
        self.bucket.free_at(cells, now).max(now)
    }

    /// The slot of a claim. It may be past.
    pub(crate) fn slot(&self, place: Place) -> Option<Nano> {
        match self.ahead.get(&place) {
            Some(claim) => Some(claim.slot.wrapping_add(self.offset)),
            None => self.due.get(&place).map(|claim| claim.slot),
        }
    }

    /// How many cells those have claimed who are due and came before `place`, if it is due too.
    pub(crate) fn due_before(&self, place: Place) -> u64 {
        if !self.due.contains_key(&place) {
            return 0;
        }
        self.due
            .range(..place)
            .map(|(_, claim)| u64::from(claim.cost))
            .sum()
    }

    /// Claims the next slot, which is still to come: a call that need not wait claims nothing. The
    /// place is higher than all others.
    pub(crate) fn claim(&mut self, place: Place, cost: NonZeroU32, now: Nano) {
        let slot = self.next_slot(cost, now).wrapping_sub(self.offset);
        let cost = cost.get();
        self.ahead.insert(place, Claim { slot, cost });
    }

    /// Lets a call wait at the end: without a claim if nobody has any.
    pub(crate) fn enqueue(&mut self, place: Place, cost: NonZeroU32, now: Nano) {
        if self.is_claimed() {
            self.claim(place, cost, now);
        } else {
            self.queued += u64::from(cost.get());
        }
    }

    /// A place is given up, or its cells are about to be taken.
    pub(crate) fn leave(&mut self, place: Place, cost: NonZeroU32) {
        if !self.release(place) {
            self.queued = self.queued.saturating_sub(u64::from(cost.get()));
        }
    }

    /// A claim is given up. Its slot is lost. `false`: there is none.
    pub(crate) fn release(&mut self, place: Place) -> bool {
        match self.due.remove(&place) {
            Some(claim) => self.due_cells -= u64::from(claim.cost),
            None => return self.ahead.remove(&place).is_some(),
        }
        true
    }

    /// Takes cells that are there. Where that makes the next slot impossible, because somebody came
    /// late, all of them are later.
    pub(crate) fn take(&mut self, cost: NonZeroU32, now: Nano) -> bool {
        let taken = self.bucket.take(cost, now).is_ok();
        self.settle(self.queued);
        taken
    }

    /// Gives back cells that were taken for nothing. Whether there is anything to give. Slots stay.
    pub(crate) fn refund(&mut self, receipt: Receipt, now: Nano) -> bool {
        self.bucket.refund(receipt, now)
    }

    /// Nothing passes before `end`, and then one cell.
    pub(crate) fn pause(&mut self, end: Nano) {
        self.bucket.drain_until(end);
        // Those who are due come back in the pause, and are the first to go after it.
        self.settle(self.queued + self.due_cells);
    }

    /// Ends a pause at `now` that began with `before`.
    pub(crate) fn resume(&mut self, before: Mark, now: Nano) {
        let paused = self.bucket.mark();
        self.bucket.set(before);
        self.bucket.drain_until(now);
        let sooner = paused.0.saturating_sub(self.bucket.mark().0);
        // No claim was made for a time before the pause began, so none comes to lie before now.
        self.offset = self.offset.wrapping_sub(sooner);
    }

    /// Changes the pace. If it is slower, slots move away in proportion; if it is faster they come
    /// nearer only where they `may`, because those who were told theirs will not come sooner.
    pub(crate) fn set_interval(
        &mut self,
        interval: Duration,
        paused: Option<Nano>,
        may_come_nearer: bool,
        now: Nano,
    ) {
        let before = self.bucket.interval();
        self.bucket.set_interval(interval, now);
        if let Some(end) = paused {
            // It ends when it did before.
            self.bucket.set(Mark(0));
            self.bucket.drain_until(end);
        }
        let after = self.bucket.interval();
        if after > before || may_come_nearer {
            let offset = self.offset;
            for claim in self.ahead.values_mut() {
                claim.slot = scaled(claim.slot.wrapping_add(offset), now, after, before);
            }
            self.offset = 0;
        }
        self.settle(self.queued);
    }

    /// Moves all slots away until the first one can be kept after so many cells.
    fn settle(&mut self, before: u64) {
        if let Some((slot, cost)) = self.first() {
            let free = self.bucket.free_at_the_latest(before + u64::from(cost));
            self.offset = self.offset.wrapping_add(free.saturating_sub(slot));
        }
    }

    fn first(&self) -> Option<(Nano, u32)> {
        let (_, claim) = self.ahead.first_key_value()?;
        Some((claim.slot.wrapping_add(self.offset), claim.cost))
    }
}
