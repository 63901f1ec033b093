//! A connection's side of the protocol: what is counted, and what the script decides.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelledNotificationParam,
    DiscoverResult, ErrorCode, InitializeRequestParams, InitializeResult, ListToolsResult,
    PaginatedRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt, tool_handler};
use tokio::time::sleep;

use super::answer::Answer;
use super::link::{End, Link};
use super::refusal;
use super::state::State;

/// The code a process exits with when it is told to die.
pub(super) const DEATH_CODE: i32 = 1;

/// Serves a connection to its end.
pub(super) async fn serve(state: Arc<State>, link: Arc<Link>) {
    let stream = link.stream();
    let connection = Connection {
        state,
        link,
        router: Connection::tools(),
    };
    // A handshake that fails is the client's to report, or what the script asked for.
    if let Ok(running) = connection.serve(stream).await {
        let _ = running.waiting().await;
    }
}

/// The handler of one connection.
pub(super) struct Connection {
    pub(super) state: Arc<State>,
    pub(super) link: Arc<Link>,
    router: ToolRouter<Self>,
}

#[tool_handler(router = self.router, name = "scripted-server")]
impl ServerHandler for Connection {
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
            () = self.link.until(End::HungUp) => self.link.cut(),
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
            () = self.link.until(End::Cut) => Err(unheard()),
            answer = self.scripted_answer(request, context) => answer,
            () = self.link.until(End::HungUp) => {
                self.link.cut();
                Err(unheard())
            }
        }
    }
}

impl Connection {
    /// What comes before the first answer, if it comes.
    async fn handshake(&self) -> Result<(), ErrorData> {
        let (delay, hang, die) = {
            let script = self.state.script();
            let (hang, die) = (script.hang_in_handshake, script.die_in_handshake);
            (script.start_delay, hang, die)
        };
        tokio::select! {
            () = wait(delay) => {}
            () = self.link.until(End::HungUp) => return Err(unheard()),
        }
        if let Some(code) = die {
            self.state.die(&self.link, code);
            return Err(unheard());
        }
        if hang {
            // Nobody else reads while this lasts, and the client's end must be seen.
            self.link.ignore_input().await;
            self.link.cut();
            return Err(unheard());
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
        self.state.die(&self.link, DEATH_CODE);
        pending().await
    }
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
