//! governor in a plain service: what one writes by hand around it.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use governor::{
    RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use toolweir_core::{Reason, Rejection};
use tower::Service;

use super::super::call::CallError;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// A service that asks governor before each call, and refuses it if governor does.
#[derive(Debug)]
pub(crate) struct Governed<S, C: Clock> {
    inner: S,
    limiter: Arc<Limiter<C>>,
}

impl<S, C: Clock> Governed<S, C> {
    pub(crate) fn new(inner: S, limiter: Limiter<C>) -> Self {
        Self {
            inner,
            limiter: Arc::new(limiter),
        }
    }
}

impl<S, C> Service<u64> for Governed<S, C>
where
    S: Service<u64, Error = CallError>,
    C: Clock,
{
    type Response = S::Response;
    type Error = CallError;
    type Future = Either<S::Future, Ready<Result<S::Response, CallError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: u64) -> Self::Future {
        match self.limiter.check() {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(_) => {
                let refusal = Rejection::new("governor", Reason::QuotaSpent);
                Either::Right(ready(Err(refusal.into())))
            }
        }
    }
}
