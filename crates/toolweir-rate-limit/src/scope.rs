//! One quota with all that have a claim on it: calls that wait, and calls that were told to come
//! back. Pure: it takes the time from its caller.
//!
//! A claim has a place, and a slot: the time at which its cells are there if every earlier claim
//! takes its own in time. Places and slots rise together, and each slot is at least as long after
//! the one before it as its cells take to come back. So if the first slot can be kept, all can.
//!
//! Where the pace is learned it goes up and down, and pauses are many. There slots are laid out more
//! slowly than the pace, and then are firm: they stay where they were told, and what is late catches
//! up. Who finds no cells at its slot is told when there will be some after all others who are due.

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
    /// The time between two slots of one cell each, where they are firm. Else it is the bucket's.
    spacing: Option<u64>,
}

/// At which pace cells come back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) interval: Duration,
    pub(crate) is_learned: bool,
    /// The time between two slots, no less than the interval. With it slots are firm.
    pub(crate) spacing: Option<u64>,
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
            spacing: None,
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
        let next = self
            .bucket
            .free_at(self.queued + self.due_cells + cells, now);
        let slot = match (self.ahead.last_key_value(), self.spacing) {
            (None, _) => next,
            (Some((_, last)), None) => self.after(last, cells, self.bucket.interval()),
            // It may be past, where all are late.
            (Some((_, last)), Some(spacing)) => self.after(last, cells, spacing).max(next),
        };
        slot.max(now)
    }

    const fn after(&self, claim: &Claim, cells: u64, spacing: u64) -> Nano {
        let slot = claim.slot.wrapping_add(self.offset);
        slot.saturating_add(cells.saturating_mul(spacing))
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
        if self.spacing.is_some() {
            return;
        }
        let sooner = paused.0.saturating_sub(self.bucket.mark().0);
        // No claim was made for a time before the pause began, so none comes to lie before now.
        self.offset = self.offset.wrapping_sub(sooner);
    }

    /// Changes the pace. If it is slower, slots move away in proportion; if it is faster they come
    /// nearer only where it is `learned`, because those who were told theirs will not come sooner.
    /// Slots that are firm stay.
    ///
    /// With a pause come its end, which stays, and what the bucket would be without it. What that is
    /// at the new pace comes out.
    pub(crate) fn set_pace(&mut self, pace: Pace, paused: Option<(Nano, Mark)>, now: Nano) -> Mark {
        let before = self.bucket.interval();
        if let Some((_, unpaused)) = paused {
            self.bucket.set(unpaused);
        }
        self.bucket.set_interval(pace.interval, now);
        let unpaused = self.bucket.mark();
        if let Some((end, _)) = paused {
            self.bucket.drain_until(end);
        }
        if self.spacing.is_none() {
            let after = pace.spacing.unwrap_or(self.bucket.interval());
            if after > before || pace.is_learned {
                self.scale(after, before, paused.map_or(now, |(end, _)| end));
            }
            self.settle(self.queued);
        }
        self.spacing = pace.spacing;
        unpaused
    }

    fn scale(&mut self, to: u64, from: u64, since: Nano) {
        let offset = std::mem::take(&mut self.offset);
        for claim in self.ahead.values_mut() {
            claim.slot = scaled(claim.slot.wrapping_add(offset), since, to, from);
        }
    }

    /// Moves all slots away until the first one can be kept after so many cells, unless they are firm.
    fn settle(&mut self, before: u64) {
        if self.spacing.is_none()
            && let Some((slot, cost)) = self.first()
        {
            let free = self.bucket.free_at_the_latest(before + u64::from(cost));
            self.offset = self.offset.wrapping_add(free.saturating_sub(slot));
        }
    }

    fn first(&self) -> Option<(Nano, u32)> {
        let (_, claim) = self.ahead.first_key_value()?;
        Some((claim.slot.wrapping_add(self.offset), claim.cost))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Claim(u32),
        Pass(u64),
        /// Which of the claims, modulo how many there are. It takes its cells if they are there.
        ComeBack(usize),
        Lapse(usize),
        Pause(u64),
        /// An interval, and by how much the spacing is longer.
        Pace(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1_u32..4).prop_map(Step::Claim),
            6 => (0_u64..300).prop_map(Step::Pass),
            6 => (0_usize..20).prop_map(Step::ComeBack),
            1 => (0_usize..20).prop_map(Step::Lapse),
            1 => (0_u64..500).prop_map(Step::Pause),
            1 => (1_u64..100, 0_u64..50).prop_map(|(interval, more)| Step::Pace(interval, more)),
        ]
    }

    /// Firm slots in a plain list. Times are whole numbers.
    struct Model {
        now: u64,
        full_at: u64,
        burst: u64,
        interval: u64,
        spacing: u64,
        /// Place, cells, slot, and whether that has come.
        claims: Vec<(Place, u64, u64, bool)>,
    }

    impl Model {
        fn free_at(&self, cells: u64) -> u64 {
            let taken = self.full_at.max(self.now) + cells * self.interval;
            taken.saturating_sub(self.burst * self.interval)
        }

        fn due(&self) -> u64 {
            let due = self.claims.iter().filter(|claim| claim.3);
            due.map(|claim| claim.1).sum()
        }

        fn next_slot(&self, cells: u64) -> u64 {
            let free = self.free_at(self.due() + cells).max(self.now);
            let last = self.claims.iter().rfind(|claim| !claim.3);
            last.map_or(free, |last| free.max(last.2 + cells * self.spacing))
        }

        fn admits(&self) -> bool {
            let cells = self.due() + 1;
            let first = self.claims.iter().find(|claim| !claim.3);
            self.free_at(cells) <= self.now
                && first.is_none_or(|first| self.free_at(cells + first.1) <= first.2)
        }

        fn pass(&mut self, time: u64) {
            self.now += time;
            for claim in &mut self.claims {
                claim.3 |= claim.2 <= self.now;
            }
        }
    }

    fn pace(interval: u64, spacing: u64) -> Pace {
        Pace {
            interval: Duration::from_nanos(interval),
            is_learned: true,
            spacing: Some(spacing),
        }
    }

    fn cells(cost: u64) -> NonZeroU32 {
        let cost = u32::try_from(cost).ok().and_then(NonZeroU32::new);
        cost.unwrap_or(NonZeroU32::MIN)
    }

    fn take(scope: &mut Scope, model: &mut Model, step: Step, place: Place) {
        let which = |which: usize| which.checked_rem(model.claims.len());
        match step {
            Step::Claim(cost) => {
                let slot = model.next_slot(cost.into());
                if slot > model.now {
                    scope.claim(place, cells(cost.into()), model.now);
                    model.claims.push((place, cost.into(), slot, false));
                }
            }
            Step::Pass(time) => model.pass(time),
            Step::ComeBack(at) => {
                if let Some(at) = which(at)
                    && model.free_at(model.claims[at].1) <= model.now
                {
                    let (place, cost, ..) = model.claims.remove(at);
                    scope.leave(place, cells(cost));
                    assert!(scope.take(cells(cost), model.now));
                    model.full_at = model.full_at.max(model.now) + cost * model.interval;
                }
            }
            Step::Lapse(at) => {
                if let Some(at) = which(at) {
                    assert!(scope.release(model.claims.remove(at).0));
                }
            }
            Step::Pause(time) => {
                let end = model.now + time;
                scope.pause(end);
                let drained = end + (model.burst - 1) * model.interval;
                model.full_at = model.full_at.max(drained);
            }
            Step::Pace(interval, more) => {
                scope.set_pace(pace(interval, interval + more), None, model.now);
                let missing = model.full_at.saturating_sub(model.now);
                if missing > 0 {
                    model.full_at = model.now + missing * interval / model.interval;
                }
                (model.interval, model.spacing) = (interval, interval + more);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn firm_slots_are_those_of_a_plain_list(
            (interval, more, burst) in (1_u64..100, 0_u64..50, 3_u64..6),
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let spacing = interval + more;
            let mut scope = Scope::new(Duration::from_nanos(interval), cells(burst));
            scope.set_pace(pace(interval, spacing), None, 0);
            let (now, full_at, claims) = (0, 0, Vec::new());
            let mut model = Model { now, full_at, burst, interval, spacing, claims };
            for (step, place) in steps.into_iter().zip(0..) {
                take(&mut scope, &mut model, step, place);
                scope.advance(model.now);
                let (one, now) = (NonZeroU32::MIN, model.now);
                prop_assert_eq!(scope.next_slot(one, now), model.next_slot(1));
                prop_assert_eq!(scope.admits(one, now), model.admits());
                let mut before = 0;
                for (place, cost, slot, is_due) in &model.claims {
                    prop_assert_eq!(scope.slot(*place), Some(*slot));
                    prop_assert_eq!(scope.due_before(*place), if *is_due { before } else { 0 });
                    before += if *is_due { *cost } else { 0 };
                }
            }
        }
    }

    #[test]
    fn slots_become_firm_at_their_distance_after_the_pause_and_stay() {
        let mut scope = Scope::new(Duration::from_nanos(10), NonZeroU32::MIN);
        assert!(scope.take(NonZeroU32::MIN, 0));
        let before = scope.bucket().mark();
        (1..4).for_each(|place| scope.claim(place, NonZeroU32::MIN, 0));
        let slots = |scope: &Scope| [1, 2, 3].map(|place| scope.slot(place).unwrap_or(0));
        assert_eq!(slots(&scope), [10, 20, 30]);
        scope.pause(50);
        assert_eq!(slots(&scope), [50, 60, 70]);
        scope.set_pace(pace(20, 30), Some((50, Mark(0))), 0);
        assert_eq!(slots(&scope), [50, 80, 110]);
        scope.pause(200);
        scope.resume(before, 0);
        assert_eq!(slots(&scope), [50, 80, 110]);
    }
}
