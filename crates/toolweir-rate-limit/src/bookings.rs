//! Who was told to come back, and when. Pure: it takes the time from its caller.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use crate::{bucket::Nano, scope::Place};

/// A call's identity: a keyed hash of its `call_id`, so that however long that is, no memory goes
/// into it.
pub(crate) type CallId = u64;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Booking {
    pub(crate) id: CallId,
    pub(crate) cost: NonZeroU32,
    /// When the caller was told to come. It may be before its slot, or after.
    pub(crate) told: Nano,
    /// It is back, and waits.
    pub(crate) is_back: bool,
}

/// A bounded table of bookings, each with a claim on a scope.
#[derive(Debug)]
pub(crate) struct Bookings {
    by_id: HashMap<CallId, Place>,
    by_place: BTreeMap<Place, Booking>,
    /// When to look whether a booking has lapsed: one entry each, perhaps too early.
    checks: BTreeSet<(Nano, Place)>,
    max: usize,
    grace: u64,
    pub(crate) counts: Counts,
}

/// What became of bookings.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) made: u64,
    pub(crate) redeemed: u64,
    pub(crate) lapsed: u64,
    pub(crate) most: usize,
}

impl Bookings {
    pub(crate) fn new(max: usize, grace: Duration) -> Self {
        Self {
            by_id: HashMap::new(),
            by_place: BTreeMap::new(),
            checks: BTreeSet::new(),
            max,
            grace: u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX),
            counts: Counts::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(crate) fn find(&self, id: CallId) -> Option<(Place, Booking)> {
        let place = *self.by_id.get(&id)?;
        Some((place, *self.by_place.get(&place)?))
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Booking> {
        self.by_place.get_mut(&place)
    }

    /// Whether a call may be booked: there is room, and no booking of its own.
    pub(crate) fn has_room_for(&self, id: CallId) -> bool {
        self.len() < self.max && !self.by_id.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, place: Place, id: CallId, cost: NonZeroU32, told: Nano) {
        let is_back = false;
        let booking = Booking {
            id,
            cost,
            told,
            is_back,
        };
        self.by_id.insert(id, place);
        self.by_place.insert(place, booking);
        self.checks.insert((told.saturating_add(self.grace), place));
        self.counts.made += 1;
        self.counts.most = self.counts.most.max(self.len());
    }

    /// The call has its cells.
    pub(crate) fn redeem(&mut self, place: Place) {
        if let Some(booking) = self.by_place.remove(&place) {
            self.by_id.remove(&booking.id);
            self.counts.redeemed += 1;
        }
    }

    /// A booking that nobody redeemed within the grace after its slot, and after the time that its
    /// caller was told. It is gone. `slot` tells slots that are still to come.
    pub(crate) fn lapse(
        &mut self,
        slot: impl Fn(Place) -> Option<Nano>,
        now: Nano,
    ) -> Option<Place> {
        while let Some(&(at, place)) = self.checks.first()
            && at < now
        {
            self.checks.pop_first();
            let Some(booking) = self.by_place.get(&place) else {
                continue;
            };
            let last = if booking.is_back {
                now
            } else {
                booking.told.max(slot(place).unwrap_or(0))
            };
            let until = last.saturating_add(self.grace);
            if until < now {
                self.by_id.remove(&booking.id);
                self.by_place.remove(&place);
                self.counts.lapsed += 1;
                return Some(place);
            }
            self.checks.insert((until, place));
        }
        None
    }
}
