//! The future of the service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use toolweir_core::Rejection;
use tower_service::Service;

/// A wait for the warm-up. Only who waits pays for the box.
pub(crate) type Wait = Pin<Box<dyn Future<Output = Result<(), Rejection>> + Send>>;

pin_project! {
    /// The future of [`WarmedUp`](crate::WarmedUp).
    ///
    /// Dropping it while it waits leaves the warm-up running for the others.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, F, Req> {
        #[pin]
        kind: Kind<S, F, Req>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, F, Req> {
        Warming {
            wait: Wait,
            next: Option<(S, Req)>,
        },
        Readying {
            next: Option<(S, Req)>,
        },
        Calling {
            #[pin]
            inner: F,
        },
        Refused {
            rejection: Option<Rejection>,
        },
    }
}

impl<S, F, Req> ResponseFuture<S, F, Req> {
    pub(crate) const fn calling(inner: F) -> Self {
        Self {
            kind: Kind::Calling { inner },
        }
    }

    pub(crate) const fn refused(rejection: Rejection) -> Self {
        Self {
            kind: Kind::Refused {
                rejection: Some(rejection),
            },
        }
    }

    pub(crate) const fn warming(wait: Wait, inner: S, request: Req) -> Self {
        Self {
            kind: Kind::Warming {
                wait,
                next: Some((inner, request)),
            },
        }
    }
}

impl<S, Req> Future for ResponseFuture<S, S::Future, Req>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut kind = self.as_mut().project().kind;
            let next = match kind.as_mut().project() {
                KindProj::Warming { wait, next } => {
                    ready!(wait.as_mut().poll(cx))?;
                    Kind::Readying { next: next.take() }
                }
                KindProj::Readying { next } => {
                    let (mut inner, request) = still_there(next.take());
                    match inner.poll_ready(cx)? {
                        Poll::Ready(()) => Kind::Calling {
                            inner: inner.call(request),
                        },
                        Poll::Pending => {
                            *next = Some((inner, request));
                            return Poll::Pending;
                        }
                    }
                }
                KindProj::Calling { inner } => return inner.poll(cx),
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

impl<S, F, Req> fmt::Debug for ResponseFuture<S, F, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Warming { .. } => "Warming",
            Kind::Readying { .. } => "Readying",
            Kind::Calling { .. } => "Calling",
            Kind::Refused { .. } => "Refused",
        };
        f.debug_tuple("ResponseFuture")
            .field(&format_args!("{kind}"))
            .finish()
    }
}
