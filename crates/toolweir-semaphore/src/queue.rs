//! Who waits, and who is next: first come, first served within a key, and fair between keys.
//!
//! Next is the key with the fewest calls under way, and among those with as few the one whose turn
//! was longest ago. So the permits go to keys in equal shares, whatever each asks for and however
//! long its calls take, and a key that has none under way is next however much others have waiting.
//!
//! A queue that is full makes room for a key that has less than its share of it: the newest call of
//! the key with the most calls waiting has to go.
//!
//! Pure: it reads no clock, takes no lock and wakes nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::Waker,
};

use tokio::time::Instant;

use crate::keys::{KeyId, Keys, Name, Slot, Waiter};

/// How many waiting keys are looked at for an estimate. Further ones count for nothing, which makes
/// the estimate too short, never too long.
const LOOKED_AT: usize = 1_000;

/// A place in the queue. It is never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    key: KeyId,
    number: u64,
}

/// How a place stands.
#[derive(Debug)]
pub(crate) enum Standing {
    /// With the waker that is no longer needed.
    Waiting(Option<Waker>),
    /// A permit has come for this key, then.
    Served(KeyId, Instant),
    /// It had to go.
    PushedOut,
}

/// What has become of a place whose owner does not know yet.
#[derive(Debug)]
enum Settled {
    Served(Instant),
    PushedOut,
}

/// How one key stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) queued: usize,
    pub(crate) running: usize,
    pub(crate) last_taken: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct FairQueue {
    /// The most calls of one key that may be under way.
    max_per_key: usize,
    keys: Keys,
    /// The keys of which a call may be next, by calls under way, then by turn.
    order: BTreeMap<(usize, u64, KeyId), usize>,
    /// The keys that wait, by the calls that they have waiting.
    lengths: BTreeSet<(usize, KeyId)>,
    settled: BTreeMap<u64, Settled>,
    queued: usize,
    next_number: u64,
    next_turn: u64,
}

impl FairQueue {
    pub(crate) fn new(max_per_key: usize) -> Self {
        Self {
            max_per_key,
            keys: Keys::default(),
            order: BTreeMap::new(),
            lengths: BTreeSet::new(),
            settled: BTreeMap::new(),
            queued: 0,
            next_number: 0,
            next_turn: 0,
        }
    }

    /// How many calls wait.
    pub(crate) const fn len(&self) -> usize {
        self.queued
    }

    /// How many keys wait or run.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How a key stands. One that is not there has nothing.
    pub(crate) fn share(&self, key: Option<&str>) -> Share {
        let slot = self.keys.find(key).and_then(|id| self.keys.get(id));
        slot.map_or_else(Share::default, |slot| Share {
            queued: slot.waiters.len(),
            running: slot.running,
            last_taken: slot.last_taken,
        })
    }

    /// The name of the key that a place is for.
    pub(crate) fn name(&self, place: Place) -> Option<Name> {
        self.keys.get(place.key)?.name.clone()
    }

    /// Since when the call has waited that has waited longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let firsts = self.keys.slots().filter_map(|slot| {
            let (_, waiter) = slot.waiters.first_key_value()?;
            Some(waiter.since)
        });
        firsts.min()
    }

    /// A call of `key` is under way that had not to wait.
    pub(crate) fn run(&mut self, key: Option<&str>, now: Instant) -> KeyId {
        let id = self.keys.find_or_add(key);
        self.change(id, |slot| slot.start(now));
        id
    }

    /// Takes the last place of `key`'s.
    pub(crate) fn join(&mut self, key: Option<&str>, now: Instant) -> Place {
        let id = self.keys.find_or_add(key);
        let number = self.next_number;
        self.next_number += 1;
        let turn = self.take_turn();
        let waiter = Waiter {
            since: now,
            waker: None,
        };
        self.change(id, |slot| {
            if slot.waiters.is_empty() {
                slot.turn = turn;
            }
            slot.waiters.insert(number, waiter);
        });
        self.queued += 1;
        Place { key: id, number }
    }

    /// How a place stands. While it waits, `waker` is kept for when that ends.
    pub(crate) fn look(&mut self, place: Place, waker: Option<Waker>) -> Standing {
        if let Some(settled) = self.settled.remove(&place.number) {
            return settled.into_standing(place.key);
        }
        let waiter = self
            .keys
            .get_mut(place.key)
            .and_then(|slot| slot.waiters.get_mut(&place.number));
        let waiter = waiter.expect("a place waits until it is settled");
        Standing::Waiting(std::mem::replace(&mut waiter.waker, waker))
    }

    /// Gives up a place. What had become of it is the caller's to undo.
    pub(crate) fn leave(&mut self, place: Place) -> Standing {
        if let Some(settled) = self.settled.remove(&place.number) {
            return settled.into_standing(place.key);
        }
        let left = self.change(place.key, |slot| slot.waiters.remove(&place.number));
        self.queued -= 1;
        Standing::Waiting(left.and_then(|waiter| waiter.waker))
    }

    /// Takes out the call that is next, and counts it as under way. Inside is its waker.
    pub(crate) fn serve(&mut self, now: Instant) -> Option<Option<Waker>> {
        let (&(_, _, id), _) = self.order.first_key_value()?;
        let turn = self.take_turn();
        let (number, waiter) = self.change(id, |slot| {
            slot.start(now);
            slot.turn = turn;
            slot.waiters.pop_first()
        })?;
        self.queued -= 1;
        self.settled.insert(number, Settled::Served(now));
        Some(waiter.waker)
    }

    /// A call that was under way has ended.
    pub(crate) fn end(&mut self, id: KeyId) {
        self.change(id, |slot| slot.running -= 1);
    }

    /// Whether a full queue has room for another call of a key with this share: some key would have
    /// no fewer calls waiting than it, with one less.
    pub(crate) fn has_room_for(&self, share: Share) -> bool {
        let most = self.lengths.last().map_or(0, |(most, _)| *most);
        most >= share.queued + 2
    }

    /// Pushes out the newest call of the key that has the most waiting, if there is room for a call
    /// of `key` then. Inside is its waker.
    pub(crate) fn make_room(&mut self, key: Option<&str>) -> Option<Option<Waker>> {
        if !self.has_room_for(self.share(key)) {
            return None;
        }
        let &(_, id) = self.lengths.last()?;
        let (number, waiter) = self.change(id, |slot| slot.waiters.pop_last())?;
        self.queued -= 1;
        self.settled.insert(number, Settled::PushedOut);
        Some(waiter.waker)
    }

    /// How many calls would have their permit before a new one of `key`'s, if permits came now.
    ///
    /// A call is at the level of as many calls as its key would then have under way, and lower
    /// levels come first. Within a level those keys come first that began there, in their turn, and
    /// then those that rose to it, in the order in which they did: so of two keys the one that has
    /// more under way, or else the earlier turn, stays ahead.
    pub(crate) fn ahead(&self, key: Option<&str>) -> usize {
        let id = self.keys.find(key);
        let slot = id.and_then(|id| self.keys.get(id));
        let (running, own) = slot.map_or((0, 0), |slot| (slot.running, slot.waiters.len()));
        let turn = slot.filter(|_| own > 0).map_or(u64::MAX, |slot| slot.turn);
        let level = running + own;
        let others = self.order.range(..=(level, u64::MAX, KeyId::MAX));
        let others = others.filter(|((_, _, other), _)| Some(*other) != id);
        let ahead = others
            .take(LOOKED_AT)
            .map(|(&(others_running, others_turn, _), &queued)| {
                let first =
                    (others_turn < turn && others_running == running) || others_running > running;
                let before = level - others_running + usize::from(first);
                queued.min(before).min(self.max_per_key - others_running)
            });
        own + ahead.sum::<usize>()
    }

    /// Changes a key, keeps its ranks right and forgets it when it has gone idle.
    fn change<T>(&mut self, id: KeyId, change: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = self.keys.get_mut(id).expect("a key stays while it is used");
        let before = slot.waiters.len();
        self.order.remove(&(slot.running, slot.turn, id));
        let changed = change(slot);
        let queued = slot.waiters.len();
        if queued > 0 && slot.running < self.max_per_key {
            self.order.insert((slot.running, slot.turn, id), queued);
        }
        if before != queued {
            self.lengths.remove(&(before, id));
            if queued > 0 {
                self.lengths.insert((queued, id));
            }
        }
        self.keys.forget_idle(id);
        changed
    }

    fn take_turn(&mut self) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        turn
    }
}

impl Settled {
    fn into_standing(self, key: KeyId) -> Standing {
        match self {
            Self::Served(since) => Standing::Served(key, since),
            Self::PushedOut => Standing::PushedOut,
        }
    }
}

#[cfg(all(test, not(toolweir_loom)))]
mod tests {
    use super::*;

    fn queue(waiting: &[(&str, usize)]) -> FairQueue {
        let mut queue = FairQueue::new(usize::MAX);
        for (key, calls) in waiting {
            for _ in 0..*calls {
                queue.join(Some(key), Instant::now());
            }
        }
        queue
    }

    #[test]
    fn a_key_makes_room_for_one_with_two_fewer_waiting() {
        let mut queue = queue(&[("anna", 1)]);
        assert!(queue.make_room(Some("bert")).is_none());
        queue.join(Some("anna"), Instant::now());
        assert!(queue.make_room(Some("anna")).is_none());
        assert!(queue.make_room(Some("bert")).is_some());
        assert_eq!(queue.share(Some("anna")).queued, 1);
    }

    #[test]
    fn nothing_is_kept_of_keys_that_have_gone() {
        let mut queue = queue(&[("anna", 3)]);
        let now = Instant::now();
        let place = queue.join(Some("bert"), now);
        queue.leave(place);
        for _ in 0..3 {
            queue.serve(now).unwrap();
            queue.end(0);
        }
        assert_eq!((queue.len(), queue.keys()), (0, 0));
        assert!(queue.order.is_empty() && queue.lengths.is_empty());
    }
}
