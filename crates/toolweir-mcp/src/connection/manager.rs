//! The connection's state: who connects, who waits, and what is left when it is lost.

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, SystemTime},
};

use rmcp::{ServiceError, model::Tool};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use toolweir_core::time::saturating_add;

use super::{
    Budget, ConnectError, Connecting, Connector, Link,
    backoff::Backoff,
    catalogue::Hints,
    connector::Attempted,
    dialect::Dialect,
    ending::{Alive, Ended, life},
    is_loss,
    listener::Listener,
    lock,
    place::{Place, Places},
};
use crate::{
    ToolHints,
    classify::{is_session_lost, pause_asked_for},
};

/// A lost connection's process has ended already, or is of no more use.
const LOST_GRACE: Duration = Duration::from_secs(2);
/// A list of tools that changes again and again is not read more often than this.
const READ_EVERY: Duration = Duration::from_secs(5);
/// After the list of tools could not be read, how long until that is tried again.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// After a subscription has ended, how long until there is another.
const SUBSCRIBE_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// What an end may take beyond its grace, until a killed process is seen to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(7);
/// How long a connection that is stopped for idleness has to end.
const IDLE_GRACE: Duration = Duration::from_secs(10);
/// How long a start waits for the end of the process before it: more than any end takes, but for a
/// restart with a long grace.
const PREDECESSOR_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no connection to be had.
#[derive(Debug, Clone)]
pub(crate) enum NoLink {
    /// It could not be made; when it is tried again, if that is put off.
    Failed(Arc<ConnectError>, Option<Duration>),
    /// The attempt was given up for a restart.
    GivenUp,
    /// Nothing was started, because the process before it has not ended in so long a time.
    StillEnding(Duration),
    /// So many others are in use, and there may be no more.
    Full(usize),
    /// It was lost, or could not be made, as often as is allowed: with the last error.
    Spent(Option<Arc<ConnectError>>),
    /// It was shut down for good.
    ShutDown,
}

/// What those who wait for a connection are told.
type Told = Option<Result<Arc<Link>, NoLink>>;

/// What holds for every connection to a server.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    pub(crate) connect_timeout: Duration,
    pub(crate) stop_after_idle: Option<Duration>,
    pub(crate) budget: Option<Budget>,
    pub(crate) max_response_bytes: usize,
    /// What configuration says of tools.
    pub(crate) hints: Hints,
}

/// Owns one connection. The last clone of a service or a handle drops it, and with it the server.
pub(crate) struct Manager {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<Settings>,
    connector: Connector,
    state: Mutex<State>,
    /// What the server said of its tools when it was last asked. It outlives the connection, because
    /// whether a call may be repeated is asked when the connection is lost.
    said: Mutex<Hints>,
    /// Where there may be only so many connections.
    places: Option<Arc<dyn Places>>,
}

struct State {
    phase: Phase,
    backoff: Backoff,
    budget: Option<Budget>,
    /// Whether the next start follows a failure, and so counts as a restart.
    failed: bool,
    dialect: Dialect,
    last_error: Option<Arc<ConnectError>>,
    /// How many connections were made.
    made: u64,
    /// What was let go and may not have ended yet.
    leaving: Vec<Weak<Link>>,
    /// All starts of which an attempt or a process is left, be it in use or on its way out.
    starts: Vec<Ended>,
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
    /// Stopped because nobody called.
    Dormant,
    /// Given up, until somebody resets it.
    Spent,
    /// For good, because another manager takes its place. What it had is left to a shutdown.
    LetGo(Option<Arc<Link>>),
    /// For good.
    ShutDown,
}

/// What a manager knows beside its connection, for the one that takes its place.
pub(super) struct Past(State);

impl Past {
    pub(super) fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    pub(super) fn forget_failures(&mut self) {
        self.0.reset();
    }

    /// Why nothing may be started now.
    pub(super) fn holds_back(&self, now: Instant) -> Option<NoLink> {
        let error = self.0.last_error.as_ref();
        match (&self.0.phase, self.0.backoff.wait(now), error) {
            (Phase::Spent, ..) => Some(NoLink::Spent(error.cloned())),
            (_, wait @ Some(_), Some(error)) => Some(NoLink::Failed(error.clone(), wait)),
            _ => None,
        }
    }

    /// Whether something of it is left.
    pub(super) fn is_ending(&mut self) -> bool {
        !self.0.starts().is_empty()
    }
}

impl State {
    /// Goes into another phase. The one before is the caller's to end.
    fn leave_for(&mut self, next: Phase) -> Phase {
        let old = std::mem::replace(&mut self.phase, next);
        self.leaving.retain(|link| link.strong_count() > 0);
        if let Phase::Connected(link) | Phase::LetGo(Some(link)) = &old {
            self.leaving.push(Arc::downgrade(link));
        }
        old
    }

    fn snapshot(&self) -> Snapshot {
        let link = match &self.phase {
            Phase::Connected(link) if !link.is_closed() => Some(link.clone()),
            _ => None,
        };
        Snapshot {
            link,
            connecting: matches!(self.phase, Phase::Connecting { .. }),
            dormant: matches!(self.phase, Phase::Dormant),
            spent: matches!(self.phase, Phase::Spent),
            shut_down: matches!(self.phase, Phase::ShutDown),
            made: self.made,
            last_error: self.last_error.clone(),
            wait: self.backoff.wait(Instant::now()),
        }
    }

    fn reset(&mut self) {
        self.forget_failures();
        if matches!(self.phase, Phase::Spent) {
            self.phase = Phase::Idle;
        }
    }

    /// The starts so far of which something is left.
    fn starts(&mut self) -> Vec<Ended> {
        self.starts.retain(|start| !start.is_over());
        self.starts.clone()
    }

    fn forget_failures(&mut self) {
        self.backoff = Backoff::default();
        self.failed = false;
        if let Some(budget) = &mut self.budget {
            budget.reset();
        }
    }

    /// Whether a start is allowed now. One that follows a failure is taken out of the budget; where
    /// that is spent the server is given up.
    fn may_start(&mut self, now: Instant) -> Result<(), NoLink> {
        let wait = self.backoff.wait(now);
        if let (Some(wait), Some(error)) = (wait, &self.last_error) {
            return Err(NoLink::Failed(error.clone(), Some(wait)));
        }
        if self.failed
            && let Some(budget) = &mut self.budget
            && !budget.take(now)
        {
            self.phase = Phase::Spent;
            return Err(NoLink::Spent(self.last_error.clone()));
        }
        Ok(())
    }

    /// Nothing was started after all.
    fn did_not_start(&mut self) {
        if let Some(budget) = &mut self.budget
            && self.failed
        {
            budget.give_back();
        }
    }
}

/// The connection as it stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) link: Option<Arc<Link>>,
    pub(crate) connecting: bool,
    pub(crate) dormant: bool,
    pub(crate) spent: bool,
    pub(crate) shut_down: bool,
    pub(crate) made: u64,
    pub(crate) last_error: Option<Arc<ConnectError>>,
    pub(crate) wait: Option<Duration>,
}

impl Manager {
    /// A connection that is made when it is asked for. It takes the place of one with this `past`.
    pub(super) fn new(
        settings: Arc<Settings>,
        connector: Connector,
        past: Option<Past>,
        places: Option<Arc<dyn Places>>,
    ) -> Self {
        let state = past.map_or_else(
            || State {
                phase: Phase::Idle,
                backoff: Backoff::default(),
                budget: settings.budget.clone(),
                failed: false,
                dialect: Dialect::default(),
                last_error: None,
                made: 0,
                leaving: Vec::new(),
                starts: Vec::new(),
            },
            |Past(state)| state,
        );
        Self {
            shared: Arc::new(Shared {
                settings,
                connector,
                state: Mutex::new(state),
                said: Mutex::default(),
                places,
            }),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.shared.settings.name
    }

    /// What is known of a tool: configuration goes before what the server says.
    pub(crate) fn hints(&self, tool: &str) -> ToolHints {
        let configured = self.shared.settings.hints.get(tool).copied();
        let said = || self.shared.said().get(tool).copied();
        configured.or_else(said).unwrap_or_default()
    }

    /// The server's tools, as [`Link::tools`] has them. What is known of each is known from these.
    pub(crate) async fn tools(&self, link: &Link) -> Result<Arc<Vec<Tool>>, ServiceError> {
        let tools = link.tools().await?;
        if let Some(hints) = link.hints() {
            *self.shared.said() = hints;
        }
        Ok(tools)
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
        // Over HTTP the stream of one answer may break off, which is no end of the others.
        let lost = is_loss(error) && !(self.shared.connector.is_http() && self.live().is_some());
        if lost || is_session_lost(error) {
            self.shared.lost(generation);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot()
    }

    /// Whether it was let go or shut down, and nothing of it is left.
    pub(super) fn has_ended(&self) -> bool {
        let mut state = self.shared.lock();
        let over = matches!(state.phase, Phase::LetGo(None) | Phase::ShutDown);
        let mut links = state.leaving.iter();
        over && links.all(|link| link.strong_count() == 0) && state.starts().is_empty()
    }

    /// Whether it was let go, or shut down.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::LetGo(_) | Phase::ShutDown)
    }

    /// Makes no more connections, because another takes its place: with what this returns. What there
    /// is lives on until a [`shut_down`](Self::shut_down).
    pub(super) fn let_go(&self) -> Past {
        // A loss that nobody has seen yet is one.
        let lost = match &self.shared.lock().phase {
            Phase::Connected(link) if link.is_closed() => Some(link.generation),
            _ => None,
        };
        if let Some(generation) = lost {
            self.shared.lost(generation);
        }
        let mut state = self.shared.lock();
        let old = std::mem::replace(&mut state.phase, Phase::LetGo(None));
        let phase = match old {
            Phase::Connected(link) => {
                state.backoff.stopped(link.lived());
                state.phase = Phase::LetGo(Some(link));
                Phase::Idle
            }
            Phase::Spent => Phase::Spent,
            // An attempt is given up with its phase.
            _ => Phase::Idle,
        };
        Past(State {
            phase,
            backoff: state.backoff,
            budget: state.budget.clone(),
            failed: state.failed,
            dialect: state.dialect,
            last_error: state.last_error.clone(),
            made: state.made,
            leaving: Vec::new(),
            starts: state.starts(),
        })
    }

    /// Ends the connection, if there is one. The next call makes another.
    pub(crate) async fn restart(&self, grace: Duration) {
        let (old, starts) = {
            let mut state = self.shared.lock();
            if matches!(state.phase, Phase::LetGo(_) | Phase::ShutDown) {
                return;
            }
            state.forget_failures();
            (state.leave_for(Phase::Idle), state.starts())
        };
        old.end(grace).await;
        let _ = timeout(KILLED_WITHIN, all_over(starts)).await;
    }

    /// Forgets the failures so far, and what followed from them.
    pub(crate) fn reset(&self) {
        self.shared.lock().reset();
    }

    /// Ends the connection, for good, and waits for what is being ended already: by another who
    /// shuts down, for a restart, or after a loss.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let (old, leaving, starts) = {
            let mut state = self.shared.lock();
            let old = state.leave_for(Phase::ShutDown);
            (old, state.leaving.clone(), state.starts())
        };
        let over = async {
            // All of them at once, or the last would not know how little time it has.
            let links = leaving.iter().filter_map(Weak::upgrade);
            let ends = links.map(|link| tokio::spawn(async move { link.close(grace).await }));
            for ended in Vec::from_iter(ends) {
                let _ = ended.await;
            }
            all_over(starts).await;
        };
        let over = timeout(grace.saturating_add(KILLED_WITHIN), over);
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
            Self::Connected(link) | Self::LetGo(Some(link)) => link.close(grace).await,
            // An attempt is given up with its phase.
            _ => {}
        }
    }
}

async fn all_over(starts: Vec<Ended>) {
    for start in starts {
        start.over().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn said(&self) -> MutexGuard<'_, Hints> {
        lock(&self.said)
    }

    /// The attempt to wait for, started if there is none; or `Err` with what is known already.
    fn join(self: &Arc<Self>) -> Result<watch::Receiver<Told>, Result<Arc<Link>, NoLink>> {
        let (tell, told) = watch::channel(None);
        let (go_on, given_up) = oneshot::channel();
        let (alive, ended) = life();
        let before = loop {
            let mut state = self.lock();
            let lost = match &state.phase {
                Phase::Connected(link) if !link.is_closed() => return Err(Ok(link.clone())),
                Phase::Connecting { told, .. } => return Ok(told.clone()),
                Phase::LetGo(_) => return Err(Err(NoLink::GivenUp)),
                Phase::ShutDown => return Err(Err(NoLink::ShutDown)),
                Phase::Spent => return Err(Err(NoLink::Spent(state.last_error.clone()))),
                Phase::Connected(link) => link.generation,
                Phase::Idle | Phase::Dormant => {
                    if let Err(none) = state.may_start(Instant::now()) {
                        drop(state);
                        self.log_if_given_up(&none);
                        return Err(Err(none));
                    }
                    state.phase = Phase::Connecting {
                        told: told.clone(),
                        _go_on: go_on,
                    };
                    let before = state.starts();
                    state.starts.push(ended);
                    break before;
                }
            };
            drop(state);
            self.lost(lost);
        };
        let attempt = Attempt {
            shared: self.clone(),
            tell,
            alive,
        };
        // Not under the lock: a runtime that ends drops the attempt here, and that takes the lock.
        tokio::spawn(attempt.run(given_up, before));
        Ok(told)
    }

    fn log_if_given_up(&self, none: &NoLink) {
        if let NoLink::Spent(error) = none {
            let (server, error) = (&*self.settings.name, error.as_deref());
            let error = error.map(tracing::field::display);
            tracing::error!(
                server,
                error,
                "the MCP server was restarted too often and is given up until a reset"
            );
        }
    }

    /// Lets a lost connection go. Its remains are reaped in the background.
    fn lost(&self, generation: u64) {
        let mut state = self.lock();
        let link = match &state.phase {
            Phase::Connected(link) if link.generation == generation => link.clone(),
            _ => return,
        };
        state.leave_for(Phase::Idle);
        let lived = link.lived();
        state.backoff.lost(Instant::now(), lived, fastrand::f64());
        state.failed = true;
        state.last_error = Some(Arc::new(self.error(Connecting::Lost)));
        drop(state);
        let server = &*self.settings.name;
        tracing::warn!(server, ?lived, "the connection to the MCP server was lost");
        tokio::spawn(async move { link.close(LOST_GRACE).await });
    }

    fn error(&self, connecting: Connecting) -> ConnectError {
        let Settings {
            name,
            connect_timeout,
            ..
        } = &*self.settings;
        ConnectError::new(connecting, name, &self.connector, *connect_timeout)
    }

    /// Stops a connection that nobody uses.
    fn stop_idle(&self, generation: u64) {
        let mut state = self.lock();
        let link = match &state.phase {
            Phase::Connected(link) if link.generation == generation && link.close_if_idle() => {
                link.clone()
            }
            _ => return,
        };
        state.backoff.stopped(link.lived());
        state.leave_for(Phase::Dormant);
        drop(state);
        tracing::info!(server = %self.settings.name, "stopped the idle MCP server");
        tokio::spawn(async move { link.close(IDLE_GRACE).await });
    }

    /// Reads what the server says of its tools; `false` if it does not answer, which says nothing new.
    async fn read_hints(&self, link: &Link) -> bool {
        match link.read_hints().await {
            Ok(Some(hints)) => *self.said() = hints,
            Ok(None) => {}
            Err(_) => return false,
        }
        true
    }
}

/// Looks after a connection while it lives: reads its tools again when they change, stops it when it
/// idles, and sees its loss when it happens and not at the next call, so that what a dead server
/// leaves behind is not left running until then.
async fn keep(
    shared: Weak<Shared>,
    link: Weak<Link>,
    mut over: watch::Receiver<bool>,
    generation: u64,
    stop_after: Option<Duration>,
    listed: bool,
) {
    let mut idle = pin!(Link::idle_for(link.clone(), stop_after));
    let mut reading = pin!(read_on(shared.clone(), link.clone(), listed));
    let mut listening = pin!(listen_on(link.clone()));
    loop {
        tokio::select! {
            biased;
            () = ends(&mut over) => break,
            () = Link::process_over(link.clone()) => break,
            () = &mut idle => {
                if let Some(shared) = shared.upgrade() {
                    shared.stop_idle(generation);
                }
                // One that is called at this very moment goes on.
                idle.set(Link::idle_for(link.clone(), stop_after));
            }
            () = &mut reading => {}
            () = &mut listening => {}
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.lost(generation);
    }
}

async fn ends(over: &mut watch::Receiver<bool>) {
    // Whoever could say so being gone is an end too.
    let _ = over.wait_for(|over| *over).await;
}

/// Reads the list of tools again whenever it is outdated, or could not be read, as long as there is a
/// connection. `answered` says whether the first reading was.
async fn read_on(shared: Weak<Shared>, link: Weak<Link>, mut answered: bool) {
    // It has listened since before the first reading, and goes on while it reads: what changes then
    // is read again.
    let Some(mut changes) = link.upgrade().map(|link| link.changes()) else {
        return pending().await;
    };
    loop {
        // A server that changes its mind all the time is not asked all the time.
        if answered {
            let pause = sleep(READ_EVERY);
            Link::outdated(&link, &mut changes).await;
            pause.await;
        } else {
            sleep(READ_AGAIN_AFTER).await;
        }
        let (Some(shared), Some(link)) = (shared.upgrade(), link.upgrade()) else {
            return pending().await;
        };
        changes.borrow_and_update();
        let reading = shared.read_hints(&link);
        let reading = timeout(shared.settings.connect_timeout, reading).await;
        answered = reading.unwrap_or(false);
    }
}

/// Hears of changes of the tools where a server tells of them to subscribers alone, as those of
/// 2026-07-28 do. Elsewhere they come unasked.
async fn listen_on(link: Weak<Link>) {
    loop {
        let Some(subscribing) = link.upgrade().and_then(|link| link.subscribe()) else {
            return pending().await;
        };
        subscribing.await;
        // It ended, or was not taken. A server that does so all the time is not asked all the time.
        sleep(SUBSCRIBE_AGAIN_AFTER).await;
    }
}

/// One attempt to connect. However it ends, those who wait are told and the phase moves on.
struct Attempt {
    shared: Arc<Shared>,
    tell: watch::Sender<Told>,
    /// Dropped last, when nothing can be started any more.
    alive: Alive,
}

impl Attempt {
    async fn run(self, given_up: oneshot::Receiver<Infallible>, before: Vec<Ended>) {
        tokio::select! {
            biased;
            _ = given_up => {}
            () = self.connect(before) => {}
        }
    }

    async fn connect(&self, before: Vec<Ended>) {
        // Two processes would serve at once, and fight over what both hold. This has a time of its own: it
        // is no fault of the server's that is to be started.
        let alone = timeout(PREDECESSOR_WITHIN, all_over(before)).await;
        if alone.is_err() {
            return self.predecessor_stays();
        }
        let settings = &*self.shared.settings;
        let until = saturating_add(Instant::now(), settings.connect_timeout);
        let mut dialect = self.shared.lock().dialect;
        let listener = Listener::default();
        let attempted = Attempted {
            server: &settings.name,
            within: settings.connect_timeout,
            until,
            most_bytes: settings.max_response_bytes,
            listener: listener.clone(),
            alive: self.alive.clone(),
            // It is left at the end of this, when there is a connection or none.
            place: Place::new(self.shared.places.clone()),
        };
        let connecting = self.shared.connector.connect(&attempted, &mut dialect);
        match connecting.await {
            Ok((client, process)) => {
                let generation = self.shared.lock().made + 1;
                let link = Link::new(client, process, listener, generation);
                // A server that lists slowly is a slow start; one that never does is still there.
                let listed = timeout_at(until, self.shared.read_hints(&link)).await;
                self.succeeded(Arc::new(link), dialect, listed.unwrap_or(false));
            }
            Err(error) => match &self.shared.places {
                Some(places) if attempted.place.is_refused() => {
                    self.did_not_start(NoLink::Full(places.most()));
                }
                _ => self.failed(Arc::new(error)),
            },
        }
    }

    /// Nothing was started, by no fault of the server's: nothing is put off, or paid for.
    fn did_not_start(&self, why: NoLink) {
        let mut state = self.shared.lock();
        if !self.is_current(&state) {
            return;
        }
        state.did_not_start();
        state.phase = Phase::Idle;
        drop(state);
        self.tell.send_replace(Some(Err(why)));
    }

    fn predecessor_stays(&self) {
        let (server, waited) = (&*self.shared.settings.name, PREDECESSOR_WITHIN);
        tracing::warn!(
            server,
            ?waited,
            "the MCP server is not started: the process before it has not ended"
        );
        self.did_not_start(NoLink::StillEnding(waited));
    }

    /// There is a connection. Where its tools were not `listed` they are asked for again.
    fn succeeded(&self, link: Arc<Link>, dialect: Dialect, listed: bool) {
        let mut state = self.shared.lock();
        if !self.is_current(&state) {
            return;
        }
        state.made = link.generation;
        state.last_error = None;
        state.failed = false;
        state.dialect = dialect;
        state.phase = Phase::Connected(link.clone());
        drop(state);
        let settings = &self.shared.settings;
        tokio::spawn(keep(
            Arc::downgrade(&self.shared),
            Arc::downgrade(&link),
            link.over(),
            link.generation,
            settings.stop_after_idle,
            listed,
        ));
        tracing::info!(server = %settings.name, "connected to the MCP server");
        self.tell.send_replace(Some(Ok(link)));
    }

    fn failed(&self, error: Arc<ConnectError>) {
        let asked = pause_asked_for(&error, SystemTime::now());
        let mut state = self.shared.lock();
        if !self.is_current(&state) {
            return;
        }
        let now = Instant::now();
        state.backoff.failed(now, asked, fastrand::f64());
        state.failed = true;
        let wait = state.backoff.wait(now);
        state.last_error = Some(error.clone());
        state.phase = Phase::Idle;
        drop(state);
        tracing::warn!(server = %self.shared.settings.name, %error, "no connection to the MCP server");
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
            .field("name", self.name())
            .field("connector", &self.shared.connector)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use toolweir_testkit::mcp::ScriptedServer;

    use super::*;
    use crate::connection::Factory;

    const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    fn manager(server: &ScriptedServer) -> Manager {
        let settings = Settings {
            name: "music".into(),
            connect_timeout: CONNECT_TIMEOUT,
            stop_after_idle: None,
            budget: Some(Budget::new(1, Duration::from_secs(3600))),
            max_response_bytes: 1 << 20,
            hints: HashMap::new(),
        };
        let server = server.clone();
        let factory = Factory::new(move || {
            let stream = server.connect();
            async move { Ok(stream) }
        });
        Manager::new(Arc::new(settings), Connector::Factory(factory), None, None)
    }

    /// As if a process of an earlier start were there until this is dropped.
    fn process_before(manager: &Manager) -> Alive {
        let (alive, ended) = life();
        manager.shared.lock().starts.push(ended);
        alive
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_connect_begins_when_the_process_before_has_ended() {
        let server = ScriptedServer::new();
        server.start_delay(CONNECT_TIMEOUT * 9 / 10);
        let manager = manager(&server);
        let before = process_before(&manager);
        let ends = async {
            sleep(CONNECT_TIMEOUT * 2).await;
            assert_eq!(server.stats().connections, 0);
            drop(before);
        };
        let (link, ()) = tokio::join!(manager.link(), ends);
        link.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_where_a_steady_connection_makes_room() {
        for (lived, expected) in [(1, 30_000), (60, 250)] {
            let manager = manager(&ScriptedServer::new());
            for _ in 0..10 {
                let now = Instant::now();
                manager.shared.lock().backoff.failed(now, None, 1.0);
            }
            sleep(Duration::from_secs(30)).await;
            manager.link().await.unwrap();
            sleep(Duration::from_secs(lived)).await;
            let Past(mut past) = manager.let_go();
            let now = Instant::now();
            past.backoff.failed(now, None, 1.0);
            let wait = past.backoff.wait(now);
            assert_eq!(wait, Some(Duration::from_millis(expected)), "{lived}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_paid_for_a_process_before_that_does_not_end() {
        let server = ScriptedServer::new();
        let manager = manager(&server);
        // The last connection was lost, so the next start is a restart.
        manager.shared.lock().failed = true;
        let before = process_before(&manager);
        for _ in 0..5 {
            let none = manager.link().await.unwrap_err();
            assert!(matches!(none, NoLink::StillEnding(_)), "{none:?}");
            assert_eq!(manager.snapshot().wait, None);
        }
        assert_eq!(server.stats().connections, 0);
        drop(before);
        manager.link().await.unwrap();
        assert_eq!(manager.shared.lock().starts.len(), 1);
    }
}
