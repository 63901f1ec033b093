//! What all connections of a server share: the script and the counters.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::ProtocolVersion;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Answer;
use super::fault::{Fault, GARBAGE, HALF, flood};
use super::link::{Link, Then};
use super::stats::{Stats, StatsFile};
use super::token::Token;

/// Tools that the general script leaves alone.
const UNSCRIPTED: [&str; 3] = ["token_status", "refresh_token", "stats"];

#[derive(Debug)]
pub(super) struct State {
    script: Mutex<Script>,
    stats: watch::Sender<Stats>,
    file: Option<Mutex<StatsFile>>,
    links: Mutex<Vec<Weak<Link>>>,
    on_death: OnDeath,
}

/// What dying is.
#[derive(Debug, Clone, Copy)]
pub(super) enum OnDeath {
    /// The connection drops.
    Cut,
    /// The process exits.
    Exit,
}

/// What the server is told to do.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) answers: VecDeque<Answer>,
    pub(super) by_tool: HashMap<String, VecDeque<Answer>>,
    pub(super) start_delay: Duration,
    pub(super) hang_in_handshake: bool,
    /// With which code, where dying is an exit.
    pub(super) die_in_handshake: Option<i32>,
    pub(super) fault_in_handshake: Option<Fault>,
    /// The one protocol version that the server knows, if it does not know all of rmcp's.
    pub(super) version: Option<ProtocolVersion>,
    pub(super) refuse_connections: bool,
    pub(super) hang_pings: bool,
    pub(super) token: Token,
    pub(super) refresh_delay: Duration,
    pub(super) reject_refresh: bool,
}

impl Script {
    fn new() -> Self {
        Self {
            answers: VecDeque::new(),
            by_tool: HashMap::new(),
            start_delay: Duration::ZERO,
            hang_in_handshake: false,
            die_in_handshake: None,
            fault_in_handshake: None,
            version: None,
            refuse_connections: false,
            hang_pings: false,
            token: Token::new(Instant::now()),
            refresh_delay: Duration::ZERO,
            reject_refresh: false,
        }
    }

    /// What a call of this tool is answered with.
    pub(super) fn next_answer(&mut self, tool: &str) -> Answer {
        if let Some(answer) = self.by_tool.get_mut(tool).and_then(VecDeque::pop_front) {
            return answer;
        }
        if UNSCRIPTED.contains(&tool) {
            return Answer::Ok;
        }
        self.answers.pop_front().unwrap_or(Answer::Ok)
    }
}

impl State {
    pub(super) fn new(on_death: OnDeath, file: Option<StatsFile>) -> Self {
        let stats = Stats {
            pid: std::process::id(),
            ..Stats::default()
        };
        Self {
            script: Mutex::new(Script::new()),
            stats: watch::Sender::new(stats),
            file: file.map(Mutex::new),
            links: Mutex::default(),
            on_death,
        }
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Stats> {
        self.stats.subscribe()
    }

    /// Counts something, and has it on disk before it returns.
    pub(super) fn record(&self, change: impl FnOnce(&mut Stats)) {
        let Some(file) = &self.file else {
            self.stats.send_modify(change);
            return;
        };
        // Held over both, so that the file never goes back.
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        self.stats.send_modify(change);
        if let Err(error) = file.write(&self.stats.borrow()) {
            // A test that reads the file will fail; this says why. Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "the stats file cannot be written: {error}");
        }
    }

    pub(super) fn add_link(&self, link: &Arc<Link>) {
        let mut links = self.links();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    pub(super) fn cut_links(&self) {
        let links = std::mem::take(&mut *self.links());
        links
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|link| link.cut());
    }

    /// Does this to the connection.
    pub(super) async fn strike(&self, link: &Arc<Link>, fault: &Fault) {
        match *fault {
            Fault::CloseStdout => link.inject(Vec::new(), Then::End).await,
            Fault::Garbage => link.inject(GARBAGE.to_vec(), Then::GoOn).await,
            Fault::Half => link.inject(HALF.to_vec(), Then::Silence).await,
            Fault::Flood { bytes } => link.inject(flood(bytes), Then::GoOn).await,
            Fault::Exit { code } => self.die(link, code),
        }
    }

    /// Does this to every connection that stands.
    pub(super) async fn strike_links(&self, fault: &Fault) {
        let links = self.links().clone();
        for link in links.iter().filter_map(Weak::upgrade) {
            self.strike(&link, fault).await;
        }
    }

    fn links(&self) -> MutexGuard<'_, Vec<Weak<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, or the process with this code.
    pub(super) fn die(&self, link: &Link, code: i32) {
        match self.on_death {
            OnDeath::Cut => link.cut(),
            OnDeath::Exit => std::process::exit(code),
        }
    }
}
