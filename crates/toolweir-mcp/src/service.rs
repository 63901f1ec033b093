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
use toolweir_core::{BoxFuture, Delivery, Reason, Rejection, time::saturating_add};
use tower_service::Service;

use crate::{
    McpHandle, McpServiceBuilder, ToolCall, ToolError, ToolResponse,
    call::Marks,
    classify::{Classifier, is_session_lost, of_connect_error, of_service_error},
    connection::{ConnectError, Link, Manager, NoLink, NoManager, Pool, UnderWay},
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

/// How many connections in a row a call may find closing, or without its session.
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
    let manager = pool.manager(call.principal());
    let manager = manager.map_err(|none| no_manager(name, none))?;
    let tool = call.shared_tool().clone();
    let mut sessions = 0;
    loop {
        let link = match at_once(call, &manager) {
            Some(link) => link,
            None => Box::pin(in_time(call, &manager)).await?,
        };
        let until = end_of(call, limits);
        let begun = Instant::now();
        let Ok(answer) = request::call(&link, call, limits, until).await else {
            return Err(ToolError::TimedOut {
                tool,
                after: begun.elapsed(),
                delivery: Delivery::Ambiguous,
                observed: None,
            });
        };
        let error = match answer {
            Ok(CallToolResponse::Complete(result)) => {
                return Ok(ToolResponse::new(tool, result, &limits.classifier));
            }
            Ok(CallToolResponse::InputRequired(_)) => {
                return Err(ToolError::InputRequired {
                    tool,
                    observed: None,
                });
            }
            Ok(_) => {
                return Err(ToolError::TaskReply {
                    tool,
                    observed: None,
                });
            }
            Err(error) => error,
        };
        manager.failed(link.generation(), &error);
        sessions += 1;
        // A server that does not know the session has not done the work: that is no repetition.
        if !is_session_lost(&error) || sessions == MOST_CLOSED {
            return Err(of_service_error(name, &tool, error, SystemTime::now()));
        }
    }
}

/// When a call that is sent now must have ended.
fn end_of(call: &ToolCall, limits: &Limits) -> Instant {
    let timeout = call.timeout().unwrap_or(limits.call_timeout);
    let until = saturating_add(Instant::now(), timeout);
    call.deadline()
        .map_or(until, |deadline| until.min(deadline))
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
        if let Some(under_way) = Link::enter(&link) {
            return Ok(under_way);
        }
    }
    Err(NoLink::GivenUp)
}

pub(crate) fn no_manager(server: &Arc<str>, none: NoManager) -> ToolError {
    let refused = |reason| Rejection::new(LAYER, reason).with_key(server.clone());
    ToolError::Refused(match none {
        NoManager::ShutDown => refused(Reason::ShuttingDown),
        NoManager::NoPrincipal => refused(Reason::NoPrincipal)
            .with_detail("each principal has a connection of its own; set `with_principal`"),
        NoManager::Full(most) => {
            refused(Reason::ConnectionsFull).with_detail(format!("there may be {most} at once"))
        }
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
        NoLink::GivenUp => (None, None),
        NoLink::Failed(error, retry_after) => (Some(error), retry_after),
    };
    let observed = source.as_deref();
    let observed = observed.and_then(|error| of_connect_error(error, SystemTime::now()));
    ToolError::Unavailable {
        server: server.clone(),
        retry_after,
        source,
        observed,
    }
}
