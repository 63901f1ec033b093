//! The handle on a server over HTTP.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::fault::{Faults, HttpFault, Posts};
use super::front::front;
use super::tcp::{Came, Door};
use crate::mcp::ScriptedServer;
use crate::mcp::handler::{Connection, Way};
use crate::mcp::link::Link;
use crate::mcp::state::State;

/// How many clients may wait for `accept`.
const BACKLOG: u32 = 1024;

/// A [`ScriptedServer`] over streamable HTTP, on a free port of this machine.
///
/// It has the script, the tools and the counters of the server that it was made from. Connections in
/// the counters are TCP connections. A call goes on when its TCP connection ends, as the protocol has
/// it, and ends with its session. To die is to forget all sessions and reset all connections, as a
/// process does that is started again at once.
///
/// When it is dropped nothing is left of it. Real connections do not know of a paused clock: use one
/// that runs.
pub struct HttpScriptedServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound and never listened on, so that nobody takes the port while the server is down.
    _reserved: TcpSocket,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What the requests of a server share.
pub(crate) struct Shared {
    me: Weak<Self>,
    state: Arc<State>,
    life: Mutex<Arc<Life>>,
    /// Whether an answer whose stream broke off can be asked for again.
    resumes: AtomicBool,
    faults: Mutex<Faults>,
    bearer: Mutex<Bearer>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    links: Vec<Weak<Link>>,
    accepted: u64,
}

#[derive(Default)]
struct Bearer {
    required: Option<String>,
    last: Option<String>,
}

/// From one loss of all sessions to the next.
struct Life {
    service: StreamableHttpService<Connection, LocalSessionManager>,
    config: StreamableHttpServerConfig,
}

impl Life {
    fn begin(server: Weak<Shared>, state: Arc<State>, resumes: bool) -> Arc<Self> {
        let config = StreamableHttpServerConfig::default();
        // Without the event that says when to come back there is no id to come back with.
        let retry = config.sse_retry.filter(|_| resumes);
        let config = config.with_sse_retry(retry);
        let connection = move || {
            let way = Way::Http(server.clone());
            Ok(Connection::new(Arc::clone(&state), way))
        };
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.sse_retry = config.sse_retry;
        let service = StreamableHttpService::new(connection, sessions.into(), config.clone());
        Arc::new(Self { service, config })
    }
}

impl Shared {
    fn new(state: Arc<State>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            life: Mutex::new(Life::begin(me.clone(), Arc::clone(&state), true)),
            resumes: AtomicBool::new(true),
            state,
            faults: Mutex::default(),
            bearer: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    pub(super) fn accepted(
        &self,
        tcp: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Arc<Link> {
        let link = Link::new(tcp, Arc::clone(&self.state));
        let mut connections = lock(&self.connections);
        connections.links.retain(|link| link.strong_count() > 0);
        connections.links.push(Arc::downgrade(&link));
        connections.accepted += 1;
        drop(connections);
        link
    }

    /// Whether one who comes with this token may come in.
    pub(super) fn admits(&self, token: Option<&str>) -> bool {
        let mut bearer = lock(&self.bearer);
        bearer.last = token.map(str::to_owned);
        bearer.required.is_none() || bearer.required == bearer.last
    }

    pub(super) fn next_fault(&self, is_call: bool) -> Option<HttpFault> {
        lock(&self.faults).next(is_call)
    }

    pub(super) async fn answer(&self, request: Request) -> Response {
        let life = Arc::clone(&*lock(&self.life));
        life.service.handle(request).await.map(Body::new)
    }

    pub(super) fn forget_sessions(&self) {
        let resumes = self.resumes.load(Ordering::Relaxed);
        let next = Life::begin(self.me.clone(), Arc::clone(&self.state), resumes);
        let last = std::mem::replace(&mut *lock(&self.life), next);
        last.config.cancellation_token.cancel();
    }

    fn reset_connections(&self) {
        let links = std::mem::take(&mut lock(&self.connections).links);
        links
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|link| link.cut());
    }

    /// The connections first: nothing that ends with a session reaches its client.
    pub(crate) fn crash(&self) {
        self.reset_connections();
        self.forget_sessions();
    }
}

impl ScriptedServer {
    /// Serves over streamable HTTP as well.
    ///
    /// # Errors
    ///
    /// If this machine has no port left.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn serve_http(&self) -> io::Result<HttpScriptedServer> {
        let reserved = socket((Ipv4Addr::LOCALHOST, 0).into())?;
        let server = HttpScriptedServer {
            shared: Shared::new(Arc::clone(self.state())),
            address: reserved.local_addr()?,
            _reserved: reserved,
            accepting: Mutex::default(),
        };
        server.start_again()?;
        Ok(server)
    }
}

impl HttpScriptedServer {
    /// Where clients find it, such as `http://127.0.0.1:40123/mcp`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// How many TCP connections it has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        lock(&self.shared.connections).accepted
    }

    /// Adds a fault. Of several that fit a POST the one that was added first happens.
    pub fn fault(&self, posts: Posts, fault: HttpFault) -> &Self {
        lock(&self.shared.faults).add(posts, fault);
        self
    }

    /// Forgets the faults that are still to happen. What hangs goes on hanging.
    pub fn clear_faults(&self) -> &Self {
        lock(&self.shared.faults).clear();
        self
    }

    /// To how many POSTs a fault has happened.
    #[must_use]
    pub fn faults(&self) -> u64 {
        lock(&self.shared.faults).happened
    }

    /// Answers 401 to requests without this token from now on; `None`: any will do.
    pub fn require_bearer<'a>(&self, token: impl Into<Option<&'a str>>) -> &Self {
        lock(&self.shared.bearer).required = token.into().map(str::to_owned);
        self
    }

    /// The token of the last request, whether it was the right one or not.
    #[must_use]
    pub fn last_bearer(&self) -> Option<String> {
        lock(&self.shared.bearer).last.clone()
    }

    /// Whether a client may ask again for an answer whose stream broke off. By default it may. This
    /// forgets all sessions.
    pub fn resumes(&self, resumes: bool) -> &Self {
        self.shared.resumes.store(resumes, Ordering::Relaxed);
        self.shared.forget_sessions();
        self
    }

    /// Forgets all sessions. Calls under way end without an answer.
    pub fn forget_sessions(&self) {
        self.shared.forget_sessions();
    }

    /// Resets every open TCP connection. The sessions stay, and the calls in them.
    pub fn reset_connections(&self) {
        self.shared.reset_connections();
    }

    /// Ends as a process does. New connections are refused when this returns.
    pub async fn stop(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // It was told to end: it says so.
            let _ = accepting.await;
        }
        self.shared.crash();
    }

    /// Listens again after [`stop`](Self::stop), on the same port. It remembers no session.
    ///
    /// # Errors
    ///
    /// If the port cannot be listened on.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start_again(&self) -> io::Result<()> {
        let mut accepting = lock(&self.accepting);
        if accepting.is_some() {
            return Ok(());
        }
        let door = Door {
            listener: socket(self.address)?.listen(BACKLOG)?,
            server: Arc::downgrade(&self.shared),
        };
        let router = Router::new()
            .fallback(front)
            .with_state(Arc::clone(&self.shared))
            .into_make_service_with_connect_info::<Came>();
        *accepting = Some(tokio::spawn(async move {
            // It returns when it is aborted, and not before.
            let _ = axum::serve(door, router).await;
        }));
        Ok(())
    }
}

impl Drop for HttpScriptedServer {
    fn drop(&mut self) {
        if let Some(accepting) = lock(&self.accepting).take() {
            accepting.abort();
        }
        self.shared.crash();
    }
}

impl fmt::Debug for HttpScriptedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpScriptedServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
