//! Whose calls they are: the keys that wait or run, and what is known of each.
//!
//! A key is here while it has a call in the queue, or one under way that is counted for it. So there
//! are never more keys than calls.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::Waker,
};

use tokio::time::Instant;

/// A key's name.
pub(crate) type Name = Arc<str>;

/// A key's number. It is never given out twice.
pub(crate) type KeyId = u64;

/// What is known of a key.
#[derive(Debug)]
pub(crate) struct Slot {
    /// `None`: it is the key that all calls without one share.
    pub(crate) name: Option<Name>,
    /// By number, and numbers are given out in rising order: the first has waited longest.
    pub(crate) waiters: BTreeMap<u64, Waiter>,
    /// How many are under way.
    pub(crate) running: usize,
    /// Among keys with as many under way, the lowest is next.
    pub(crate) turn: u64,
    /// When the last call that is counted for it got its permit.
    pub(crate) last_taken: Option<Instant>,
}

impl Slot {
    /// One more call is under way.
    pub(crate) fn start(&mut self, now: Instant) {
        self.running += 1;
        self.last_taken = Some(now);
    }
}

/// A call in the queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) since: Instant,
    /// `None` until its future is polled.
    pub(crate) waker: Option<Waker>,
}

#[derive(Debug, Default)]
pub(crate) struct Keys {
    slots: BTreeMap<KeyId, Slot>,
    names: HashMap<Name, KeyId>,
    nobody: Option<KeyId>,
    next: KeyId,
}

impl Keys {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn find(&self, name: Option<&str>) -> Option<KeyId> {
        match name {
            Some(name) => self.names.get(name).copied(),
            None => self.nobody,
        }
    }

    pub(crate) fn get(&self, id: KeyId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: KeyId) -> Option<&mut Slot> {
        self.slots.get_mut(&id)
    }

    pub(crate) fn find_or_add(&mut self, name: Option<&str>) -> KeyId {
        if let Some(id) = self.find(name) {
            return id;
        }
        let id = self.next;
        self.next += 1;
        let name: Option<Name> = name.map(Arc::from);
        match &name {
            Some(name) => drop(self.names.insert(name.clone(), id)),
            None => self.nobody = Some(id),
        }
        let slot = Slot {
            name,
            waiters: BTreeMap::new(),
            running: 0,
            turn: 0,
            last_taken: None,
        };
        self.slots.insert(id, slot);
        id
    }

    /// Forgets a key that has nothing waiting and nothing under way.
    pub(crate) fn forget_idle(&mut self, id: KeyId) {
        let idle = |slot: &Slot| slot.waiters.is_empty() && slot.running == 0;
        if !self.slots.get(&id).is_some_and(idle) {
            return;
        }
        match self.slots.remove(&id).and_then(|slot| slot.name) {
            Some(name) => drop(self.names.remove(&name)),
            None => self.nobody = None,
        }
    }

    /// All that there are, for reading.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }
}
