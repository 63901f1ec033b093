//! The handle on a scripted server.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::ProtocolVersion;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::time::Instant;

use super::answer::Answer;
use super::fault::Fault;
use super::handler::serve;
use super::link::Link;
use super::state::{OnDeath, State};
use super::stats::{Stats, StatsFile};

/// How much either side of an in-memory connection may write ahead, in bytes.
const WRITE_AHEAD: usize = 64 * 1024;

/// An MCP server that does what it is told. Clones are one server: they share the script, the
/// token and the counters, as do all its connections.
#[derive(Debug, Clone)]
pub struct ScriptedServer {
    state: Arc<State>,
}

impl Default for ScriptedServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptedServer {
    /// A server with an empty script: every tool answers by itself, the token lives for an hour.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(State::new(OnDeath::Cut, None)),
        }
    }

    /// A server that is a process.
    pub(super) fn process(file: Option<StatsFile>) -> Self {
        Self {
            state: Arc::new(State::new(OnDeath::Exit, file)),
        }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Opens a connection and returns the client's end. Each has a server task of its own, which
    /// ends with the connection.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(WRITE_AHEAD);
        if self.state.script().refuse_connections {
            self.state.record(|stats| stats.refused_connections += 1);
            return client;
        }
        let link = Link::new(server, Arc::clone(&self.state));
        self.state.add_link(&link);
        tokio::spawn(serve(Arc::clone(&self.state), link));
        client
    }

    /// Drops the server's end of every open connection at once, as the end of a process does. When
    /// this returns no client gets anything more than is in its buffer.
    pub fn kill_connections(&self) {
        self.state.cut_links();
    }

    /// How long `initialize` takes from now on (or `server/discover`, here and in what follows). The
    /// server reads nothing meanwhile, so a client that gives up is noticed afterwards.
    pub fn start_delay(&self, delay: Duration) -> &Self {
        self.state.script().start_delay = delay;
        self
    }

    /// Whether `initialize` is left without an answer. One that hangs goes on hanging when this is
    /// switched off.
    pub fn hang_in_handshake(&self, hang: bool) -> &Self {
        self.state.script().hang_in_handshake = hang;
        self
    }

    /// Whether the connection drops at `initialize`.
    pub fn die_in_handshake(&self, die: bool) -> &Self {
        self.state.script().die_in_handshake = die.then_some(1);
        self
    }

    /// What happens to the stream at `initialize`, before the answer.
    pub fn strike_in_handshake(&self, fault: impl Into<Option<Fault>>) -> &Self {
        self.state.script().fault_in_handshake = fault.into();
        self
    }

    /// The one version of the protocol that the server knows, such as `2026-07-28`, which has no
    /// `initialize`, or one that nobody else knows. `None`: all that rmcp knows.
    pub fn speaks_only<'a>(&self, version: impl Into<Option<&'a str>>) -> &Self {
        self.state.script().version = version.into().map(protocol_version);
        self
    }

    /// Does this to every open connection that is a stream, and returns when it is done. It waits for
    /// a client that does not read.
    pub async fn strike(&self, fault: &Fault) {
        self.state.strike_links(fault).await;
    }

    /// Whether a new connection is closed before anything is read from it.
    pub fn refuse_connections(&self, refuse: bool) -> &Self {
        self.state.script().refuse_connections = refuse;
        self
    }

    /// Whether pings are left without an answer.
    pub fn hang_pings(&self, hang: bool) -> &Self {
        self.state.script().hang_pings = hang;
        self
    }

    /// Adds answers for the next calls, in order, of any tool but `token_status`, `refresh_token`
    /// and `stats`.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) -> &Self {
        let answers: Vec<_> = answers.into_iter().collect();
        self.state.script().answers.extend(answers);
        self
    }

    /// Adds answers for the next calls of this tool, whichever it is. They come before the general
    /// script, and use none of it up.
    pub fn script_tool(&self, tool: &str, answers: impl IntoIterator<Item = Answer>) -> &Self {
        // Collected first: an iterator is the caller's code, and runs without the lock.
        let answers: Vec<_> = answers.into_iter().collect();
        let mut script = self.state.script();
        let by_tool = script.by_tool.entry(tool.to_owned()).or_default();
        by_tool.extend(answers);
        drop(script);
        self
    }

    /// Forgets the answers that no call has had yet.
    pub fn clear_script(&self) -> &Self {
        let mut script = self.state.script();
        script.answers.clear();
        script.by_tool.clear();
        drop(script);
        self
    }

    /// The token lives so long from now, and so does every one that a refresh gives.
    pub fn token_life(&self, life: Duration) -> &Self {
        let now = Instant::now();
        self.state.script().token.set_life(life, now);
        self
    }

    /// The token is expired until the next refresh.
    pub fn expire_token(&self) -> &Self {
        self.state.script().token.expire();
        self
    }

    /// How long `refresh_token` takes.
    pub fn refresh_delay(&self, delay: Duration) -> &Self {
        self.state.script().refresh_delay = delay;
        self
    }

    /// Whether `refresh_token` is answered with `invalid_grant`.
    pub fn reject_refresh(&self, reject: bool) -> &Self {
        self.state.script().reject_refresh = reject;
        self
    }

    /// What the server has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.stats()
    }

    /// Waits until the stats meet a condition, and returns them as they were then. A state that
    /// is over before this looks is not seen: wait for counts, which only grow.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Stats) -> bool) -> Stats {
        let mut watch = self.state.watch();
        loop {
            let stats = watch.borrow_and_update().clone();
            if condition(&stats) {
                return stats;
            }
            // The sender is ours, so this cannot fail.
            let _ = watch.changed().await;
        }
    }
}

/// rmcp makes versions that it does not know from what it reads alone.
fn protocol_version(version: &str) -> ProtocolVersion {
    serde_json::from_value(Value::from(version)).unwrap_or_default()
}
