//! The futures of the services.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use toolweir_core::{AsRejection, Classify, Outcome, Rejection, observe};

use crate::{dispatched::Dispatched, refusal::Refusal};

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
            refused: Refused,
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

    pub(crate) const fn refused(refusal: Refusal, key: Option<Arc<str>>) -> Self {
        let refused = Refused::new(refusal, key);
        Self {
            kind: Kind::Refused { refused },
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

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Dispatched {
                inner,
                call,
                classify,
            } => {
                let result = ready!(call.inside(|| inner.poll(cx)));
                let observation = observe(classify, result.as_ref());
                // Only failures have something to say, and only they pay for it.
                let error = observation
                    .filter(|seen| seen.outcome == Outcome::Failure)
                    .and_then(|_| classify.describe(result.as_ref()));
                call.settle(observation, error.map(Arc::from));
                Poll::Ready(result)
            }
            KindProj::Refused { refused } => Poll::Ready(Err(refused.rejection().into())),
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
            refused: Refused,
        },
    }
}

impl<F> AdmissionFuture<F> {
    pub(crate) const fn admitted(inner: F) -> Self {
        Self {
            kind: AdmissionKind::Admitted { inner },
        }
    }

    pub(crate) const fn refused(refusal: Refusal, key: Option<Arc<str>>) -> Self {
        let refused = Refused::new(refusal, key);
        Self {
            kind: AdmissionKind::Refused { refused },
        }
    }
}

impl<F, Res, Err> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Res, Err>>,
    Err: From<Rejection>,
{
    type Output = Result<Res, Err>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            AdmissionKindProj::Admitted { inner } => inner.poll(cx),
            AdmissionKindProj::Refused { refused } => Poll::Ready(Err(refused.rejection().into())),
        }
    }
}

/// A call that was refused, until its future is polled.
#[derive(Debug)]
struct Refused {
    refusal: Option<Refusal>,
    key: Option<Arc<str>>,
}

impl Refused {
    const fn new(refusal: Refusal, key: Option<Arc<str>>) -> Self {
        Self {
            refusal: Some(refusal),
            key,
        }
    }

    /// The rejection, once. Polling a future after its end is a mistake of the caller's, as it is
    /// with any future.
    #[inline]
    fn rejection(&mut self) -> Rejection {
        self.refusal
            .take()
            .expect("the future is not polled after it has ended")
            .into_rejection(self.key.take())
    }
}
