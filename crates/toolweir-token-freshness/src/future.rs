//! The future of the service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use toolweir_core::{AsRejection, Classify, Outcome, Rejection, observe};
use tower_service::Service;

use crate::shared::Shared;

/// A wait for the token. Only who waits pays for the box.
pub(crate) type Wait = Pin<Box<dyn Future<Output = Result<(), Rejection>> + Send>>;

/// Tells the shared state if the server did not accept the token.
pub(crate) struct Observer<C> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) classify: C,
}

impl<C> Observer<C> {
    fn observe<Res, Err>(&self, generation: u16, result: Result<&Res, &Err>)
    where
        C: Classify<Res, Err>,
        Err: AsRejection,
    {
        let observed = observe(&self.classify, result);
        if observed.is_some_and(|observed| observed.outcome == Outcome::Unauthorized) {
            self.shared.unauthorized(generation);
        }
    }
}

pin_project! {
    /// The future of [`TokenFreshness`](crate::TokenFreshness).
    ///
    /// Dropping it while it waits leaves the refresh running for the others.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, F, Req, C> {
        #[pin]
        kind: Kind<S, F, Req>,
        observer: Observer<C>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, F, Req> {
        Waiting {
            wait: Wait,
            next: Option<(S, Req)>,
        },
        Readying {
            next: Option<(S, Req)>,
        },
        Calling {
            #[pin]
            inner: F,
            generation: u16,
        },
        Refused {
            rejection: Option<Rejection>,
        },
    }
}

impl<S, F, Req, C> ResponseFuture<S, F, Req, C> {
    pub(crate) const fn calling(inner: F, generation: u16, observer: Observer<C>) -> Self {
        let kind = Kind::Calling { inner, generation };
        Self { kind, observer }
    }

    pub(crate) const fn refused(rejection: Rejection, observer: Observer<C>) -> Self {
        let rejection = Some(rejection);
        let kind = Kind::Refused { rejection };
        Self { kind, observer }
    }

    pub(crate) const fn waiting(wait: Wait, inner: S, request: Req, observer: Observer<C>) -> Self {
        let next = Some((inner, request));
        let kind = Kind::Waiting { wait, next };
        Self { kind, observer }
    }
}

impl<S, Req, C> Future for ResponseFuture<S, S::Future, Req, C>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            let mut kind = this.kind;
            let next = match kind.as_mut().project() {
                KindProj::Waiting { wait, next } => {
                    ready!(wait.as_mut().poll(cx))?;
                    Kind::Readying { next: next.take() }
                }
                KindProj::Readying { next } => {
                    let (mut inner, request) = still_there(next.take());
                    if inner.poll_ready(cx)?.is_pending() {
                        *next = Some((inner, request));
                        return Poll::Pending;
                    }
                    let generation = this.observer.shared.generation();
                    Kind::Calling {
                        inner: inner.call(request),
                        generation,
                    }
                }
                KindProj::Calling { inner, generation } => {
                    let result = ready!(inner.poll(cx));
                    this.observer.observe(*generation, result.as_ref());
                    return Poll::Ready(result);
                }
                KindProj::Refused { rejection } => {
                    return Poll::Ready(Err(still_there(rejection.take()).into()));
                }
            };
            kind.set(next);
        }
    }
}

/// Polling a future after its end is a mistake of the caller's, as it is with any future.
fn still_there<T>(part: Option<T>) -> T {
    part.expect("the future is not polled after it has ended")
}

impl<S, F, Req, C> fmt::Debug for ResponseFuture<S, F, Req, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Waiting { .. } => "Waiting",
            Kind::Readying { .. } => "Readying",
            Kind::Calling { .. } => "Calling",
            Kind::Refused { .. } => "Refused",
        };
        f.debug_tuple("ResponseFuture")
            .field(&format_args!("{kind}"))
            .finish()
    }
}
