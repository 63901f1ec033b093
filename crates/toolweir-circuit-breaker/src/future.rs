//! The futures of the services.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use toolweir_core::{AsRejection, Classify, Rejection, observe};

use crate::dispatched::Dispatched;

pin_project! {
    /// The future of [`CircuitBreaker`](crate::CircuitBreaker) and [`Observer`](crate::Observer).
    ///
    /// It owns the call's lease. Dropping it settles the call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, C> {
        #[pin]
        kind: Kind<F, C>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<F, C> {
        Dispatched {
            #[pin]
            inner: F,
            call: Dispatched,
            classify: C,
        },
        Refused {
            rejection: Option<Rejection>,
        },
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) const fn dispatched(inner: F, call: Dispatched, classify: C) -> Self {
        Self {
            kind: Kind::Dispatched {
                inner,
                call,
                classify,
            },
        }
    }

    pub(crate) const fn refused(rejection: Rejection) -> Self {
        Self {
            kind: Kind::Refused {
                rejection: Some(rejection),
            },
        }
    }
}

impl<F, C, Res, Err> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, Err>>,
    C: Classify<Res, Err>,
    Err: From<Rejection> + AsRejection,
{
    type Output = Result<Res, Err>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Dispatched {
                inner,
                call,
                classify,
            } => {
                let result = ready!(call.inside(|| inner.poll(cx)));
                call.settle(observe(classify, result.as_ref()));
                Poll::Ready(result)
            }
            KindProj::Refused { rejection } => Poll::Ready(Err(refuse(rejection))),
        }
    }
}

pin_project! {
    /// The future of [`Admission`](crate::Admission). The request carries the lease.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AdmissionFuture<F> {
        #[pin]
        kind: AdmissionKind<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = AdmissionKindProj]
    enum AdmissionKind<F> {
        Admitted {
            #[pin]
            inner: F,
        },
        Refused {
            rejection: Option<Rejection>,
        },
    }
}

impl<F> AdmissionFuture<F> {
    pub(crate) const fn admitted(inner: F) -> Self {
        Self {
            kind: AdmissionKind::Admitted { inner },
        }
    }

    pub(crate) const fn refused(rejection: Rejection) -> Self {
        Self {
            kind: AdmissionKind::Refused {
                rejection: Some(rejection),
            },
        }
    }
}

impl<F, Res, Err> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Res, Err>>,
    Err: From<Rejection>,
{
    type Output = Result<Res, Err>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            AdmissionKindProj::Admitted { inner } => inner.poll(cx),
            AdmissionKindProj::Refused { rejection } => Poll::Ready(Err(refuse(rejection))),
        }
    }
}

/// The rejection, once. Polling a future after its end is a mistake of the caller's, as it is with
/// any future.
fn refuse<Err: From<Rejection>>(rejection: &mut Option<Rejection>) -> Err {
    rejection
        .take()
        .expect("the future is not polled after it has ended")
        .into()
}
