//! A connection that was made.

use std::{
    fmt,
    future::pending,
    io,
    pin::pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use rmcp::{
    ClientCacheConfig, Peer, RoleClient, ServiceError,
    model::{SubscriptionFilter, Tool},
    service::RunningServiceCancellationToken,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use toolweir_core::time::saturating_add;

use super::{
    catalogue::{Catalogue, Hints},
    listener::{Client, Listener},
    lock,
    process::Process,
};

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
    /// When it shall have ended, once somebody has begun to close it.
    ends_by: watch::Sender<Option<Instant>>,
    /// Whether [`Link::close`] has come to its end.
    closed: watch::Sender<bool>,
    pub(crate) listener: Listener,
    /// The tools as last read; `None` until then.
    catalogue: Mutex<Option<Catalogue>>,
    /// Sees every change of the tools that the server tells of since there is this connection.
    changes: watch::Receiver<()>,
    pub(crate) since: Instant,
    /// Which of the connections it is, counted from one.
    pub(crate) generation: u64,
}

#[derive(Debug, Default)]
struct Calls {
    under_way: usize,
    begun: u64,
    closing: bool,
    /// Whether somebody waits for calls to begin or end: nobody else is told of each.
    watched: bool,
}

impl Link {
    pub(crate) fn new(
        client: Client,
        process: Option<Process>,
        listener: Listener,
        generation: u64,
    ) -> Self {
        let (tell, over) = watch::channel(false);
        let link = Self {
            peer: client.peer().clone(),
            hang_up: Mutex::new(Some(client.cancellation_token())),
            process_id: process.as_ref().and_then(Process::id),
            process: Mutex::new(process),
            calls: watch::Sender::default(),
            over,
            ends_by: watch::Sender::default(),
            closed: watch::Sender::new(false),
            changes: listener.tools_changed(),
            listener,
            catalogue: Mutex::new(None),
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

    /// How long there has been this connection.
    pub(crate) fn lived(&self) -> Duration {
        Instant::now().saturating_duration_since(self.since)
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
        let mut entered = false;
        self.calls.send_if_modified(|calls| {
            entered = !calls.closing;
            calls.under_way += usize::from(entered);
            calls.begun += u64::from(entered);
            entered && calls.watched
        });
        entered.then(|| UnderWay(self.clone()))
    }

    /// How many calls are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.calls.borrow().under_way
    }

    /// Returns when no call has been under way for `idle`; never, without such a time.
    pub(crate) async fn idle_for(link: Weak<Self>, idle: Option<Duration>) {
        let calls = link.upgrade().map(|link| link.calls.subscribe());
        let (Some(mut calls), Some(idle)) = (calls, idle) else {
            return pending().await;
        };
        watch_calls(&link);
        loop {
            if calls.wait_for(|calls| calls.under_way == 0).await.is_err() {
                return pending().await;
            }
            if timeout(idle, calls.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Closes the connection to new calls, unless one is under way.
    pub(crate) fn close_if_idle(&self) -> bool {
        self.calls.send_if_modified(|calls| {
            let idle = calls.under_way == 0 && !calls.closing;
            calls.closing |= idle;
            idle
        })
    }

    /// Reads what the server says of its tools; `None` if it says that it has none.
    pub(crate) async fn read_hints(&self) -> Result<Option<Hints>, ServiceError> {
        let info = self.peer.peer_info();
        if info.is_none_or(|info| info.capabilities.tools.is_none()) {
            return Ok(None);
        }
        self.read_catalogue().await?;
        Ok(self.hints())
    }

    /// What is known of the tools from the list that was read last.
    pub(crate) fn hints(&self) -> Option<Hints> {
        lock(&self.catalogue).as_ref().map(Catalogue::hints)
    }

    /// The changes that the server tells of since there is this connection.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    async fn read_catalogue(&self) -> Result<Catalogue, ServiceError> {
        // rmcp's own cache would answer for a server that is dead.
        let mut no_cache = ClientCacheConfig::default();
        no_cache.enabled = false;
        self.peer.set_response_cache_config(no_cache).await;
        let catalogue = Catalogue::read(&self.peer, self.changes()).await?;
        let mut known = lock(&self.catalogue);
        // A slow reading that began earlier knows less.
        if !known
            .as_ref()
            .is_some_and(|known| known.is_newer(&catalogue))
        {
            *known = Some(catalogue.clone());
        }
        drop(known);
        Ok(catalogue)
    }

    /// The server's tools: as last read while that holds by the server's own word, or else read now.
    pub(crate) async fn tools(&self) -> Result<Arc<Vec<Tool>>, ServiceError> {
        let known = lock(&self.catalogue).clone();
        if let Some(known) = known.filter(|known| known.is_fresh(Instant::now())) {
            return Ok(known.tools);
        }
        Ok(self.read_catalogue().await?.tools)
    }

    /// Tells the listener of changes of the tools, as long as the server keeps the subscription; `None`
    /// where the server has none to offer, or tells without one.
    pub(crate) fn subscribe(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let info = self.peer.peer_info()?;
        let tools = info.capabilities.tools.as_ref()?;
        let subscribes =
            tools.list_changed == Some(true) && !info.protocol_version.has_initialize();
        let (peer, listener) = (self.peer.clone(), self.listener.clone());
        subscribes.then_some(async move {
            let changes = SubscriptionFilter::builder().tools_list_changed().build();
            let Ok(mut subscription) = peer.listen(changes).await else {
                return;
            };
            // Nobody has listened until now.
            listener.tools_have_changed();
            while let Ok(Some(_)) = subscription.next().await {
                listener.tools_have_changed();
            }
        })
    }

    /// Returns when the list of tools should be read again: there are `changes` that the server tells
    /// of, or it no longer holds and calls are made.
    pub(crate) async fn outdated(link: &Weak<Self>, changes: &mut watch::Receiver<()>) {
        let Some((mut calls, until)) = link.upgrade().map(|link| {
            let until = lock(&link.catalogue).as_ref().and_then(|known| known.until);
            (link.calls.subscribe(), until)
        }) else {
            return pending().await;
        };
        let begun = calls.borrow_and_update().begun;
        let ends = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
            watch_calls(link);
            let _ = calls.wait_for(|calls| calls.begun != begun).await;
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { pending().await },
            () = ends => {}
        }
    }

    /// Ends the connection within `grace`: half of it for the calls under way, then the input is
    /// closed, then the process is asked, then killed. All who call this wait for the same end, and the
    /// least patient of them says when it comes.
    pub(crate) async fn close(self: &Arc<Self>, grace: Duration) {
        self.calls.send_modify(|calls| calls.closing = true);
        let until = saturating_add(Instant::now(), grace);
        let mut is_first = false;
        self.ends_by.send_if_modified(|by| {
            is_first = by.is_none();
            let sooner = by.is_none_or(|by| until < by);
            if sooner {
                *by = Some(until);
            }
            sooner
        });
        if is_first {
            // In a task of its own: who waits may give up.
            let closing = Closing(self.clone());
            tokio::spawn(async move { closing.0.end().await });
        }
        self.closed().await;
    }

    /// Returns when [`close`](Self::close) has come to its end, whoever called it.
    pub(crate) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    async fn end(&self) {
        let (mut calls, mut over) = (self.calls.subscribe(), self.over());
        // On a transport that is gone no call is under way for long.
        let idle = calls.wait_for(|calls| calls.under_way == 0);
        self.within_a_part(2, idle).await;
        self.hang_up();
        self.within_a_part(3, over.wait_for(|over| *over)).await;
        let process = lock(&self.process).take();
        let Some(process) = process else {
            return;
        };
        let by = *self.ends_by.borrow();
        tokio::select! {
            biased;
            () = process.stop(left(by)) => {}
            // It is killed where it is dropped.
            () = self.over_before(by) => {}
        }
    }

    /// Waits no longer than for such a part of the time that is left, whenever that becomes less.
    async fn within_a_part(&self, parts: u32, what: impl Future) {
        let mut ends_by = self.ends_by.subscribe();
        let mut what = pin!(what);
        loop {
            let by = *ends_by.borrow_and_update();
            tokio::select! {
                biased;
                _ = &mut what => return,
                _ = ends_by.changed() => {}
                () = sleep(left(by) / parts) => return,
            }
        }
    }

    /// Returns when its time is over, if it shall have ended before `by`.
    async fn over_before(&self, by: Option<Instant>) {
        let mut ends_by = self.ends_by.subscribe();
        let _ = ends_by.wait_for(|sooner| *sooner != by).await;
        self.within_a_part(1, pending::<()>()).await;
    }

    fn hang_up(&self) {
        let token = lock(&self.hang_up).take();
        if let Some(token) = token {
            token.cancel();
        }
    }
}

fn left(by: Option<Instant>) -> Duration {
    by.map_or(Duration::ZERO, |by| {
        by.saturating_duration_since(Instant::now())
    })
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

/// From now on whoever waits for calls to begin or end is told of each.
fn watch_calls(link: &Weak<Link>) {
    if let Some(link) = link.upgrade() {
        link.calls.send_modify(|calls| calls.watched = true);
    }
}

/// A call under way. A connection that is closed waits for it, within limits.
pub(crate) struct UnderWay(Arc<Link>);

impl UnderWay {
    pub(crate) fn peer(&self) -> &Peer<RoleClient> {
        self.0.peer()
    }

    /// Whether a server that lost the session may be asked again: one over a pipe has none to lose.
    pub(crate) fn has_session(&self) -> bool {
        self.0.process_id.is_none()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.0.generation
    }

    pub(crate) fn listener(&self) -> &Listener {
        &self.0.listener
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls.send_if_modified(|calls| {
            calls.under_way -= 1;
            calls.watched || calls.closing
        });
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
