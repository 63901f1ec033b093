//! The call that everybody makes, and the service that answers at once.

use std::{
    error::Error,
    fmt,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
};

use toolweir_core::{AsRejection, Rejection};
use tower::{Service, ServiceExt as _};

/// How a call fails: by the refusal of one of our layers, or in the server.
///
/// It holds a refusal without a box, as the error type of a worker does.
#[derive(Debug)]
pub(crate) enum CallError {
    Refused(Rejection),
    Failed,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(rejection) => rejection.fmt(f),
            Self::Failed => f.write_str("the server failed"),
        }
    }
}

impl Error for CallError {}

impl From<Rejection> for CallError {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl AsRejection for CallError {
    fn as_rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Refused(rejection) => Some(rejection),
            Self::Failed => None,
        }
    }
}

/// The request that fails.
const FAIL: u64 = 0;

/// Ready at once, and answers with what it is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = CallError;
    type Future = Ready<Result<u64, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(match black_box(request) {
            FAIL => Err(CallError::Failed),
            request => Ok(request),
        })
    }
}

/// One call as a client makes it, and whether it was answered.
pub(crate) async fn call<S: Service<u64>>(service: &mut S) -> bool {
    request(service, 7).await
}

/// A call that fails.
pub(crate) async fn fail<S: Service<u64>>(service: &mut S) {
    request(service, FAIL).await;
}

#[inline]
async fn request<S: Service<u64>>(service: &mut S, request: u64) -> bool {
    let result = match service.ready().await {
        Ok(service) => service.call(black_box(request)).await,
        Err(error) => Err(error),
    };
    black_box(&result).is_ok()
}
