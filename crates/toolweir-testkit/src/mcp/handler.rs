//! A connection's side of the protocol: what is counted, and what the script decides.

use std::borrow::Cow;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelledNotificationParam,
    ContentBlock, DiscoverResult, ErrorCode, Implementation, InitializeRequestParams,
    InitializeResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ServerCapabilities,
    ServerConfig,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt, tool_handler};
use tokio::time::sleep;

use super::answer::Answer;
use super::fault::Fault;
use super::link::{End, Link};
use super::refusal;
use super::state::State;

/// The code a process exits with when it is told to die.
pub(super) const DEATH_CODE: i32 = 1;

/// Serves a connection to its end.
pub(super) async fn serve(state: Arc<State>, link: Arc<Link>) {
    let stream = link.stream();
    let connection = Connection::new(state, Way::Stream(link));
    // A handshake that fails is the client's to report, or what the script asked for.
    if let Ok(running) = connection.serve(stream).await {
        let _ = running.waiting().await;
    }
}

/// The handler of one connection.
pub(super) struct Connection {
    pub(super) state: Arc<State>,
    way: Way,
    router: ToolRouter<Self>,
}

/// How the client is reached.
pub(super) enum Way {
    Stream(Arc<Link>),
    /// What a session outlives: its requests come by one TCP connection each.
    #[cfg(feature = "http")]
    Http(std::sync::Weak<super::http::Shared>),
}

impl Way {
    /// Until the client has hung up, or nothing passes any more. A session over HTTP never hears of it.
    async fn until(&self, end: End) {
        match self {
            Self::Stream(link) => link.until(end).await,
            #[cfg(feature = "http")]
            Self::Http(_) => pending().await,
        }
    }

    fn cut(&self) {
        match self {
            Self::Stream(link) => link.cut(),
            #[cfg(feature = "http")]
            Self::Http(_) => {}
        }
    }

    fn die(&self, state: &State, code: i32) {
        match self {
            Self::Stream(link) => state.die(link, code),
            #[cfg(feature = "http")]
            Self::Http(server) => {
                if let Some(server) = server.upgrade() {
                    server.crash();
                }
            }
        }
    }
}

#[tool_handler(router = self.router)]
impl ServerHandler for Connection {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let name = Implementation::new("scripted-server", env!("CARGO_PKG_VERSION"));
        let info = ServerConfig::new(capabilities).with_server_info(name);
        match self.state.script().version.clone() {
            Some(version) => info.with_protocol_version(version),
            None => info,
        }
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        match self.state.script().version.clone() {
            Some(version) => vec![version].into(),
            None => ProtocolVersion::KNOWN_VERSIONS.into(),
        }
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.state.record(|stats| stats.initializes += 1);
        self.handshake().await?;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(
        &self,
        _context: RequestContext<RoleServer>,
    ) -> Result<DiscoverResult, ErrorData> {
        self.state.record(|stats| stats.discovers += 1);
        self.handshake().await?;
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.get_info()))
    }

    async fn ping(&self, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.state.record(|stats| stats.pings += 1);
        if !self.state.script().hang_pings {
            return Ok(());
        }
        tokio::select! {
            () = context.ct.cancelled() => {}
            () = self.way.until(End::HungUp) => self.way.cut(),
        }
        Err(unheard())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.state.record(|stats| stats.list_tools += 1);
        Ok(ListToolsResult::with_all_items(self.router.list_all()))
    }

    async fn on_cancelled(
        &self,
        _notification: CancelledNotificationParam,
        _context: NotificationContext<RoleServer>,
    ) {
        self.state.record(|stats| stats.cancelled += 1);
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = request.name.clone();
        if tool == "stats" {
            return self.own_answer(request, context).await;
        }
        let _in_flight = InFlight::begin(Arc::clone(&self.state), &tool);
        let cancelled = context.ct.clone();
        tokio::select! {
            // In this order: a client that cancels and hangs up has cancelled, a dead server does
            // nothing more, and one whose client hung up answers what it can at once.
            biased;
            () = cancelled.cancelled() => {
                self.state.record(|stats| count(&mut stats.cancelled_by_tool, &tool));
                Err(unheard())
            }
            () = self.way.until(End::Cut) => Err(unheard()),
            answer = self.scripted_answer(request, context) => answer,
            () = self.way.until(End::HungUp) => {
                self.way.cut();
                Err(unheard())
            }
        }
    }
}

impl Connection {
    pub(super) fn new(state: Arc<State>, way: Way) -> Self {
        let router = Self::tools();
        Self { state, way, router }
    }

    /// What comes before the first answer, if it comes.
    async fn handshake(&self) -> Result<(), ErrorData> {
        let (delay, mut hang, die, fault) = {
            let script = self.state.script();
            let (hang, die) = (script.hang_in_handshake, script.die_in_handshake);
            let fault = script.fault_in_handshake.clone();
            (script.start_delay, hang, die, fault)
        };
        tokio::select! {
            () = wait(delay) => {}
            () = self.way.until(End::HungUp) => return Err(unheard()),
        }
        if let Some(code) = die {
            self.way.die(&self.state, code);
            return Err(unheard());
        }
        if let Some(fault) = fault {
            self.strike(&fault).await?;
            hang |= !fault.goes_on();
        }
        if hang {
            self.ignore_input().await;
            return Err(unheard());
        }
        Ok(())
    }

    /// Nobody else reads in the handshake, and the client's end must be seen.
    async fn ignore_input(&self) {
        match &self.way {
            Way::Stream(link) => {
                link.ignore_input().await;
                link.cut();
            }
            #[cfg(feature = "http")]
            Way::Http(_) => pending().await,
        }
    }

    async fn strike(&self, fault: &Fault) -> Result<(), ErrorData> {
        match (&self.way, fault) {
            (Way::Stream(link), _) => self.state.strike(link, fault).await,
            #[cfg(feature = "http")]
            (Way::Http(_), Fault::Exit { code }) => self.way.die(&self.state, *code),
            #[cfg(feature = "http")]
            (Way::Http(_), _) => {
                let message = "this fault is one of streams, and there is none";
                return Err(ErrorData::internal_error(message, None));
            }
        }
        Ok(())
    }

    async fn scripted_answer(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let answer = self.state.script().next_answer(&request.name);
        match answer {
            Answer::Ok => self.own_answer(request, context).await,
            Answer::Slow { ms } => {
                sleep(Duration::from_millis(ms)).await;
                self.own_answer(request, context).await
            }
            Answer::Fail => Ok(refusal::fail().into()),
            Answer::Throttle { retry_after_ms } => Ok(self.throttle(retry_after_ms).into()),
            Answer::TextThrottle => Ok(self.text_throttle().into()),
            Answer::Unauthorised => Ok(self.unauthorised().into()),
            Answer::Error { code } => {
                let message = "an error, as told";
                Err(ErrorData::new(ErrorCode(code), message, None))
            }
            Answer::Hang => pending().await,
            Answer::HangAfter => {
                let _unsent = self.own_answer(request, context).await;
                pending().await
            }
            Answer::Die => self.die().await,
            Answer::DieAfter => {
                let _unsent = self.own_answer(request, context).await;
                self.die().await
            }
            Answer::Big { bytes } => Ok(big(bytes).into()),
            Answer::Fault(fault) => {
                self.strike(&fault).await?;
                if fault.goes_on() {
                    self.own_answer(request, context).await
                } else {
                    pending().await
                }
            }
        }
    }

    async fn own_answer(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = ToolCallContext::new(self, request, context);
        self.router.call(call).await
    }

    pub(super) fn throttle(&self, retry_after_ms: u64) -> CallToolResult {
        self.state.record(|stats| stats.throttled += 1);
        refusal::throttle(retry_after_ms)
    }

    pub(super) fn text_throttle(&self) -> CallToolResult {
        self.state.record(|stats| stats.throttled += 1);
        refusal::text_throttle()
    }

    pub(super) fn unauthorised(&self) -> CallToolResult {
        self.state.record(|stats| stats.unauthorised += 1);
        refusal::unauthorised()
    }

    /// Never returns: with the link gone the call is dropped.
    pub(super) async fn die<T>(&self) -> T {
        self.way.die(&self.state, DEATH_CODE);
        pending().await
    }
}

pub(super) fn big(bytes: usize) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text("x".repeat(bytes))])
}

/// No time at all if there is none to wait: a timer is at least a millisecond.
pub(super) async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// What is returned where no answer can arrive: the call is cancelled or its link is cut.
fn unheard() -> ErrorData {
    ErrorData::internal_error("nobody waits for this answer", None)
}

pub(super) fn count(counts: &mut std::collections::BTreeMap<String, u64>, name: &str) {
    *counts.entry(name.to_owned()).or_default() += 1;
}

/// A call that has no answer yet.
struct InFlight(Arc<State>);

impl InFlight {
    fn begin(state: Arc<State>, tool: &str) -> Self {
        state.record(|stats| {
            stats.calls += 1;
            count(&mut stats.calls_by_tool, tool);
            stats.in_flight += 1;
            stats.max_concurrent = stats.max_concurrent.max(stats.in_flight);
            if tool == "token_status" {
                stats.token_status_calls += 1;
            }
        });
        Self(state)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.record(|stats| stats.in_flight -= 1);
    }
}
