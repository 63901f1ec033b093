//! The service that the layers stand on.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use rmcp::model::CallToolResponse;
use tokio::time::{Instant, timeout_at};
use toolweir_core::{BoxFuture, Delivery, Observation, Outcome, Reason, Rejection, time};
use tower_service::Service;

use crate::{
    McpHandle, McpServiceBuilder, ToolCall, ToolError, ToolResponse,
    call::Marks,
    classify::{Classifier, is_session_lost, of_connect_error, of_service_error},
    connection::{ConnectError, Link, Manager, NoLink, NoManager, Pool, UnderWay},
    hints::may_repeat,
    request,
};

/// The layer's name in reports and rejections.
pub(crate) const LAYER: &str = "mcp";

/// Calls the tools of one MCP server over one managed connection.
///
/// It is always ready. The connection is made by the first call or by a warm-up, once for all who
/// wait, and replaced when it is lost; or one for each principal, where it is built so. Clones and
/// handles share it; the last of them to be dropped kills the server. [`McpHandle::shutdown`] ends it gracefully.
///
/// A future that is dropped tells the server `notifications/cancelled`.
#[derive(Clone)]
pub struct McpService {
    pool: Arc<Pool>,
    limits: Arc<Limits>,
}

/// How many connections in a row a call may find closing.
const MOST_CLOSED: usize = 3;

/// What holds for every call.
pub(crate) struct Limits {
    pub(crate) call_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) marks: Marks,
    pub(crate) classifier: Classifier,
}

impl McpService {
    /// Builds a service for the server that goes by `name` in errors and logs.
    pub fn builder(name: impl Into<Arc<str>>) -> McpServiceBuilder {
        McpServiceBuilder::new(name)
    }

    pub(crate) fn new(pool: Pool, limits: Limits) -> Self {
        Self {
            pool: Arc::new(pool),
            limits: Arc::new(limits),
        }
    }

    /// Reads the connection's state and operates it.
    #[must_use]
    pub fn handle(&self) -> McpHandle {
        McpHandle {
            pool: self.pool.clone(),
            principal: None,
        }
    }
}

impl fmt::Debug for McpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpService").field(&self.pool).finish()
    }
}

impl Service<ToolCall> for McpService {
    type Response = ToolResponse;
    type Error = ToolError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ToolError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut call: ToolCall) -> ResponseFuture {
        let (pool, limits) = (self.pool.clone(), self.limits.clone());
        let exchange = async move {
            let answer = exchange(&pool, &limits, &mut call).await;
            answer.map_err(|error| limits.classifier.of_error(call.tool(), error))
        };
        ResponseFuture {
            exchange: Box::pin(exchange),
        }
    }
}

/// The future of [`McpService`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    // An exchange crosses rmcp's own boxed futures and channels: one more box is not felt.
    exchange: BoxFuture<'static, Result<ToolResponse, ToolError>>,
}

impl Future for ResponseFuture {
    type Output = Result<ToolResponse, ToolError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.exchange.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Connects if need be, sends, and waits for the answer.
async fn exchange(
    pool: &Pool,
    limits: &Limits,
    call: &mut ToolCall,
) -> Result<ToolResponse, ToolError> {
    let name = &pool.settings.name;
    let manager = pool.lease(call.principal());
    let manager = manager.map_err(|none| no_manager(name, none))?;
    let tool = call.shared_tool().clone();
    let link = match at_once(call, &manager) {
        Some(link) => link,
        None => Box::pin(in_time(call, &manager)).await?,
    };
    if let Some(earlier) = call.earlier_attempt() {
        permit(&manager, call, earlier)?;
    }
    let time = Time::of(call, limits);
    let again = link.has_session();
    let answer = request::call(&link, call, limits, time.until, again).await;
    let answer = answer.map_err(|_| time.is_over(&tool, Delivery::Ambiguous))?;
    let answer = match answer {
        Err(error) if is_session_lost(&error) => {
            manager.failed(link.generation(), &error);
            drop(link);
            Box::pin(once_more(&manager, limits, call, &time)).await?
        }
        answer => answer.inspect_err(|error| manager.failed(link.generation(), error)),
    };
    match answer {
        Ok(CallToolResponse::Complete(result)) => {
            Ok(ToolResponse::new(tool, result, &limits.classifier))
        }
        Ok(CallToolResponse::InputRequired(_)) => Err(ToolError::InputRequired {
            tool,
            observed: None,
        }),
        Ok(_) => Err(ToolError::TaskReply {
            tool,
            observed: None,
        }),
        Err(error) => Err(of_service_error(name, &tool, error, SystemTime::now())),
    }
}

/// Refuses a call that was sent before and may not be sent again. What the server says of its tools has
/// been read by now: it is asked for with each connection, before the first call.
fn permit(manager: &Manager, call: &ToolCall, earlier: Delivery) -> Result<(), ToolError> {
    if may_repeat(earlier, manager.hints(call.tool())) {
        return Ok(());
    }
    let rejection = Rejection::new(LAYER, Reason::NotRepeatable).with_key(manager.name().clone());
    Err(ToolError::Refused(rejection.with_detail(format!(
        "tool {:?} is not known to be safe to repeat",
        call.tool()
    ))))
}

/// Sends a call once more whose session the server did not know, over another connection and within
/// what is left of its time. The server has not done the work. One that does not know the next session
/// either is not asked a third time.
async fn once_more(
    manager: &Manager,
    limits: &Limits,
    call: &mut ToolCall,
    time: &Time,
) -> Result<request::Answer, ToolError> {
    let tool = call.shared_tool().clone();
    let link = match timeout_at(time.until, link(manager)).await {
        Ok(link) => link.map_err(|no_link| unavailable(manager.name(), no_link))?,
        Err(_) => return Err(time.is_over(&tool, Delivery::NotSent)),
    };
    // Both at once, as where a call is sent first.
    if time.until <= Instant::now() {
        return Err(time.is_over(&tool, Delivery::NotSent));
    }
    // What an earlier attempt has done, this server may see otherwise than the one before it.
    let earlier = call.earlier_attempt().unwrap_or(Delivery::NotSent);
    permit(manager, call, earlier)?;
    let answer = request::call(&link, call, limits, time.until, false).await;
    let answer = answer.map_err(|_| time.is_over(&tool, Delivery::Ambiguous))?;
    Ok(answer.inspect_err(|error| manager.failed(link.generation(), error)))
}

/// The time that a call has, from when it is sent first.
struct Time {
    begun: Instant,
    until: Instant,
}

impl Time {
    fn of(call: &ToolCall, limits: &Limits) -> Self {
        let begun = Instant::now();
        let longest = call.timeout().unwrap_or(limits.call_timeout);
        Self {
            begun,
            until: time::until(begun, longest, call.deadline()),
        }
    }

    fn is_over(&self, tool: &Arc<str>, delivery: Delivery) -> ToolError {
        ToolError::TimedOut {
            tool: tool.clone(),
            after: self.begun.elapsed(),
            delivery,
            observed: None,
        }
    }
}

/// A place on the connection that there is, which is the case of nearly every call: the future of those
/// that wait is large, and has a place of its own.
fn at_once(call: &ToolCall, manager: &Manager) -> Option<UnderWay> {
    if call
        .deadline()
        .is_some_and(|deadline| deadline <= Instant::now())
    {
        return None;
    }
    Link::enter(&manager.live()?)
}

/// A place on the connection, unless the call's deadline comes first. That says nothing of the server:
/// it is a refusal, and no failure.
async fn in_time(call: &ToolCall, manager: &Manager) -> Result<UnderWay, ToolError> {
    let unavailable = |no_link| unavailable(manager.name(), no_link);
    let Some(deadline) = call.deadline() else {
        return link(manager).await.map_err(unavailable);
    };
    let too_late = || {
        let rejection = Rejection::new(LAYER, Reason::DeadlineTooShort);
        ToolError::Refused(rejection.with_key(manager.name().clone()))
    };
    if deadline <= Instant::now() {
        return Err(too_late());
    }
    match timeout_at(deadline, link(manager)).await {
        // A busy runtime may see both at once, the connection and that it comes too late.
        Ok(Ok(_)) if deadline <= Instant::now() => Err(too_late()),
        Ok(link) => link.map_err(unavailable),
        Err(_) => Err(too_late()),
    }
}

/// A place on the connection, which is made if need be.
async fn link(manager: &Manager) -> Result<UnderWay, NoLink> {
    // One that closes between the two steps was closed by an operator, or for idleness: not for ever.
    for _ in 0..MOST_CLOSED {
        let link = match manager.live() {
            Some(link) => link,
            None => manager.link().await?,
        };
        // A server may have died before whoever waited for it looks.
        if let Some(under_way) = Link::enter(&link).filter(|_| !link.is_closed()) {
            return Ok(under_way);
        }
    }
    Err(NoLink::GivenUp)
}

pub(crate) fn no_manager(server: &Arc<str>, none: NoManager) -> ToolError {
    let refused = |reason| Rejection::new(LAYER, reason).with_key(server.clone());
    ToolError::Refused(match none {
        NoManager::HeldBack(no_link) => return unavailable(server, no_link),
        NoManager::ShutDown => refused(Reason::ShuttingDown),
        NoManager::NoPrincipal => refused(Reason::NoPrincipal)
            .with_detail("each principal has a connection of its own; set `with_principal`"),
        NoManager::Full(most) => return unavailable(server, NoLink::Full(most)),
        NoManager::Unreachable(error) => {
            return ToolError::Unavailable {
                server: server.clone(),
                retry_after: None,
                source: Some(Arc::new(ConnectError::unreachable(server, error))),
                observed: None,
            };
        }
    })
}

/// The same, with what is left of the server's pause: the connection keeps it, and some of it is over.
const fn until(left: Option<Duration>, mut observed: Observation) -> Observation {
    if let Outcome::Throttled { retry_after } = &mut observed.outcome
        && left.is_some()
    {
        *retry_after = left;
    }
    observed
}

pub(crate) fn unavailable(server: &Arc<str>, no_link: NoLink) -> ToolError {
    let refused = |reason| Rejection::new(LAYER, reason).with_key(server.clone());
    let (source, retry_after) = match no_link {
        NoLink::ShutDown => return ToolError::Refused(refused(Reason::ShuttingDown)),
        NoLink::Spent(error) => {
            let rejection = refused(Reason::RestartsSpent);
            return ToolError::Refused(match error {
                Some(error) => rejection.with_detail(error.to_string()),
                None => rejection,
            });
        }
        NoLink::StillEnding(waited) => {
            let rejection = refused(Reason::StillEnding);
            return ToolError::Refused(rejection.with_detail(format!("waited {waited:?}")));
        }
        NoLink::Full(most) => {
            let rejection = refused(Reason::ConnectionsFull);
            return ToolError::Refused(
                rejection.with_detail(format!("there may be {most} at once")),
            );
        }
        NoLink::GivenUp => (None, None),
        NoLink::Failed(error, retry_after) => (Some(error), retry_after),
    };
    let observed = source.as_deref();
    let observed = observed.and_then(|error| of_connect_error(error, SystemTime::now()));
    let observed = observed.map(|observed| until(retry_after, observed));
    ToolError::Unavailable {
        server: server.clone(),
        retry_after,
        source,
        observed,
    }
}
