//! A bounded table of what there is one of for each key. It is pure: it takes the time with each
//! step.
//!
//! Entries stand in the order of their last use. Each step takes constant time: it looks at the
//! oldest entry, or at a few of the oldest where room is needed. An entry that may not leave when
//! its turn comes is passed over and stands with the newest, so that it does not keep others from
//! leaving.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::MayLeave;

/// How many of the oldest are asked to leave where a newcomer needs room.
const ASKED: usize = 8;

#[derive(Debug)]
struct Entry<T> {
    key: Arc<str>,
    value: T,
    used: Instant,
    newer: Option<usize>,
    older: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Table<T, H = RandomState> {
    places: HashMap<Arc<str>, usize, H>,
    entries: Vec<Option<Entry<T>>>,
    free: Vec<usize>,
    newest: Option<usize>,
    oldest: Option<usize>,
    max: usize,
    idle: Duration,
    most: usize,
    evicted: u64,
}

impl<T: MayLeave> Table<T> {
    pub(super) fn new(max: usize, idle: Duration) -> Self {
        Self::with_hasher(max, idle, RandomState::new())
    }
}

impl<T: MayLeave, H: BuildHasher> Table<T, H> {
    fn with_hasher(max: usize, idle: Duration, hasher: H) -> Self {
        Self {
            places: HashMap::with_hasher(hasher),
            entries: Vec::new(),
            free: Vec::new(),
            newest: None,
            oldest: None,
            max,
            idle,
            most: 0,
            evicted: 0,
        }
    }

    /// The entry of `key`, used now. One that was idle for too long is not there any more.
    pub(super) fn get(&mut self, key: &str, now: Instant) -> Option<&T> {
        let at = *self.places.get(key)?;
        if self.oldest != Some(at) {
            self.sweep(now);
        }
        if self.is_idle(at, now) && self.leaves(at, now) {
            return None;
        }
        self.unlink(at);
        self.link_newest(at);
        let entry = self.entries.get_mut(at)?.as_mut()?;
        entry.used = now;
        Some(&entry.value)
    }

    /// Whether a key can be added. Somebody may have to leave for it.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.sweep(now);
        self.len() < self.max || self.make_room(now)
    }

    /// Adds a key that is not there, where there [is room](Self::has_room).
    pub(super) fn insert(&mut self, key: Arc<str>, value: T, now: Instant) {
        let entry = Some(Entry {
            key: key.clone(),
            value,
            used: now,
            newer: None,
            older: None,
        });
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.places.insert(key, at);
        self.most = self.most.max(self.len());
        self.link_newest(at);
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The most that there have been at once.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// How many have left.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten().map(|entry| &entry.value)
    }

    /// Lets the oldest entry leave if it is idle and may.
    fn sweep(&mut self, now: Instant) {
        if let Some(at) = self.oldest.filter(|at| self.is_idle(*at, now)) {
            self.leaves(at, now);
        }
    }

    fn make_room(&mut self, now: Instant) -> bool {
        let asked = self.len().min(ASKED);
        (0..asked).any(|_| self.oldest.is_some_and(|at| self.leaves(at, now)))
    }

    /// Lets an entry leave if it may, else passes it over.
    fn leaves(&mut self, at: usize, now: Instant) -> bool {
        let is_idle = self.is_idle(at, now);
        let may_leave = self
            .entry(at)
            .is_some_and(|entry| entry.value.may_leave(is_idle, now));
        self.unlink(at);
        if !may_leave {
            self.link_newest(at);
            return false;
        }
        if let Some(entry) = self.entries[at].take() {
            self.places.remove(&entry.key);
            self.free.push(at);
            self.evicted += 1;
        }
        true
    }

    fn entry(&self, at: usize) -> Option<&Entry<T>> {
        self.entries.get(at)?.as_ref()
    }

    fn is_idle(&self, at: usize, now: Instant) -> bool {
        self.entry(at)
            .is_some_and(|entry| now.saturating_duration_since(entry.used) >= self.idle)
    }

    /// Takes an entry out of the order.
    fn unlink(&mut self, at: usize) {
        let Some(entry) = &self.entries[at] else {
            return;
        };
        let (newer, older) = (entry.newer, entry.older);
        match newer.and_then(|newer| self.entries[newer].as_mut()) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| self.entries[older].as_mut()) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Puts an entry that is not in the order at its newest end.
    fn link_newest(&mut self, at: usize) {
        let older = self.newest;
        if let Some(entry) = &mut self.entries[at] {
            entry.older = older;
            entry.newer = None;
        }
        match older.and_then(|older| self.entries[older].as_mut()) {
            Some(entry) => entry.newer = Some(at),
            None => self.oldest = Some(at),
        }
        self.newest = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::{prelude::*, test_runner::RngAlgorithm};

    use super::*;

    /// What may leave only when it is idle, or not at all, or at once.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Ties {
        None,
        UntilIdle,
        ForEver,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Value {
        ties: Ties,
        number: usize,
    }

    impl MayLeave for Value {
        fn may_leave(&self, is_idle: bool, _: Instant) -> bool {
            match self.ties {
                Ties::None => true,
                Ties::UntilIdle => is_idle,
                Ties::ForEver => false,
            }
        }
    }

    const IDLE: u64 = 100;

    /// The same with lists: the oldest use first.
    struct Model {
        order: Vec<(usize, Value, u64)>,
        max: usize,
    }

    impl Model {
        fn leaves(&mut self, at: usize, now: u64) -> bool {
            let entry = self.order.remove(at);
            let is_idle = now.saturating_sub(entry.2) >= IDLE;
            let may = entry.1.ties == Ties::None || is_idle && entry.1.ties == Ties::UntilIdle;
            if !may {
                self.order.push(entry);
            }
            may
        }

        fn sweep(&mut self, now: u64) {
            let oldest = self.order.first().map(|entry| entry.2);
            if oldest.is_some_and(|used| now.saturating_sub(used) >= IDLE) {
                self.leaves(0, now);
            }
        }

        fn get(&mut self, key: usize, now: u64) -> Option<Value> {
            let at = self.order.iter().position(|entry| entry.0 == key)?;
            if at > 0 {
                self.sweep(now);
            }
            let at = self.order.iter().position(|entry| entry.0 == key)?;
            if now.saturating_sub(self.order[at].2) >= IDLE && self.leaves(at, now) {
                return None;
            }
            let at = self.order.iter().position(|entry| entry.0 == key)?;
            let (key, value, _) = self.order.remove(at);
            self.order.push((key, value, now));
            Some(value)
        }

        fn insert(&mut self, key: usize, value: Value, now: u64) -> bool {
            self.sweep(now);
            if self.order.len() == self.max {
                let mut asked = self.order.len().min(ASKED);
                while asked > 0 && !self.leaves(0, now) {
                    asked -= 1;
                }
                if asked == 0 {
                    return false;
                }
            }
            self.order.push((key, value, now));
            true
        }
    }

    fn ties() -> impl Strategy<Value = Ties> {
        prop_oneof![
            4 => Just(Ties::None),
            2 => Just(Ties::UntilIdle),
            1 => Just(Ties::ForEver),
        ]
    }

    /// Counts the keys that are hashed.
    #[derive(Default)]
    struct Counting(RandomState, Cell<usize>);

    impl BuildHasher for Counting {
        type Hasher = <RandomState as BuildHasher>::Hasher;

        fn build_hasher(&self) -> Self::Hasher {
            self.1.set(self.1.get() + 1);
            self.0.build_hasher()
        }
    }

    #[test]
    fn a_key_that_is_there_is_hashed_once() {
        let now = Instant::now();
        let mut keys = Table::with_hasher(10, Duration::MAX, Counting::default());
        for number in 0..10 {
            let ties = Ties::None;
            keys.insert(number.to_string().into(), Value { ties, number }, now);
        }
        let before = keys.places.hasher().1.get();
        for number in 0..10 {
            assert!(keys.get(&number.to_string(), now).is_some());
        }
        assert_eq!(keys.places.hasher().1.get() - before, 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2_000,
            // In a debug build the default generator would take most of the time.
            rng_algorithm: RngAlgorithm::XorShift,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_table_does_what_the_lists_do(
            max in 1_usize..14,
            steps in prop::collection::vec((0_usize..20, ties(), 0_u64..60), 1..150),
        ) {
            let start = Instant::now();
            let mut keys = Table::new(max, Duration::from_nanos(IDLE));
            let mut model = Model { order: Vec::new(), max };
            let (mut now, mut most) = (0, 0);
            for (number, (key, ties, wait)) in steps.into_iter().enumerate() {
                // Most calls come at once, one after the other.
                now += wait.saturating_sub(40) * 4;
                let at = start + Duration::from_nanos(now);
                let name = key.to_string();
                let found = keys.get(&name, at).copied();
                prop_assert_eq!(found, model.get(key, now));
                if found.is_none() {
                    let value = Value { ties, number };
                    let has_room = keys.has_room(at);
                    prop_assert_eq!(has_room, model.insert(key, value, now));
                    if has_room {
                        keys.insert(name.into(), value, at);
                    }
                }
                prop_assert_eq!(keys.len(), model.order.len());
                most = most.max(keys.len());
                prop_assert_eq!(keys.most(), most);
                prop_assert!(keys.len() <= max);
                prop_assert!(keys.entries.len() <= max);
                let mut all: Vec<usize> = keys.iter().map(|value| value.number).collect();
                let mut expected: Vec<usize> =
                    model.order.iter().map(|entry| entry.1.number).collect();
                all.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
            }
        }
    }

    #[test]
    fn the_idle_leave_while_others_are_called() {
        let start = Instant::now();
        let mut keys = Table::new(100, Duration::from_secs(1));
        let value = Value {
            ties: Ties::None,
            number: 0,
        };
        for number in 0..50 {
            keys.insert(number.to_string().into(), value, start);
        }
        let later = start + Duration::from_secs(2);
        assert!(keys.get("0", later).is_none());
        keys.insert("busy".into(), value, later);
        for _ in 0..60 {
            assert!(keys.get("busy", later).is_some());
        }
        assert_eq!((keys.len(), keys.evicted()), (1, 50));
    }
}
