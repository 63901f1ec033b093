//! What a layer has one of for each key: bounded in number, and the idle ones leave.

mod table;

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::table::Table;

/// A longer key has no state of its own: keys may come from outside, and are kept.
const LONGEST_KEY: usize = 256;

/// What the state is called that keys share which found no room for one of their own.
pub const OVERFLOW: &str = "(other keys)";

/// Whether a key's state may be forgotten, so that the key begins anew with its next call.
pub trait MayLeave {
    /// `is_idle`: the key has not been used for the configured time. Otherwise it is asked because
    /// another key needs the room.
    ///
    /// It is asked only while nobody else has the state.
    fn may_leave(&self, is_idle: bool, now: Instant) -> bool;
}

/// Others get a state from the table alone, which is theirs who ask.
impl<S: MayLeave> MayLeave for Arc<S> {
    fn may_leave(&self, is_idle: bool, now: Instant) -> bool {
        if Self::strong_count(self) > 1 {
            return false;
        }
        // The count alone does not show what the last other owner did before it let go.
        fence(Ordering::Acquire);
        (**self).may_leave(is_idle, now)
    }
}

/// The states of many keys, and the one that those share which found no room.
///
/// It is pure: it takes the time with each step, which takes constant time. A layer puts it under
/// its lock.
///
/// A key that has not been used for `key_idle` leaves, and at `max_keys` those leave first that
/// have not been used for longest. None leaves that [may not](MayLeave), or whose state somebody
/// still has. Where nobody can leave, newcomers share one state. So does a key of more than 256
/// bytes.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use tokio::time::Instant;
/// use toolweir_core::keys::{Keyed, MayLeave, OVERFLOW};
///
/// struct Count { key: Arc<str>, busy: bool }
///
/// impl MayLeave for Count {
///     fn may_leave(&self, _: bool, _: Instant) -> bool {
///         !self.busy
///     }
/// }
///
/// let mut counts = Keyed::new(1, Duration::from_secs(60));
/// let now = Instant::now();
/// let new = |busy| move |key| Count { key, busy };
/// assert_eq!(&*counts.of_key("anna", now, new(false)).key, "anna");
/// assert_eq!(&*counts.of_key("berta", now, new(true)).key, "berta");
/// assert_eq!(&*counts.of_key("clara", now, new(false)).key, OVERFLOW);
/// assert_eq!(counts.figures().evicted, 1);
/// ```
#[derive(Debug)]
pub struct Keyed<S> {
    table: Table<Arc<S>>,
    overflow: Option<Arc<S>>,
    overflowed: u64,
}

impl<S: MayLeave> Keyed<S> {
    /// No states yet, and room for `max_keys`.
    #[must_use]
    pub fn new(max_keys: usize, key_idle: Duration) -> Self {
        Self {
            table: Table::new(max_keys, key_idle),
            overflow: None,
            overflowed: 0,
        }
    }

    /// The state of a key, used now. Where there is none it is made, with the name that it goes by:
    /// the key, or [`OVERFLOW`].
    pub fn of_key(&mut self, key: &str, now: Instant, make: impl FnOnce(Arc<str>) -> S) -> Arc<S> {
        if let Some(state) = self.table.get(key, now) {
            return state.clone();
        }
        if key.len() <= LONGEST_KEY && self.table.has_room(now) {
            let name: Arc<str> = key.into();
            let state = Arc::new(make(name.clone()));
            self.table.insert(name, state.clone(), now);
            return state;
        }
        self.overflowed += 1;
        let overflow = &mut self.overflow;
        overflow
            .get_or_insert_with(|| Arc::new(make(OVERFLOW.into())))
            .clone()
    }

    /// The state that keys share which found no room, if there were any.
    pub const fn overflow(&self) -> Option<&Arc<S>> {
        self.overflow.as_ref()
    }

    /// All states, in no order, the shared one among them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<S>> {
        self.table.iter().chain(&self.overflow)
    }

    /// How many there are.
    pub fn figures(&self) -> KeyFigures {
        KeyFigures {
            keys: self.table.len(),
            max_keys: self.table.max(),
            most_keys: self.table.most(),
            evicted: self.table.evicted(),
            overflowed: self.overflowed,
        }
    }
}

/// The state that a call belongs to, counted as a reference only where it must be.
#[derive(Debug)]
pub enum Chosen<'a, S> {
    /// The one that the service has already.
    Own(&'a Arc<S>),
    /// One that was [looked up](Keyed::of_key).
    Keyed(Arc<S>),
}

impl<S> Chosen<'_, S> {
    /// The state, as one of its owners.
    #[inline]
    #[must_use]
    pub fn into_shared(self) -> Arc<S> {
        match self {
            Self::Own(state) => state.clone(),
            Self::Keyed(state) => state,
        }
    }
}

impl<S> Deref for Chosen<'_, S> {
    type Target = S;

    #[inline]
    fn deref(&self) -> &S {
        match self {
            Self::Own(state) => state,
            Self::Keyed(state) => state,
        }
    }
}

/// How many keys have states of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct KeyFigures {
    /// How many have one.
    pub keys: usize,
    /// How many may.
    pub max_keys: usize,
    /// The most that have had one at once.
    pub most_keys: usize,
    /// How many have been forgotten, because they were idle or because others needed the room.
    pub evicted: u64,
    /// How many times a key found no room, or was too long to be kept, and its call went to the
    /// state that such keys share.
    pub overflowed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct State {
        name: Arc<str>,
        may_leave: bool,
    }

    impl MayLeave for State {
        fn may_leave(&self, _: bool, _: Instant) -> bool {
            self.may_leave
        }
    }

    const IDLE: Duration = Duration::from_secs(60);

    fn of_key(keys: &mut Keyed<State>, key: &str, may_leave: bool) -> Arc<State> {
        keys.of_key(key, Instant::now(), |name| State { name, may_leave })
    }

    #[test]
    fn a_key_has_one_state() {
        let mut keys = Keyed::new(10, IDLE);
        let anna = of_key(&mut keys, "anna", true);
        assert_eq!(&*anna.name, "anna");
        assert!(Arc::ptr_eq(&anna, &of_key(&mut keys, "anna", true)));
        assert!(!Arc::ptr_eq(&anna, &of_key(&mut keys, "berta", true)));
        let figures = keys.figures();
        assert_eq!(
            (figures.keys, figures.most_keys, figures.max_keys),
            (2, 2, 10)
        );
        assert_eq!((figures.evicted, figures.overflowed), (0, 0));
        assert_eq!(keys.iter().count(), 2);
    }

    #[test]
    fn a_state_that_somebody_has_or_that_may_not_leave_stays() {
        let mut keys = Keyed::new(2, IDLE);
        let held = of_key(&mut keys, "held", true);
        of_key(&mut keys, "tied", false);
        assert!(keys.overflow().is_none());
        let first = of_key(&mut keys, "third", true);
        let second = of_key(&mut keys, "fourth", true);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(&*first.name, OVERFLOW);
        assert!(
            keys.overflow()
                .is_some_and(|shared| Arc::ptr_eq(shared, &first))
        );
        assert_eq!(keys.iter().count(), 3);
        let figures = keys.figures();
        assert_eq!(
            (figures.keys, figures.evicted, figures.overflowed),
            (2, 0, 2)
        );

        drop(held);
        assert_eq!(&*of_key(&mut keys, "third", true).name, "third");
        assert_eq!((keys.figures().keys, keys.figures().evicted), (2, 1));
    }

    #[test]
    fn a_key_is_kept_only_up_to_a_length() {
        let mut keys = Keyed::new(10, IDLE);
        let longest = "k".repeat(LONGEST_KEY);
        assert_eq!(*of_key(&mut keys, &longest, true).name, longest);
        assert_eq!(&*of_key(&mut keys, &(longest + "k"), true).name, OVERFLOW);
        assert_eq!(keys.figures().keys, 1);
    }
}
