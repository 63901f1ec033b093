//! failsafe is a function around a future; as a service it is this.

use std::task::{Context, Poll};

use failsafe::{
    Error, FailurePolicy, StateMachine,
    futures::{CircuitBreaker as _, ResponseFuture},
};
use tower::Service;

/// A service behind a breaker of failsafe's.
#[derive(Debug)]
pub(crate) struct Failsafe<S, P> {
    inner: S,
    breaker: StateMachine<P, ()>,
}

impl<S, P> Failsafe<S, P> {
    pub(crate) const fn new(inner: S, breaker: StateMachine<P, ()>) -> Self {
        Self { inner, breaker }
    }
}

impl<S: Clone, P> Clone for Failsafe<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breaker: self.breaker.clone(),
        }
    }
}

impl<S, P, Req> Service<Req> for Failsafe<S, P>
where
    S: Service<Req>,
    P: FailurePolicy + Send + Sync,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S::Future, P, (), failsafe::Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}
