//! recloser is a function around a future; as a service it is this.

use std::task::{Context, Poll};

use recloser::{AnyError, AsyncRecloser, Error, Recloser, RecloserFuture};
use tower::Service;

/// A service behind a breaker of recloser's.
#[derive(Debug, Clone)]
pub(crate) struct Reclosed<S> {
    inner: S,
    breaker: AsyncRecloser,
}

impl<S> Reclosed<S> {
    pub(crate) fn new(inner: S, breaker: Recloser) -> Self {
        Self {
            inner,
            breaker: breaker.into(),
        }
    }
}

impl<S, Req> Service<Req> for Reclosed<S>
where
    S: Service<Req>,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = RecloserFuture<S::Future, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}
