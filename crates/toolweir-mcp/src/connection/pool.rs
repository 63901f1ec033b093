//! The connections to one server: one for all, or one for each principal.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::time::Instant;
use toolweir_core::BoxError;

use super::{
    Connector, Manager, NoLink, Settings, lock,
    manager::{Past, Snapshot},
    place::Places,
};
use crate::ToolHints;

/// What a connection that makes room for another has, to end.
const EVICTED_GRACE: Duration = Duration::from_secs(10);
/// Of so many principals that have made room for others it is known whether they may start.
const MOST_REMEMBERED: usize = 1024;

/// How many connections there are to a server, and how each is made.
#[derive(Clone)]
pub(crate) enum Reach {
    /// One for all.
    Shared(Connector),
    /// One for each principal, and no more than so many at once.
    PerPrincipal { most: usize, make: Make },
}

/// Makes the way to a server for one principal.
pub(crate) type Make = Arc<dyn Fn(&str) -> Result<Connector, BoxError> + Send + Sync>;

/// Why there is no manager for a call.
#[derive(Debug)]
pub(crate) enum NoManager {
    /// The call names no principal, and connections are by principal.
    NoPrincipal,
    /// All connections are in use, and there may be no more.
    Full(usize),
    /// The way to the server could not be made.
    Unreachable(BoxError),
    /// It had a connection that made room for another, and may have none now.
    HeldBack(NoLink),
    ShutDown,
}

/// The connections to one server.
pub(crate) struct Pool {
    pub(crate) settings: Arc<Settings>,
    kind: Kind,
}

enum Kind {
    Shared(Arc<Manager>),
    PerPrincipal {
        most: usize,
        make: Make,
        state: Arc<Mutex<State>>,
    },
}

#[derive(Default)]
struct State {
    managers: HashMap<Arc<str>, Slot>,
    /// Counts the uses: the slot with the lowest one was used least recently.
    uses: u64,
    /// What is known of those that made room for others, should they come back.
    past: HashMap<Arc<str>, (u64, Past)>,
    /// Those that made room for others, and may not have ended yet.
    leaving: Vec<(Arc<str>, Arc<Manager>)>,
    shut_down: bool,
}

struct Slot {
    manager: Arc<Manager>,
    used: u64,
    /// Tells it from the one that was the principal's before.
    number: u64,
    /// Whether an attempt to connect has taken a place.
    connecting: bool,
    /// Cloned into each [`Lease`].
    users: Arc<()>,
}

/// A manager that a call uses. Until this is dropped it makes room for no other.
pub(crate) struct Lease {
    manager: Arc<Manager>,
    _user: Option<Arc<()>>,
}

impl Deref for Lease {
    type Target = Manager;

    fn deref(&self) -> &Manager {
        &self.manager
    }
}

impl Slot {
    fn lease(&self) -> Lease {
        Lease {
            manager: self.manager.clone(),
            _user: Some(self.users.clone()),
        }
    }

    fn is_in_use(&self) -> bool {
        // Leases are made under the lock under which this is asked.
        Arc::strong_count(&self.users) > 1
    }

    /// Whether it has one of the places: what has no connection costs none.
    fn has_place(&self) -> bool {
        self.connecting || self.manager.live().is_some()
    }
}

impl Pool {
    pub(crate) fn new(settings: Settings, reach: Reach) -> Self {
        let settings = Arc::new(settings);
        let kind = match reach {
            Reach::Shared(connector) => {
                let manager = Manager::new(settings.clone(), connector, None, None);
                Kind::Shared(Arc::new(manager))
            }
            Reach::PerPrincipal { most, make } => Kind::PerPrincipal {
                most,
                make,
                state: Arc::default(),
            },
        };
        Self { settings, kind }
    }

    /// Whether each principal has a connection of its own.
    pub(crate) const fn is_per_principal(&self) -> bool {
        matches!(self.kind, Kind::PerPrincipal { .. })
    }

    /// Whether all of it was shut down.
    pub(crate) fn is_shut_down(&self) -> bool {
        match &self.kind {
            Kind::Shared(manager) => manager.snapshot().shut_down,
            Kind::PerPrincipal { state, .. } => lock(state).shut_down,
        }
    }

    /// The manager for a call of `principal`, which makes room for no other meanwhile.
    pub(crate) fn lease(&self, principal: Option<&str>) -> Result<Lease, NoManager> {
        match &self.kind {
            Kind::Shared(manager) => Ok(Lease {
                manager: manager.clone(),
                _user: None,
            }),
            Kind::PerPrincipal { most, make, state } => {
                self.place(state, *most, make, principal, Slot::lease)
            }
        }
    }

    /// The manager for `principal`, for anything but a call.
    pub(crate) fn manager(&self, principal: Option<&str>) -> Result<Arc<Manager>, NoManager> {
        match &self.kind {
            Kind::Shared(manager) => Ok(manager.clone()),
            Kind::PerPrincipal { most, make, state } => {
                let take = |slot: &Slot| slot.manager.clone();
                self.place(state, *most, make, principal, take)
            }
        }
    }

    /// What is to be taken of a principal's slot, which is made if need be.
    fn place<T>(
        &self,
        shared: &Arc<Mutex<State>>,
        most: usize,
        make: &Make,
        principal: Option<&str>,
        take: impl Fn(&Slot) -> T,
    ) -> Result<T, NoManager> {
        let principal = principal.ok_or(NoManager::NoPrincipal)?;
        if let Some(found) = lock(shared).find(principal)? {
            return Ok(take(found));
        }
        // The user's code, and so not under the lock.
        let connector = make(principal).map_err(NoManager::Unreachable)?;
        let (taken, evicted) = {
            let mut state = lock(shared);
            // Another call of the same principal may have been faster.
            if let Some(found) = state.find(principal)? {
                return Ok(take(found));
            }
            let evicted = state.make_room(most)?;
            let past = state.past.remove(principal).map(|(_, past)| past);
            let number = state.uses;
            let place = PrincipalsPlace {
                state: Arc::downgrade(shared),
                principal: principal.into(),
                number,
                most,
            };
            let places = Some(Arc::new(place) as Arc<dyn Places>);
            let manager = Manager::new(self.settings.clone(), connector, past, places);
            (take(state.insert(principal, manager)), evicted)
        };
        end_evicted(evicted);
        Ok(taken)
    }

    /// The manager for `principal`, if there is one already.
    pub(crate) fn existing(&self, principal: Option<&str>) -> Option<Arc<Manager>> {
        match &self.kind {
            Kind::Shared(manager) => Some(manager.clone()),
            Kind::PerPrincipal { state, .. } => {
                let state = lock(state);
                let slot = state.managers.get(principal?)?;
                Some(slot.manager.clone())
            }
        }
    }

    /// All managers there are, each with its principal.
    pub(crate) fn all(&self) -> Vec<(Option<Arc<str>>, Arc<Manager>)> {
        match &self.kind {
            Kind::Shared(manager) => vec![(None, manager.clone())],
            Kind::PerPrincipal { state, .. } => lock(state)
                .managers
                .iter()
                .map(|(principal, slot)| (Some(principal.clone()), slot.manager.clone()))
                .collect(),
        }
    }

    /// The connection of `principal` as it stands, or as it was when it made room for another.
    pub(crate) fn snapshot(&self, principal: Option<&str>) -> Snapshot {
        let state = match &self.kind {
            Kind::Shared(manager) => return manager.snapshot(),
            Kind::PerPrincipal { state, .. } => lock(state),
        };
        let slot = principal.and_then(|principal| state.managers.get(principal));
        let past = principal.and_then(|principal| state.past.get(principal));
        let snapshot = match (slot, past) {
            (Some(slot), _) => slot.manager.snapshot(),
            (None, Some((_, past))) => past.snapshot(),
            (None, None) => Snapshot::default(),
        };
        Snapshot {
            shut_down: state.shut_down,
            ..snapshot
        }
    }

    /// Forgets the failures of `principal`, or of all, as far as there is no manager that knows of them.
    pub(crate) fn forget_failures(&self, principal: Option<&str>) {
        let Kind::PerPrincipal { state, .. } = &self.kind else {
            return;
        };
        let mut state = lock(state);
        let past = state.past.iter_mut();
        let of = past.filter(|(of, _)| principal.is_none_or(|principal| principal == &***of));
        of.for_each(|(_, (_, past))| past.forget_failures());
    }

    /// What is known of a tool for `principal`. Where each has a connection of its own, and nobody is
    /// named, the least repeatable of what their servers say.
    pub(crate) fn hints(&self, principal: Option<&str>, tool: &str) -> ToolHints {
        if let Some(configured) = self.settings.hints.get(tool) {
            return *configured;
        }
        if principal.is_some() || !self.is_per_principal() {
            let manager = self.existing(principal);
            return manager.map_or_else(ToolHints::default, |manager| manager.hints(tool));
        }
        let all = self.all().into_iter();
        let all = all.map(|(_, manager)| manager.hints(tool));
        all.reduce(ToolHints::least_repeatable).unwrap_or_default()
    }

    /// Ends every connection, for good, and waits for those that are ending already. It goes on where
    /// nobody waits for it any more.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let managers = match &self.kind {
            Kind::Shared(manager) => vec![manager.clone()],
            Kind::PerPrincipal { state, .. } => {
                let mut state = lock(state);
                state.shut_down = true;
                let managers = state.managers.values();
                let managers = managers.map(|slot| slot.manager.clone());
                managers.chain(state.leaving()).collect()
            }
        };
        end_all(managers, grace).await;
    }

    /// Ends the connection of one principal, and forgets its failures. Its next call makes another.
    pub(crate) async fn end_one(&self, principal: &str, grace: Duration) {
        let state = match &self.kind {
            Kind::Shared(_) => return self.shut_down(grace).await,
            Kind::PerPrincipal { state, .. } => state,
        };
        let managers = {
            let mut state = lock(state);
            if state.shut_down {
                let slot = state.managers.get(principal);
                Vec::from_iter(slot.map(|slot| slot.manager.clone()))
            } else {
                state.remove(principal);
                if let Some((_, past)) = state.past.get_mut(principal) {
                    past.forget_failures();
                }
                state.leaving_of(principal)
            }
        };
        end_all(managers, grace).await;
    }
}

/// The place that one principal's connection takes.
struct PrincipalsPlace {
    state: Weak<Mutex<State>>,
    principal: Arc<str>,
    number: u64,
    most: usize,
}

impl Places for PrincipalsPlace {
    fn most(&self) -> usize {
        self.most
    }

    #[cfg(feature = "http")]
    fn is_there(&self) -> bool {
        let state = self.state.upgrade();
        state.is_some_and(|state| {
            lock(&state).has_place_for(&self.principal, self.number, self.most)
        })
    }

    fn take(&self) -> bool {
        let Some(state) = self.state.upgrade() else {
            return false;
        };
        let (given, evicted) = lock(&state).give_place(&self.principal, self.number, self.most);
        end_evicted(evicted);
        given
    }

    fn leave(&self) {
        let Some(state) = self.state.upgrade() else {
            return;
        };
        if let Some(slot) = lock(&state).managers.get_mut(&self.principal)
            && slot.number == self.number
        {
            slot.connecting = false;
        }
    }
}

/// Ends what has made room for another, in the background.
fn end_evicted(evicted: Option<Arc<Manager>>) {
    if let Some(evicted) = evicted {
        tokio::spawn(async move { evicted.shut_down(EVICTED_GRACE).await });
    }
}

/// Shuts them down, all at once. Each does so in a task of its own: who waits may give up.
async fn end_all(managers: Vec<Arc<Manager>>, grace: Duration) {
    let end = |manager: Arc<Manager>| async move { manager.shut_down(grace).await };
    let ends = managers
        .into_iter()
        .map(|manager| tokio::spawn(end(manager)));
    for ended in Vec::from_iter(ends) {
        // One that panicked has said so.
        let _ = ended.await;
    }
}

impl State {
    /// The principal's slot, which is now the one used last. Nobody makes room for one that may not
    /// start now.
    fn find(&mut self, principal: &str) -> Result<Option<&Slot>, NoManager> {
        if self.shut_down {
            return Err(NoManager::ShutDown);
        }
        if let Some((_, past)) = self.past.get(principal)
            && let Some(no_link) = past.holds_back(Instant::now())
        {
            return Err(NoManager::HeldBack(no_link));
        }
        let uses = self.uses;
        let found = self.managers.get_mut(principal).map(|slot| {
            slot.used = uses;
            &*slot
        });
        self.uses += u64::from(found.is_some());
        Ok(found)
    }

    /// Lets one without a connection go, if there are as many of those as there may be connections:
    /// a name that never connects costs nobody a connection, and there is no end of names.
    fn make_room(&mut self, most: usize) -> Result<Option<Arc<Manager>>, NoManager> {
        self.let_one_go(most, false)
    }

    /// Where there are `most` with a place, or without one: lets the least recently used of them go
    /// that no call uses now.
    fn let_one_go(
        &mut self,
        most: usize,
        with_place: bool,
    ) -> Result<Option<Arc<Manager>>, NoManager> {
        let goes = self.who_goes(most, with_place)?;
        Ok(goes.and_then(|principal| self.remove(&principal)))
    }

    /// Who would go.
    fn who_goes(&self, most: usize, with_place: bool) -> Result<Option<Arc<str>>, NoManager> {
        let slots = self.managers.iter();
        let of_kind = slots.filter(|(_, slot)| slot.has_place() == with_place);
        let of_kind = Vec::from_iter(of_kind);
        if of_kind.len() < most {
            return Ok(None);
        }
        let unused = of_kind.iter().filter(|(_, slot)| !slot.is_in_use());
        let oldest = unused.min_by_key(|(_, slot)| slot.used);
        let principal = oldest.map(|(principal, _)| (*principal).clone());
        principal.map(Some).ok_or(NoManager::Full(most))
    }

    /// Whether one of `most` places could be given to the slot of this number.
    #[cfg(feature = "http")]
    fn has_place_for(&self, principal: &str, number: u64, most: usize) -> bool {
        let slot = self.managers.get(principal);
        slot.is_some_and(|slot| {
            slot.number == number && (slot.has_place() || self.who_goes(most, true).is_ok())
        })
    }

    /// Gives one of `most` places to the slot of this number: `false` if there is none, or the
    /// slot is gone. What made room is to be ended.
    fn give_place(
        &mut self,
        principal: &str,
        number: u64,
        most: usize,
    ) -> (bool, Option<Arc<Manager>>) {
        let is_it = |slot: &Slot| slot.number == number;
        match self.managers.get(principal) {
            Some(slot) if is_it(slot) && slot.has_place() => return (true, None),
            Some(slot) if is_it(slot) => {}
            _ => return (false, None),
        }
        let Ok(evicted) = self.let_one_go(most, true) else {
            return (false, None);
        };
        if let Some(slot) = self.managers.get_mut(principal) {
            slot.connecting = true;
        }
        (true, evicted)
    }

    fn insert(&mut self, principal: &str, manager: Manager) -> &Slot {
        let slot = Slot {
            manager: Arc::new(manager),
            used: self.uses,
            number: self.uses,
            connecting: false,
            users: Arc::default(),
        };
        self.uses += 1;
        self.managers
            .entry(principal.into())
            .insert_entry(slot)
            .into_mut()
    }

    /// Takes a manager out, and keeps what it knows. It is for the caller to end it.
    fn remove(&mut self, principal: &str) -> Option<Arc<Manager>> {
        let (principal, slot) = self.managers.remove_entry(principal)?;
        self.remember(principal.clone(), slot.manager.let_go());
        self.leaving.retain(|(_, manager)| !manager.has_ended());
        self.leaving.push((principal, slot.manager.clone()));
        Some(slot.manager)
    }

    /// Keeps what is known of a principal: who is in backoff, or was given up, must not get out of it by
    /// making room. Where that is too much, those that are held back by nothing are forgotten first,
    /// and the oldest of them.
    fn remember(&mut self, principal: Arc<str>, past: Past) {
        if self.past.len() >= MOST_REMEMBERED {
            let now = Instant::now();
            let past = self.past.iter_mut();
            let ended = past.filter_map(|(of, (at, past))| {
                (!past.is_ending()).then(|| (past.holds_back(now).is_some(), *at, of.clone()))
            });
            if let Some((.., oldest)) = ended.min() {
                self.past.remove(&oldest);
            }
        }
        self.past.insert(principal, (self.uses, past));
    }

    /// Those that may not have ended yet.
    fn leaving(&self) -> impl Iterator<Item = Arc<Manager>> {
        self.leaving.iter().map(|(_, manager)| manager.clone())
    }

    fn leaving_of(&self, principal: &str) -> Vec<Arc<Manager>> {
        let leaving = self.leaving.iter().filter(|(of, _)| **of == *principal);
        leaving.map(|(_, manager)| manager.clone()).collect()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.settings.name)
            .field("per_principal", &self.is_per_principal())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StdioServer;

    fn pool(most: usize) -> Pool {
        let settings = Settings {
            name: "music".into(),
            connect_timeout: Duration::from_secs(1),
            stop_after_idle: None,
            budget: None,
            max_response_bytes: 1 << 20,
            hints: HashMap::new(),
        };
        let make: Make = Arc::new(|principal| match principal {
            "nobody" => Err("no such user".into()),
            _ => Ok(Connector::Stdio(StdioServer::new("/no/such/server"))),
        });
        Pool::new(settings, Reach::PerPrincipal { most, make })
    }

    fn same(one: &Arc<Manager>, other: &Arc<Manager>) -> bool {
        Arc::ptr_eq(one, other)
    }

    fn names(pool: &Pool) -> Vec<String> {
        let mut names: Vec<_> = pool
            .all()
            .into_iter()
            .filter_map(|(name, _)| name)
            .collect();
        names.sort();
        names.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn each_principal_has_its_own_and_a_call_without_one_has_none() {
        let pool = pool(2);
        let anna = pool.manager(Some("anna")).unwrap();
        let bob = pool.manager(Some("bob")).unwrap();
        assert!(!same(&anna, &bob));
        assert!(same(&anna, &pool.manager(Some("anna")).unwrap()));
        assert!(matches!(pool.manager(None), Err(NoManager::NoPrincipal)));
    }

    #[tokio::test]
    async fn the_least_recently_used_makes_room_and_one_in_use_does_not() {
        let pool = pool(2);
        let anna = pool.lease(Some("anna")).unwrap();
        drop(pool.lease(Some("bob")).unwrap());
        drop(anna);
        drop(pool.lease(Some("anna")).unwrap());
        let carl = pool.lease(Some("carl")).unwrap();
        assert_eq!(names(&pool), ["anna", "carl"]);
        let _anna = pool.lease(Some("anna")).unwrap();
        for _ in 0..2 {
            let full = pool.manager(Some("dora"));
            assert!(matches!(full, Err(NoManager::Full(2))));
            let full = pool.lease(Some("dora"));
            assert!(matches!(full, Err(NoManager::Full(2))));
        }
        drop(carl);
        assert!(pool.lease(Some("dora")).is_ok());
    }

    #[tokio::test]
    async fn who_only_looks_at_one_does_not_use_it() {
        let pool = pool(1);
        let looked_at = [
            pool.manager(Some("anna")).unwrap(),
            pool.existing(Some("anna")).unwrap(),
        ];
        let all = pool.all();
        assert!(pool.lease(Some("bob")).is_ok());
        assert!(looked_at.iter().all(|anna| anna.is_over()));
        assert!(all[0].1.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_who_is_held_back_is_forgotten_last() {
        let pool = pool(1);
        // There is no such program.
        pool.manager(Some("anna"))
            .unwrap()
            .link()
            .await
            .unwrap_err();
        for number in 0..2 * MOST_REMEMBERED {
            pool.manager(Some(&format!("user-{number}"))).unwrap();
        }
        let Kind::PerPrincipal { state, .. } = &pool.kind else {
            panic!("it is for each principal");
        };
        assert_eq!(lock(state).past.len(), MOST_REMEMBERED);
        assert!(pool.snapshot(Some("anna")).wait.is_some());
        assert!(matches!(
            pool.lease(Some("anna")),
            Err(NoManager::HeldBack(NoLink::Failed(_, Some(_))))
        ));
        // Nothing of those that had nothing to end is kept.
        assert!(lock(state).leaving.len() <= 1);
    }

    #[tokio::test]
    async fn a_way_that_cannot_be_made_is_not_kept() {
        let pool = pool(1);
        assert!(matches!(
            pool.manager(Some("nobody")),
            Err(NoManager::Unreachable(_))
        ));
        assert_eq!(names(&pool), [""; 0]);
    }

    #[tokio::test]
    async fn after_the_shutdown_there_is_none() {
        let pool = pool(1);
        drop(pool.manager(Some("anna")).unwrap());
        pool.shut_down(Duration::ZERO).await;
        assert!(matches!(
            pool.manager(Some("anna")),
            Err(NoManager::ShutDown)
        ));
    }
}
