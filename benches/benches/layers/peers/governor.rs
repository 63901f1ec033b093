//! governor in a plain service: what one writes by hand around it.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use toolweir_core::{Reason, Rejection};
use tower::Service;

use super::super::call::CallError;

/// A service that asks governor before each call, and refuses it if governor does.
///
/// `passes` asks a limiter, of all calls or of one key.
#[derive(Debug)]
pub(crate) struct Governed<S, F> {
    inner: S,
    passes: Arc<F>,
}

impl<S, F: Fn() -> bool> Governed<S, F> {
    pub(crate) fn new(inner: S, passes: F) -> Self {
        Self {
            inner,
            passes: Arc::new(passes),
        }
    }
}

impl<S, F> Service<u64> for Governed<S, F>
where
    S: Service<u64, Error = CallError>,
    F: Fn() -> bool,
{
    type Response = S::Response;
    type Error = CallError;
    type Future = Either<S::Future, Ready<Result<S::Response, CallError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: u64) -> Self::Future {
        if (self.passes)() {
            Either::Left(self.inner.call(request))
        } else {
            let refusal = Rejection::new("governor", Reason::QuotaSpent);
            Either::Right(ready(Err(refusal.into())))
        }
    }
}
