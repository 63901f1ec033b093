//! Reading and operating a connection.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use rmcp::{
    Peer, RoleClient, ServiceError,
    model::{ClientRequest, PingRequest, Tool},
};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};
use toolweir_core::{
    Delivery, ReportState, StateReport,
    time::{millis, millis_ceil},
};

use crate::{
    ToolError, ToolHints, classify,
    connection::{Link, Manager, NoLink, NoManager, Pool, Snapshot},
    request,
    service::{LAYER, no_manager, unavailable},
};

/// So many connections are asked for a sign of life at once.
const MOST_PINGS: usize = 16;

/// Reads a connection's state and operates it. Cheap to clone; clones share the connection.
///
/// Where each principal has a connection of its own, this handle stands for all of them:
/// [`states`](Self::states) lists them, [`restart`](Self::restart), [`reset`](Self::reset) and
/// [`shutdown`](Self::shutdown) operate them all, and [`for_principal`](Self::for_principal) is the
/// handle on one. Nothing but a call keeps a connection from making room for another's.
#[derive(Clone)]
pub struct McpHandle {
    pub(crate) pool: Arc<Pool>,
    /// Whose connection it is, where each principal has one.
    pub(crate) principal: Option<Arc<str>>,
}

/// A connection's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct McpState {
    /// The server's name.
    pub server: String,
    /// Whose connection it is, where each principal has one.
    pub principal: Option<String>,
    /// Whether there is a live connection.
    pub connected: bool,
    /// Whether one is being made.
    pub connecting: bool,
    /// Whether it was stopped because nobody called: the next call starts it.
    pub dormant: bool,
    /// Whether it was restarted too often, and is given up until a reset.
    pub given_up: bool,
    /// How many calls are under way.
    pub calls: usize,
    /// Whether the connection was shut down for good.
    pub shut_down: bool,
    /// How many connections were made.
    pub starts: u64,
    /// The server's process, where it is one of ours.
    pub process_id: Option<u32>,
    /// How long there has been a connection.
    pub age_ms: Option<u64>,
    /// Why there was none the last time.
    pub last_error: Option<String>,
    /// When one is tried again, if that is put off.
    pub retry_after_ms: Option<u64>,
}

impl McpHandle {
    /// The server's name.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.pool.settings.name
    }

    /// The handle on one principal's connection. Where all share one, it is a handle on that.
    #[must_use]
    pub fn for_principal(&self, principal: impl Into<Arc<str>>) -> Self {
        Self {
            pool: self.pool.clone(),
            principal: Some(principal.into()),
        }
    }

    /// Whether each principal has a connection of its own.
    #[must_use]
    pub fn is_per_principal(&self) -> bool {
        self.pool.is_per_principal()
    }

    /// The connection's state, all of one moment. One that nobody has asked for yet is not connected.
    #[must_use]
    pub fn state(&self) -> McpState {
        self.state_of(self.principal(), self.pool.snapshot(self.principal()))
    }

    /// The states of all connections there are.
    #[must_use]
    pub fn states(&self) -> Vec<McpState> {
        let all = self.pool.all().into_iter();
        all.map(|(principal, manager)| self.state_of(principal.as_deref(), manager.snapshot()))
            .collect()
    }

    fn state_of(&self, principal: Option<&str>, snapshot: Snapshot) -> McpState {
        let now = Instant::now();
        let link = snapshot.link.as_ref();
        McpState {
            server: self.server().to_owned(),
            principal: principal.map(str::to_owned),
            connected: link.is_some(),
            connecting: snapshot.connecting,
            dormant: snapshot.dormant,
            given_up: snapshot.spent,
            calls: link.map_or(0, |link| link.under_way()),
            shut_down: snapshot.shut_down,
            starts: snapshot.made,
            process_id: link.and_then(|link| link.process_id()),
            age_ms: link.map(|link| millis(now.saturating_duration_since(link.since))),
            last_error: snapshot.last_error.map(|error| error.to_string()),
            retry_after_ms: snapshot.wait.map(millis_ceil),
        }
    }

    /// Which connection there is: a number that changes when it is lost and when it is made anew.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let manager = self.pool.existing(self.principal());
        let link = manager.and_then(|manager| manager.live());
        link.map_or(0, |link| link.generation)
    }

    /// What is known of a tool, from configuration or from the server.
    ///
    /// Where each principal has a connection of its own, each has a server of its own too, which says
    /// what it likes. This is what the principal's own has said; of a handle on all of them it is the
    /// least repeatable of what those have said that there are.
    #[must_use]
    pub fn hints(&self, tool: &str) -> ToolHints {
        self.pool.hints(self.principal(), tool)
    }

    /// Returns once there is a connection. Where each principal has one, and this handle is on none of
    /// them, there is nothing to connect.
    ///
    /// # Errors
    ///
    /// As a call: the server cannot be reached, or was shut down.
    pub async fn connect(&self) -> Result<(), ToolError> {
        if self.stands_for_all() {
            return self.not_shut_down();
        }
        self.link().await?;
        Ok(())
    }

    /// Asks the server for a sign of life, which costs no quota. It connects if need be. A handle on
    /// all principals' connections asks those that are there, several at once; none of them is kept by
    /// this from making room for another.
    ///
    /// # Errors
    ///
    /// There is no connection, or it fails. Of several all are asked, and one that fails is an error.
    /// One that an HTTP server answers with 401, 403 or 429 is an error that says so by its
    /// [`observation`](ToolError::observation). Bring a timeout: a server that hangs does not answer.
    pub async fn ping(&self) -> Result<(), ToolError> {
        if self.stands_for_all() {
            return self.ping_all().await;
        }
        let (manager, link) = self.link().await?;
        let ping = Ping::new(&manager, &link);
        drop((manager, link));
        let answer = ping.ask().await;
        answer.map_err(|error| self.transport(error))
    }

    async fn ping_all(&self) -> Result<(), ToolError> {
        self.not_shut_down()?;
        let live = self.pool.all().into_iter();
        let live = live.filter_map(|(_, manager)| Some(Ping::new(&manager, &*manager.live()?)));
        let mut pings = Vec::from_iter(live).into_iter();
        let mut asked = JoinSet::new();
        let mut failed = None;
        loop {
            while asked.len() < MOST_PINGS
                && let Some(ping) = pings.next()
            {
                asked.spawn(ping.ask_if_there());
            }
            match asked.join_next().await {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => failed = failed.or(Some(error)),
                // It has panicked, which is said, or the runtime ends.
                Some(Err(_)) => failed = failed.or(Some(ServiceError::TransportClosed)),
            }
        }
        match failed {
            Some(error) => Err(self.transport(error)),
            None => self.not_shut_down(),
        }
    }

    /// The server's tools, the first ten thousand of them, and no more than 32 MiB. They are read from
    /// the server, unless it has said that its last list still holds; so this is no sign of life. What
    /// was read is what [`hints`](Self::hints) goes by from then on.
    ///
    /// # Errors
    ///
    /// There is no connection, or it fails.
    pub async fn list_tools(&self) -> Result<Vec<Tool>, ToolError> {
        let (manager, link) = self.link().await?;
        let tools = manager.tools(&link).await.map_err(|error| {
            manager.failed(link.generation, &error);
            self.transport(error)
        })?;
        Ok(Arc::unwrap_or_clone(tools))
    }

    /// Ends the connection, and with it the server if it is a process of ours. The next call starts
    /// it again, once it has ended.
    ///
    /// Calls under way get up to half of `grace`; those that take longer end as with a lost
    /// connection. In what is left the server's input is closed, then it is asked to end, then it is
    /// killed with all that it has started.
    ///
    /// A server that cannot renew its token any more is often cured by this.
    pub async fn restart(&self, grace: Duration) {
        let mut ends = JoinSet::new();
        for manager in self.managers() {
            ends.spawn(async move { manager.restart(grace).await });
        }
        self.pool.forget_failures(self.principal());
        ends.join_all().await;
    }

    /// Forgets the failures so far: the next call tries to connect at once, and a server that was given
    /// up is started again.
    pub fn reset(&self) {
        for manager in self.managers() {
            manager.reset();
        }
        self.pool.forget_failures(self.principal());
    }

    /// As [`restart`](Self::restart), but for good, and for every principal: later calls are refused.
    /// It returns when nothing is left, also of a server that a restart or a loss is still ending. Once
    /// begun it goes on, also if it is no longer waited for.
    ///
    /// A handle on one principal's connection ends that one and no other, as when its user logs out.
    /// That is not for good: the principal's next call makes a new one when this one has ended, and it
    /// makes it from nothing, credentials included, where a restart keeps them. Whoever shall have none
    /// any more is for the closure to refuse that makes the way for each principal.
    pub async fn shutdown(&self, grace: Duration) {
        match self.principal() {
            Some(principal) => self.pool.end_one(principal, grace).await,
            None => self.pool.shut_down(grace).await,
        }
    }

    fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    fn stands_for_all(&self) -> bool {
        self.pool.is_per_principal() && self.principal.is_none()
    }

    fn managers(&self) -> Vec<Arc<Manager>> {
        if self.stands_for_all() {
            let all = self.pool.all().into_iter();
            all.map(|(_, manager)| manager).collect()
        } else {
            Vec::from_iter(self.pool.existing(self.principal()))
        }
    }

    async fn link(&self) -> Result<(Arc<Manager>, Arc<Link>), ToolError> {
        let name = &self.pool.settings.name;
        let manager = self.pool.manager(self.principal());
        let manager = manager.map_err(|none| no_manager(name, none))?;
        let link: Result<_, NoLink> = manager.link().await;
        let link = link.map_err(|no_link| unavailable(name, no_link))?;
        Ok((manager, link))
    }

    fn not_shut_down(&self) -> Result<(), ToolError> {
        match self.pool.is_shut_down() {
            true => Err(no_manager(&self.pool.settings.name, NoManager::ShutDown)),
            false => Ok(()),
        }
    }

    fn transport(&self, error: ServiceError) -> ToolError {
        ToolError::Transport {
            server: self.pool.settings.name.clone(),
            delivery: Delivery::Ambiguous,
            observed: classify::of_request(&error),
            source: classify::source_of(error),
        }
    }
}

/// A question to one connection, which keeps neither it nor its manager alive.
struct Ping {
    manager: Weak<Manager>,
    peer: Peer<RoleClient>,
    generation: u64,
}

impl Ping {
    fn new(manager: &Arc<Manager>, link: &Link) -> Self {
        Self {
            manager: Arc::downgrade(manager),
            peer: link.peer().clone(),
            generation: link.generation,
        }
    }

    async fn ask(&self) -> Result<(), ServiceError> {
        let ping = ClientRequest::PingRequest(PingRequest::default());
        match request::ask(&self.peer, ping).await {
            // A server that knows no ping has answered.
            Ok(_) | Err(ServiceError::McpError(_)) => Ok(()),
            Err(error) => {
                if let Some(manager) = self.manager.upgrade() {
                    manager.failed(self.generation, &error);
                }
                Err(error)
            }
        }
    }

    /// As [`ask`](Self::ask), but one that has made room for another meanwhile is no failure.
    async fn ask_if_there(self) -> Result<(), ServiceError> {
        let answer = self.ask().await;
        let manager = self.manager.upgrade();
        match manager.is_none_or(|manager| manager.is_over()) {
            true => Ok(()),
            false => answer,
        }
    }
}

/// Not ready only while a connection is put off or shut down: one that is not made yet is made by
/// the next call.
impl ReportState for McpHandle {
    fn report(&self) -> StateReport {
        let state = self.state();
        let mut report = StateReport::ready(LAYER);
        if state.shut_down {
            report.ready = false;
            report.reason = Some(format!("MCP server {:?} was shut down", state.server));
        } else if state.given_up {
            report.ready = false;
            let last = state.last_error.unwrap_or_default();
            report.reason = Some(format!("restarted too often, until a reset: {last}"));
        } else if !state.connected && state.retry_after_ms.is_some() {
            report.ready = false;
            report.reason = state.last_error;
            report.retry_after_ms = state.retry_after_ms;
        }
        report
    }
}

impl fmt::Debug for McpHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpHandle").field(&self.pool).finish()
    }
}
