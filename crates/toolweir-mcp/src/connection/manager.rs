//! The connection's state: who connects, who waits, and what is left when it is lost.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rmcp::ServiceError;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use toolweir_core::time::saturating_add;

use super::{ConnectError, Connecting, Connector, Link, backoff::Backoff, is_loss};
use crate::ToolHints;

/// A lost connection's process has ended already, or is of no more use.
const LOST_GRACE: Duration = Duration::from_secs(2);
/// What an end may take beyond its grace, until a killed process is seen to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(6);

/// Why there is no connection to be had.
#[derive(Debug, Clone)]
pub(crate) enum NoLink {
    /// It could not be made; when it is tried again, if that is put off.
    Failed(Arc<ConnectError>, Option<Duration>),
    /// The attempt was given up for a restart.
    GivenUp,
    /// It was shut down for good.
    ShutDown,
}

/// What those who wait for a connection are told.
type Told = Option<Result<Arc<Link>, NoLink>>;

/// Owns the connection. The last clone of a service or a handle drops it, and with it the server.
pub(crate) struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    connector: Connector,
    connect_timeout: Duration,
    /// What configuration says of tools.
    hints: HashMap<String, ToolHints>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    backoff: Backoff,
    last_error: Option<Arc<ConnectError>>,
    /// How many connections were made.
    made: u64,
    /// What the last server said of its tools. It outlives the connection, because whether a call
    /// may be repeated is asked when the connection is lost.
    said: HashMap<String, ToolHints>,
    /// What was let go and may not have ended yet.
    leaving: Vec<Leaving>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Connecting {
        told: watch::Receiver<Told>,
        /// Dropped with the phase, it ends the attempt.
        _go_on: oneshot::Sender<Infallible>,
    },
    Connected(Arc<Link>),
    /// For good.
    ShutDown,
}

/// An attempt or a connection that is being ended, whatever for.
#[derive(Clone)]
enum Leaving {
    Attempt(watch::Receiver<Told>),
    Link(Weak<Link>),
}

impl Leaving {
    fn is_over(&self) -> bool {
        match self {
            Self::Attempt(told) => told.has_changed().is_err(),
            Self::Link(link) => link.strong_count() == 0,
        }
    }

    async fn over(self) {
        match self {
            // The attempt drops what it has started, and last of all its sender.
            Self::Attempt(mut told) => while told.changed().await.is_ok() {},
            Self::Link(link) => {
                if let Some(link) = link.upgrade() {
                    link.closed().await;
                }
            }
        }
    }
}

impl State {
    /// Goes into another phase. The one before is the caller's to end.
    fn leave_for(&mut self, next: Phase) -> Phase {
        let old = std::mem::replace(&mut self.phase, next);
        self.leaving.retain(|leaving| !leaving.is_over());
        match &old {
            Phase::Connecting { told, .. } => self.leaving.push(Leaving::Attempt(told.clone())),
            Phase::Connected(link) => self.leaving.push(Leaving::Link(Arc::downgrade(link))),
            Phase::Idle | Phase::ShutDown => {}
        }
        old
    }
}

/// The connection as it stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) link: Option<Arc<Link>>,
    pub(crate) connecting: bool,
    pub(crate) shut_down: bool,
    pub(crate) made: u64,
    pub(crate) last_error: Option<Arc<ConnectError>>,
    pub(crate) wait: Option<Duration>,
}

impl Manager {
    pub(crate) fn new(
        name: Arc<str>,
        connector: Connector,
        connect_timeout: Duration,
        hints: HashMap<String, ToolHints>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                connector,
                connect_timeout,
                hints,
                state: Mutex::default(),
            }),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The connection, if there is a live one.
    pub(crate) fn live(&self) -> Option<Arc<Link>> {
        match &self.shared.lock().phase {
            Phase::Connected(link) if !link.is_closed() => Some(link.clone()),
            _ => None,
        }
    }

    /// The connection, made if need be. One attempt serves all who wait, and who stops waiting
    /// leaves it to the others.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, NoLink> {
        let mut told = match self.shared.join() {
            Ok(told) => told,
            Err(settled) => return settled,
        };
        if let Ok(told) = told.wait_for(Option::is_some).await
            && let Some(told) = &*told
        {
            return told.clone();
        }
        // Gone without a word: the attempt was given up for a shutdown or a restart.
        match self.shared.lock().phase {
            Phase::ShutDown => Err(NoLink::ShutDown),
            _ => Err(NoLink::GivenUp),
        }
    }

    /// Lets a connection go on which a request has failed, if the error says that it is lost.
    pub(crate) fn failed(&self, generation: u64, error: &ServiceError) {
        if is_loss(error) {
            self.shared.lost(generation);
        }
    }

    /// What is known of a tool: configuration goes before what the server says.
    pub(crate) fn hints(&self, tool: &str) -> ToolHints {
        if let Some(hints) = self.shared.hints.get(tool) {
            return *hints;
        }
        self.shared
            .lock()
            .said
            .get(tool)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.shared.lock();
        let link = match &state.phase {
            Phase::Connected(link) if !link.is_closed() => Some(link.clone()),
            _ => None,
        };
        Snapshot {
            link,
            connecting: matches!(state.phase, Phase::Connecting { .. }),
            shut_down: matches!(state.phase, Phase::ShutDown),
            made: state.made,
            last_error: state.last_error.clone(),
            wait: state.backoff.wait(Instant::now()),
        }
    }

    /// Ends the connection, if there is one. The next call makes another.
    pub(crate) async fn restart(&self, grace: Duration) {
        let old = {
            let mut state = self.shared.lock();
            if matches!(state.phase, Phase::ShutDown) {
                return;
            }
            state.backoff = Backoff::default();
            state.leave_for(Phase::Idle)
        };
        old.end(grace).await;
    }

    /// Ends the connection, for good, and waits for what is being ended already: by another who
    /// shuts down, for a restart, or after a loss.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let (old, leaving) = {
            let mut state = self.shared.lock();
            (state.leave_for(Phase::ShutDown), state.leaving.clone())
        };
        let over = async {
            for leaving in leaving {
                leaving.over().await;
            }
        };
        let over = timeout(grace.saturating_add(KILLED_WITHIN), over);
        // What was let go earlier keeps the grace it was given, but is not waited for longer.
        let _ = tokio::join!(old.end(grace), over);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // An attempt ends with its phase, a link with the last call that holds it.
        let old = std::mem::replace(&mut self.shared.lock().phase, Phase::ShutDown);
        drop(old);
    }
}

impl Phase {
    async fn end(self, grace: Duration) {
        match self {
            Self::Connecting { told, _go_on } => {
                drop(_go_on);
                let _ = timeout(grace, Leaving::Attempt(told).over()).await;
            }
            Self::Connected(link) => link.close(grace).await,
            Self::Idle | Self::ShutDown => {}
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempt to wait for, started if there is none; or `Err` with what is known already.
    fn join(self: &Arc<Self>) -> Result<watch::Receiver<Told>, Result<Arc<Link>, NoLink>> {
        let (tell, told) = watch::channel(None);
        let (go_on, given_up) = oneshot::channel();
        loop {
            let mut state = self.lock();
            let lost = match &state.phase {
                Phase::Connected(link) if !link.is_closed() => return Err(Ok(link.clone())),
                Phase::Connecting { told, .. } => return Ok(told.clone()),
                Phase::ShutDown => return Err(Err(NoLink::ShutDown)),
                Phase::Connected(link) => link.generation,
                Phase::Idle => {
                    let wait = state.backoff.wait(Instant::now());
                    if let (Some(wait), Some(error)) = (wait, &state.last_error) {
                        return Err(Err(NoLink::Failed(error.clone(), Some(wait))));
                    }
                    state.phase = Phase::Connecting {
                        told: told.clone(),
                        _go_on: go_on,
                    };
                    break;
                }
            };
            drop(state);
            self.lost(lost);
        }
        let attempt = Attempt {
            shared: self.clone(),
            tell,
        };
        // Not under the lock: a runtime that ends drops the attempt here, and that takes the lock.
        tokio::spawn(attempt.run(given_up));
        Ok(told)
    }

    /// Lets a lost connection go. Its remains are reaped in the background.
    fn lost(&self, generation: u64) {
        let mut state = self.lock();
        let link = match &state.phase {
            Phase::Connected(link) if link.generation == generation => link.clone(),
            _ => return,
        };
        state.leave_for(Phase::Idle);
        let now = Instant::now();
        let lived = now.saturating_duration_since(link.since);
        state.backoff.lost(now, lived, fastrand::f64());
        state.last_error = Some(Arc::new(self.error(Connecting::Lost)));
        drop(state);
        let server = &*self.name;
        tracing::warn!(server, ?lived, "the connection to the MCP server was lost");
        tokio::spawn(async move { link.close(LOST_GRACE).await });
    }

    fn error(&self, connecting: Connecting) -> ConnectError {
        ConnectError::new(
            connecting,
            &self.name,
            &self.connector,
            self.connect_timeout,
        )
    }
}

/// Sees a connection's loss when it happens, and not at the next call: what a dead server leaves
/// behind is not left running until then.
async fn keep(
    shared: Weak<Shared>,
    link: Weak<Link>,
    mut over: watch::Receiver<bool>,
    generation: u64,
) {
    tokio::select! {
        _ = over.wait_for(|over| *over) => {}
        () = Link::process_over(link) => {}
    }
    if let Some(shared) = shared.upgrade() {
        shared.lost(generation);
    }
}

/// One attempt to connect. However it ends, those who wait are told and the phase moves on.
struct Attempt {
    shared: Arc<Shared>,
    tell: watch::Sender<Told>,
}

impl Attempt {
    async fn run(self, given_up: oneshot::Receiver<Infallible>) {
        tokio::select! {
            biased;
            _ = given_up => {}
            () = self.connect() => {}
        }
    }

    async fn connect(&self) {
        let Shared {
            name,
            connector,
            connect_timeout,
            ..
        } = &*self.shared;
        let until = saturating_add(Instant::now(), *connect_timeout);
        match connector.connect(name, *connect_timeout).await {
            Ok((client, process)) => {
                let generation = self.shared.lock().made + 1;
                let mut link = Link::new(client, process, generation);
                // A server that lists slowly is a slow start; one that never does is still there.
                let _ = timeout_at(until, link.read_hints()).await;
                self.succeeded(Arc::new(link));
            }
            Err(error) => self.failed(Arc::new(error)),
        }
    }

    fn succeeded(&self, link: Arc<Link>) {
        let mut state = self.shared.lock();
        if !self.is_current(&state) {
            return;
        }
        state.made = link.generation;
        state.last_error = None;
        state.said.clone_from(&link.hints);
        state.phase = Phase::Connected(link.clone());
        drop(state);
        let shared = Arc::downgrade(&self.shared);
        let weak = Arc::downgrade(&link);
        tokio::spawn(keep(shared, weak, link.over(), link.generation));
        tracing::info!(server = %self.shared.name, "connected to the MCP server");
        self.tell.send_replace(Some(Ok(link)));
    }

    fn failed(&self, error: Arc<ConnectError>) {
        let mut state = self.shared.lock();
        if !self.is_current(&state) {
            return;
        }
        let now = Instant::now();
        state.backoff.failed(now, fastrand::f64());
        let wait = state.backoff.wait(now);
        state.last_error = Some(error.clone());
        state.phase = Phase::Idle;
        drop(state);
        tracing::warn!(server = %self.shared.name, %error, "no connection to the MCP server");
        self.tell
            .send_replace(Some(Err(NoLink::Failed(error, wait))));
    }

    /// Whether the manager still waits for this attempt, and not for a later one or none.
    fn is_current(&self, state: &State) -> bool {
        match &state.phase {
            Phase::Connecting { told, .. } => told.same_channel(&self.tell.subscribe()),
            _ => false,
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Where it is still waited for it neither succeeded nor failed: a panic, or a runtime that
        // ends.
        self.failed(Arc::new(self.shared.error(Connecting::BrokeOff)));
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("name", &self.shared.name)
            .field("connector", &self.shared.connector)
            .finish_non_exhaustive()
    }
}
