//! Who was told to come back, and when. Pure: it takes the time from its caller.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{bucket::Nano, scope::Place};

/// A call's identity: a keyed hash of its `call_id` and its cost, so that however long the name is, no
/// memory goes into it. A call that costs more than the one that was booked is another.
pub(crate) type CallId = u64;

#[derive(Debug)]
struct Booking {
    id: CallId,
    /// When it lapses, unless it is back and waits.
    lapses: Nano,
    is_back: bool,
}

/// A bounded table of bookings, each with a claim on a scope.
#[derive(Debug)]
pub(crate) struct Bookings {
    by_id: HashMap<CallId, Place>,
    by_place: BTreeMap<Place, Booking>,
    /// Those that are not back.
    to_lapse: BTreeSet<(Nano, Place)>,
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
            to_lapse: BTreeSet::new(),
            max,
            grace: u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX),
            counts: Counts::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_place.len()
    }

    /// The place of a call that is not back yet.
    pub(crate) fn find(&self, id: CallId) -> Option<Place> {
        let place = *self.by_id.get(&id)?;
        let is_away = !self.by_place.get(&place)?.is_back;
        is_away.then_some(place)
    }

    /// Whether a call may be booked: there is room, and no booking of its own.
    pub(crate) fn has_room_for(&self, id: CallId) -> bool {
        self.len() < self.max && !self.by_id.contains_key(&id)
    }

    /// The call was told to come back then.
    pub(crate) fn insert(&mut self, place: Place, id: CallId, told: Nano) {
        let lapses = told.saturating_add(self.grace);
        let booking = Booking {
            id,
            lapses,
            is_back: false,
        };
        self.by_id.insert(id, place);
        self.by_place.insert(place, booking);
        self.to_lapse.insert((lapses, place));
        self.counts.made += 1;
        self.counts.most = self.counts.most.max(self.len());
    }

    /// The call, which is not back, was told another time.
    pub(crate) fn tell(&mut self, place: Place, told: Nano) {
        if let Some(booking) = self.by_place.get_mut(&place) {
            self.to_lapse.remove(&(booking.lapses, place));
            booking.lapses = told.saturating_add(self.grace);
            self.to_lapse.insert((booking.lapses, place));
        }
    }

    /// The call is back, and waits.
    pub(crate) fn comes_back(&mut self, place: Place) {
        if let Some(booking) = self.by_place.get_mut(&place) {
            booking.is_back = true;
            self.to_lapse.remove(&(booking.lapses, place));
        }
    }

    /// The call has given up its wait. `false`: it has no booking.
    pub(crate) fn goes_away(&mut self, place: Place) -> bool {
        let Some(booking) = self.by_place.get_mut(&place) else {
            return false;
        };
        booking.is_back = false;
        self.to_lapse.insert((booking.lapses, place));
        true
    }

    /// The call has its cells.
    pub(crate) fn redeem(&mut self, place: Place) {
        if self.remove(place) {
            self.counts.redeemed += 1;
        }
    }

    /// A booking whose call is not back within the grace after the time that it was told. It is gone.
    pub(crate) fn lapse(&mut self, now: Nano) -> Option<Place> {
        let (_, place) = *self.to_lapse.first().filter(|(at, _)| *at < now)?;
        self.remove(place);
        self.counts.lapsed += 1;
        Some(place)
    }

    fn remove(&mut self, place: Place) -> bool {
        let Some(booking) = self.by_place.remove(&place) else {
            return false;
        };
        self.by_id.remove(&booking.id);
        self.to_lapse.remove(&(booking.lapses, place));
        true
    }
}
