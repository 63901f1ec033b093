//! The connections to one server: one for all, or one for each principal.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use toolweir_core::BoxError;

use super::{Connector, Manager, Settings, manager::Leaving};
use crate::ToolHints;

/// What a connection that makes room for another has, to end.
const EVICTED_GRACE: Duration = Duration::from_secs(10);

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
        state: Mutex<State>,
    },
}

#[derive(Default)]
struct State {
    managers: HashMap<Arc<str>, Slot>,
    /// Counts the uses: the slot with the lowest one was used least recently.
    uses: u64,
    /// What made room for others and may not have ended yet.
    leaving: HashMap<Arc<str>, watch::Receiver<()>>,
    shut_down: bool,
}

struct Slot {
    manager: Arc<Manager>,
    used: u64,
}

impl Pool {
    pub(crate) fn new(settings: Settings, reach: Reach) -> Self {
        let settings = Arc::new(settings);
        let kind = match reach {
            Reach::Shared(connector) => {
                let manager = Manager::new(settings.clone(), connector, None);
                Kind::Shared(Arc::new(manager))
            }
            Reach::PerPrincipal { most, make } => Kind::PerPrincipal {
                most,
                make,
                state: Mutex::default(),
            },
        };
        Self { settings, kind }
    }

    /// Whether each principal has a connection of its own.
    pub(crate) const fn is_per_principal(&self) -> bool {
        matches!(self.kind, Kind::PerPrincipal { .. })
    }

    /// The manager for a call of `principal`. As long as it is held it makes room for no other.
    pub(crate) fn manager(&self, principal: Option<&str>) -> Result<Arc<Manager>, NoManager> {
        let (most, make, state) = match &self.kind {
            Kind::Shared(manager) => return Ok(manager.clone()),
            Kind::PerPrincipal { most, make, state } => (*most, make, state),
        };
        let principal = principal.ok_or(NoManager::NoPrincipal)?;
        if let Some(found) = lock(state).find(principal)? {
            return Ok(found);
        }
        // The user's code, and so not under the lock.
        let connector = make(principal).map_err(NoManager::Unreachable)?;
        let (manager, evicted) = {
            let mut state = lock(state);
            // Another call of the same principal may have been faster.
            if let Some(found) = state.find(principal)? {
                return Ok(found);
            }
            let evicted = state.make_room(most)?;
            let leaving = state.leaving.get(principal).cloned();
            let leaving = leaving.map(Leaving::Manager);
            let manager = Manager::new(self.settings.clone(), connector, leaving);
            (state.insert(principal, manager), evicted)
        };
        if let Some(evicted) = evicted {
            tokio::spawn(evicted.end());
        }
        Ok(manager)
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

    /// Ends every connection, for good, and waits for those that are ending already.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let (managers, leaving) = match &self.kind {
            Kind::Shared(manager) => return manager.shut_down(grace).await,
            Kind::PerPrincipal { state, .. } => {
                let mut state = lock(state);
                state.shut_down = true;
                let managers: Vec<_> = state.managers.drain().collect();
                let leaving: Vec<_> = state.leaving.values().cloned().collect();
                (managers, leaving)
            }
        };
        let mut ends = JoinSet::new();
        for (_, slot) in managers {
            ends.spawn(async move { slot.manager.shut_down(grace).await });
        }
        for leaving in leaving {
            ends.spawn(Leaving::Manager(leaving).over());
        }
        ends.join_all().await;
    }
}

impl State {
    /// The principal's manager, which is now the one used last.
    fn find(&mut self, principal: &str) -> Result<Option<Arc<Manager>>, NoManager> {
        if self.shut_down {
            return Err(NoManager::ShutDown);
        }
        let uses = self.uses;
        let found = self.managers.get_mut(principal).map(|slot| {
            slot.used = uses;
            slot.manager.clone()
        });
        self.uses += u64::from(found.is_some());
        Ok(found)
    }

    /// Takes out the one least recently used that nobody uses now, if there is no room.
    fn make_room(&mut self, most: usize) -> Result<Option<Evicted>, NoManager> {
        self.leaving.retain(|_, end| end.has_changed().is_ok());
        if self.managers.len() < most {
            return Ok(None);
        }
        // Who uses one holds it; and only this map hands them out.
        let unused = self.managers.iter();
        let unused = unused.filter(|(_, slot)| Arc::strong_count(&slot.manager) == 1);
        let oldest = unused.min_by_key(|(_, slot)| slot.used);
        let principal = oldest.map(|(principal, _)| principal.clone());
        let principal = principal.ok_or(NoManager::Full(most))?;
        let slot = self.managers.remove(&principal);
        let (told, end) = watch::channel(());
        self.leaving.insert(principal, end);
        Ok(slot.map(|slot| Evicted {
            manager: slot.manager,
            _told: told,
        }))
    }

    fn insert(&mut self, principal: &str, manager: Manager) -> Arc<Manager> {
        let manager = Arc::new(manager);
        let slot = Slot {
            manager: manager.clone(),
            used: self.uses,
        };
        self.uses += 1;
        self.managers.insert(principal.into(), slot);
        manager
    }
}

/// A connection that made room for another.
struct Evicted {
    manager: Arc<Manager>,
    /// Dropped when it has ended.
    _told: watch::Sender<()>,
}

impl Evicted {
    async fn end(self) {
        self.manager.shut_down(EVICTED_GRACE).await;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
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
            _ => Ok(Connector::Stdio(StdioServer::new("server"))),
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
        let anna = pool.manager(Some("anna")).unwrap();
        drop(pool.manager(Some("bob")).unwrap());
        drop(anna);
        drop(pool.manager(Some("anna")).unwrap());
        let carl = pool.manager(Some("carl")).unwrap();
        assert_eq!(names(&pool), ["anna", "carl"]);
        let _anna = pool.manager(Some("anna")).unwrap();
        assert!(matches!(
            pool.manager(Some("dora")),
            Err(NoManager::Full(2))
        ));
        drop(carl);
        assert!(pool.manager(Some("dora")).is_ok());
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
