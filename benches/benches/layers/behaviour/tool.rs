//! Calls through whatever limits them.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{advance, timeout},
};
use toolweir_core::AsRejection as _;
use tower::{BoxError, Service, ServiceExt as _, load_shed::error::Overloaded};
use tower_resilience_bulkhead::BulkheadServiceError;
use tower_resilience_circuitbreaker::CircuitBreakerError;
use tower_resilience_ratelimiter::RateLimiterServiceError;

use super::server::Ask;
use crate::layers::call::CallError;

/// The server behind a limit, ours or a peer's.
pub(crate) trait Tool:
    Service<Ask, Response = (), Error: Refuses + Send, Future: Send> + Clone + Send + 'static
{
}

impl<S> Tool for S
where
    S: Service<Ask, Response = ()> + Clone + Send + 'static,
    S::Error: Refuses + Send,
    S::Future: Send,
{
}

/// An error that may say that the call was refused, and never reached the server.
pub(crate) trait Refuses {
    fn is_refusal(&self) -> bool;
}

impl Refuses for CallError {
    fn is_refusal(&self) -> bool {
        self.as_rejection().is_some()
    }
}

impl Refuses for BoxError {
    fn is_refusal(&self) -> bool {
        self.is::<Overloaded>() || self.as_rejection().is_some()
    }
}

impl<E> Refuses for CircuitBreakerError<E> {
    fn is_refusal(&self) -> bool {
        self.is_circuit_open()
    }
}

impl<E> Refuses for BulkheadServiceError<E> {
    fn is_refusal(&self) -> bool {
        self.is_bulkhead()
    }
}

impl<E> Refuses for RateLimiterServiceError<E> {
    fn is_refusal(&self) -> bool {
        self.is_rate_limited()
    }
}

impl<E> Refuses for failsafe::Error<E> {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Rejected)
    }
}

impl<E> Refuses for recloser::Error<E> {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Rejected)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered,
    Failed,
    Refused,
}

/// One call, by a client that clones the service for it.
pub(crate) async fn ask(tool: &impl Tool, what: Ask) -> Ended {
    call(tool.clone(), what).await
}

/// One call, by a client that has the service to itself.
pub(crate) async fn call(tool: impl Tool, what: Ask) -> Ended {
    match tool.oneshot(what).await {
        Ok(()) => Ended::Answered,
        Err(error) if error.is_refusal() => Ended::Refused,
        Err(_) => Ended::Failed,
    }
}

/// So many calls that fail, one after the other.
pub(crate) async fn fail(tool: &impl Tool, calls: usize) {
    for _ in 0..calls {
        ask(tool, Ask::Fail).await;
    }
}

/// A call that is under way.
pub(crate) async fn begin(tool: &impl Tool, what: Ask) -> JoinHandle<Ended> {
    let call = tokio::spawn(call(tool.clone(), what));
    settle().await;
    call
}

/// Ends a call that is under way, as a caller does who has gone.
pub(crate) async fn cut(call: JoinHandle<Ended>) {
    call.abort();
    // Cancelled, as it should be.
    let _ = call.await;
}

/// A call with a timeout around it.
pub(crate) async fn ask_within(tool: &impl Tool, what: Ask, limit: Duration) -> Option<Ended> {
    timeout(limit, ask(tool, what)).await.ok()
}

/// Lets all others go on until they wait.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass.
pub(crate) async fn pass(duration: Duration) {
    advance(duration).await;
    settle().await;
}
