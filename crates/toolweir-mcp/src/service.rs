//! The service that the layers stand on.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rmcp::{ServiceError, model::CallToolResponse};
use tokio::time::{Instant, timeout_at};
use toolweir_core::{BoxFuture, Delivery, Reason, Rejection, time::saturating_add};
use tower_service::Service;

use crate::{
    McpHandle, McpServiceBuilder, TextRules, ToolCall, ToolError, ToolResponse,
    connection::{Manager, NoLink, UnderWay, is_loss},
};

/// Calls the tools of one MCP server over one managed connection.
///
/// It is always ready. The connection is made by the first call or by a warm-up, once for all who
/// wait, and replaced when it is lost. Clones and handles share it; the last of them to be dropped
/// kills the server. [`McpHandle::shutdown`] ends it gracefully.
///
/// A future that is dropped tells the server `notifications/cancelled`.
#[derive(Clone)]
pub struct McpService {
    manager: Arc<Manager>,
    limits: Arc<Limits>,
}

/// How many connections in a row a call may find closing.
const MOST_CLOSED: usize = 3;

pub(crate) struct Limits {
    pub(crate) call_timeout: Duration,
    pub(crate) text_rules: TextRules,
}

impl McpService {
    /// Builds a service for the server that goes by `name` in errors and logs.
    pub fn builder(name: impl Into<Arc<str>>) -> McpServiceBuilder {
        McpServiceBuilder::new(name)
    }

    pub(crate) fn new(manager: Manager, limits: Limits) -> Self {
        Self {
            manager: Arc::new(manager),
            limits: Arc::new(limits),
        }
    }

    /// Reads the connection's state and operates it.
    #[must_use]
    pub fn handle(&self) -> McpHandle {
        McpHandle {
            manager: self.manager.clone(),
        }
    }
}

impl fmt::Debug for McpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpService").field(&self.manager).finish()
    }
}

impl Service<ToolCall> for McpService {
    type Response = ToolResponse;
    type Error = ToolError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ToolError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ToolCall) -> ResponseFuture {
        let exchange = exchange(self.manager.clone(), self.limits.clone(), call);
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
    manager: Arc<Manager>,
    limits: Arc<Limits>,
    call: ToolCall,
) -> Result<ToolResponse, ToolError> {
    let begun = Instant::now();
    let not_sent = || ToolError::TimedOut {
        tool: call.tool().into(),
        after: begun.elapsed(),
        delivery: Delivery::NotSent,
    };
    let is_over = |now| call.deadline().is_some_and(|deadline| deadline <= now);
    if is_over(begun) {
        return Err(not_sent());
    }
    let link = match call.deadline() {
        None => link(&manager).await,
        Some(deadline) => timeout_at(deadline, link(&manager))
            .await
            .map_err(|_| not_sent())?,
    };
    let link = link.map_err(|no_link| unavailable(manager.name(), no_link))?;
    let dispatched = Instant::now();
    if is_over(dispatched) {
        return Err(not_sent());
    }
    let timeout = call.timeout().unwrap_or(limits.call_timeout);
    let mut until = saturating_add(dispatched, timeout);
    if let Some(deadline) = call.deadline() {
        until = until.min(deadline);
    }
    let tool: Arc<str> = call.tool().into();
    // Dropped when the time is over, rmcp's future tells the server.
    let answer = timeout_at(until, link.peer().call_tool_once(call.params())).await;
    match answer {
        Ok(Ok(CallToolResponse::Complete(result))) => {
            Ok(ToolResponse::new(tool, result, &limits.text_rules))
        }
        Ok(Ok(CallToolResponse::InputRequired(_))) => Err(ToolError::InputRequired { tool }),
        Ok(Ok(_)) => Err(ToolError::TaskReply { tool }),
        Ok(Err(error)) => {
            manager.failed(link.generation(), &error);
            Err(failed(manager.name(), tool, error))
        }
        Err(_) => Err(ToolError::TimedOut {
            tool,
            after: begun.elapsed(),
            delivery: Delivery::Ambiguous,
        }),
    }
}

/// A place on the connection, which is made if need be.
async fn link(manager: &Manager) -> Result<UnderWay, NoLink> {
    // One that closes between the two steps was closed by an operator, who does not do so for ever.
    for _ in 0..MOST_CLOSED {
        let link = match manager.live() {
            Some(link) => link,
            None => manager.link().await?,
        };
        if let Some(under_way) = link.enter() {
            return Ok(under_way);
        }
    }
    Err(NoLink::GivenUp)
}

pub(crate) fn unavailable(server: &Arc<str>, no_link: NoLink) -> ToolError {
    let (source, retry_after) = match no_link {
        NoLink::ShutDown => {
            let rejection = Rejection::new("mcp", Reason::ShuttingDown).with_key(server.clone());
            return ToolError::Refused(rejection);
        }
        NoLink::GivenUp => (None, None),
        NoLink::Failed(error, retry_after) => (Some(error), retry_after),
    };
    ToolError::Unavailable {
        server: server.clone(),
        retry_after,
        source,
    }
}

fn failed(server: &Arc<str>, tool: Arc<str>, error: ServiceError) -> ToolError {
    match error {
        ServiceError::McpError(error) => ToolError::Protocol {
            tool,
            error: Arc::new(error),
        },
        error if is_loss(&error) => ToolError::ConnectionLost {
            server: server.clone(),
            tool,
        },
        error => ToolError::Transport {
            server: server.clone(),
            source: Arc::new(error),
        },
    }
}
