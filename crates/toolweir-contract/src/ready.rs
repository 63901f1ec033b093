//! A service that is ready at once, answers at once and allocates nothing.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use toolweir_core::{Reason, Rejection};
use tower_service::Service;

use crate::{Request, Response};

/// What [`Always`] does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Answers.
    Respond,
    /// Refuses, as an inner layer would.
    Refuse,
    /// Panics when it is called.
    PanicInCall,
    /// Panics when its future is polled.
    PanicInFuture,
}

/// The inner service that is always ready. Its error type is [`Rejection`] itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Always;

/// The future of [`Always`].
#[derive(Debug)]
pub struct AlwaysFuture {
    result: Ready<Result<Response, Rejection>>,
    panics: bool,
}

impl Future for AlwaysFuture {
    type Output = Result<Response, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.panics, "the inner future panics, as it was told to");
        Pin::new(&mut self.result).poll(cx)
    }
}

/// The refusal with which [`Always`] answers on request.
pub(crate) const REFUSAL: Rejection = Rejection::new("inner-layer", Reason::QueueFull)
    .with_retry_after(std::time::Duration::from_secs(7));

impl Service<Request> for Always {
    type Response = Response;
    type Error = Rejection;
    type Future = AlwaysFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> AlwaysFuture {
        assert!(
            request.answer != Answer::PanicInCall,
            "the inner call panics, as it was told to"
        );
        AlwaysFuture {
            result: ready(match request.answer {
                Answer::Refuse => Err(REFUSAL),
                _ => Ok(Response(0)),
            }),
            panics: request.answer == Answer::PanicInFuture,
        }
    }
}
