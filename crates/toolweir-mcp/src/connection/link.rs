//! A connection that was made.

use std::{
    collections::HashMap,
    fmt,
    future::pending,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rmcp::{
    Peer, RoleClient, ServiceError,
    model::{PaginatedRequestParams, Tool},
    service::RunningServiceCancellationToken,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, timeout},
};
use toolweir_core::time::saturating_add;

use super::{connector::Client, process::Process};
use crate::ToolHints;

/// A server with more pages of tools than this does not end.
const MOST_PAGES: usize = 100;
/// A server with more tools than this is not listed whole.
const MOST_TOOLS: usize = 10_000;

/// One connection: its client, its process, and what the server says of its tools.
pub(crate) struct Link {
    peer: Peer<RoleClient>,
    // Both are taken at the end.
    hang_up: Mutex<Option<RunningServiceCancellationToken>>,
    process: Mutex<Option<Process>>,
    process_id: Option<u32>,
    calls: watch::Sender<Calls>,
    /// Whether the transport has ended, whoever ended it.
    over: watch::Receiver<bool>,
    /// Whether [`Link::close`] has come to its end.
    closed: watch::Sender<bool>,
    pub(crate) hints: HashMap<String, ToolHints>,
    pub(crate) since: Instant,
    /// Which of the connections it is, counted from one.
    pub(crate) generation: u64,
}

#[derive(Debug, Default)]
struct Calls {
    under_way: usize,
    closing: bool,
}

impl Link {
    pub(crate) fn new(client: Client, process: Option<Process>, generation: u64) -> Self {
        let (tell, over) = watch::channel(false);
        let link = Self {
            peer: client.peer().clone(),
            hang_up: Mutex::new(Some(client.cancellation_token())),
            process_id: process.as_ref().and_then(Process::id),
            process: Mutex::new(process),
            calls: watch::Sender::default(),
            over,
            closed: watch::Sender::new(false),
            hints: HashMap::new(),
            since: Instant::now(),
            generation,
        };
        // Nothing else says when a connection ends. The task ends with it.
        tokio::spawn(async move {
            let _ = client.waiting().await;
            tell.send_replace(true);
        });
        link
    }

    pub(crate) const fn peer(&self) -> &Peer<RoleClient> {
        &self.peer
    }

    pub(crate) const fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.peer.is_transport_closed()
    }

    /// Returns when its process has ended, or with the link. Without a process it does not return.
    ///
    /// Most often the transport ends with it. A child that holds its pipes keeps that open: then
    /// nobody would answer, and nothing would say so.
    pub(crate) async fn process_over(link: Weak<Self>) {
        if link.upgrade().is_none_or(|link| link.process_id.is_none()) {
            return pending().await;
        }
        let Ok(mut ends) = signal(SignalKind::child()) else {
            return pending().await;
        };
        // It listens before it looks: an end between the two is not missed.
        while link.upgrade().is_some_and(|link| !link.process_has_ended()) {
            if ends.recv().await.is_none() {
                return pending().await;
            }
        }
    }

    fn process_has_ended(&self) -> bool {
        lock(&self.process).as_mut().is_some_and(Process::has_ended)
    }

    /// Says when the transport has ended.
    pub(crate) fn over(&self) -> watch::Receiver<bool> {
        self.over.clone()
    }

    /// Begins a call, unless the connection is being closed.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        let entered = self.calls.send_if_modified(|calls| {
            calls.under_way += usize::from(!calls.closing);
            !calls.closing
        });
        entered.then(|| UnderWay(self.clone()))
    }

    /// Reads what the server says of its tools. One that does not answer has said nothing.
    pub(crate) async fn read_hints(&mut self) {
        let has_tools = self
            .peer
            .peer_info()
            .is_some_and(|info| info.capabilities.tools.is_some());
        if !has_tools {
            return;
        }
        let Ok(tools) = self.tools().await else {
            return;
        };
        for tool in tools {
            let hints = tool.annotations.as_ref().map(ToolHints::from);
            self.hints
                .insert(tool.name.into_owned(), hints.unwrap_or_default());
        }
    }

    /// The server's tools, page by page, as far as their number is within bounds.
    pub(crate) async fn tools(&self) -> Result<Vec<Tool>, ServiceError> {
        let mut tools = Vec::new();
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let page = self.peer.list_tools(Some(page)).await?;
            tools.extend(page.tools.into_iter().take(MOST_TOOLS - tools.len()));
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() == MOST_TOOLS {
                break;
            }
        }
        Ok(tools)
    }

    /// Ends the connection within `grace`: half of it for the calls under way, then the input is
    /// closed, then the process is asked, then killed. All who call this wait for the same end.
    pub(crate) async fn close(self: &Arc<Self>, grace: Duration) {
        let first = self
            .calls
            .send_if_modified(|calls| !std::mem::replace(&mut calls.closing, true));
        if first {
            // In a task of its own: who waits may give up.
            let closing = Closing(self.clone());
            tokio::spawn(async move { closing.0.end(grace).await });
        }
        self.closed().await;
    }

    /// Returns when [`close`](Self::close) has come to its end, whoever called it.
    pub(crate) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    async fn end(&self, grace: Duration) {
        let until = saturating_add(Instant::now(), grace);
        let mut calls = self.calls.subscribe();
        // On a transport that is gone no call is under way for long.
        let _ = timeout(grace / 2, calls.wait_for(|calls| calls.under_way == 0)).await;
        self.hang_up();
        let left = until.saturating_duration_since(Instant::now());
        let _ = timeout(left / 3, self.over().wait_for(|over| *over)).await;
        let process = lock(&self.process).take();
        if let Some(process) = process {
            process
                .stop(until.saturating_duration_since(Instant::now()))
                .await;
        }
    }

    fn hang_up(&self) {
        let token = lock(&self.hang_up).take();
        if let Some(token) = token {
            token.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process, if there is one, is killed by its own drop.
impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Whether an error means that the connection is of no more use.
///
/// A stream that takes nothing more is: rmcp goes on reading, and its server may hold the other
/// direction open for ever. Other transports speak of one request where they fail to send.
pub(crate) fn is_loss(error: &ServiceError) -> bool {
    match error {
        ServiceError::TransportClosed | ServiceError::Cancelled { .. } => true,
        ServiceError::TransportSend(error) => error.error.is::<io::Error>(),
        _ => false,
    }
}

/// A call under way. A connection that is closed waits for it, within limits.
pub(crate) struct UnderWay(Arc<Link>);

impl UnderWay {
    pub(crate) fn peer(&self) -> &Peer<RoleClient> {
        self.0.peer()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.0.generation
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| calls.under_way -= 1);
    }
}

/// However the closing ends, those who wait for it are told.
struct Closing(Arc<Link>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("generation", &self.generation)
            .field("process_id", &self.process_id)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
