//! The future of the service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use toolweir_core::{AsRejection, Classify, Rejection, observe};

use crate::shared::Shared;

/// Tells the shared state how a call went.
pub(crate) struct Observer<C> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: u16,
    pub(crate) classify: C,
}

pin_project! {
    /// The future of [`HealthGate`](crate::HealthGate).
    ///
    /// A call whose future is dropped before its end counts for nothing.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, C> {
        #[pin]
        kind: Kind<F, C>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F, C> {
        Calling {
            #[pin]
            inner: F,
            observer: Observer<C>,
        },
        Refused {
            rejection: Option<Rejection>,
        },
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) const fn calling(inner: F, observer: Observer<C>) -> Self {
        let kind = Kind::Calling { inner, observer };
        Self { kind }
    }

    pub(crate) const fn refused(rejection: Rejection) -> Self {
        let rejection = Some(rejection);
        let kind = Kind::Refused { rejection };
        Self { kind }
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
            KindProj::Calling { inner, observer } => {
                let result = ready!(inner.poll(cx));
                if let Some(observed) = observe(&observer.classify, result.as_ref()) {
                    let generation = observer.generation;
                    observer.shared.observe(generation, observed.outcome);
                }
                Poll::Ready(result)
            }
            KindProj::Refused { rejection } => {
                // Polling a future after its end is a mistake of the caller's, as with any future.
                let rejection = rejection
                    .take()
                    .expect("the future is not polled after it has ended");
                Poll::Ready(Err(rejection.into()))
            }
        }
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Calling { .. } => "Calling",
            Kind::Refused { .. } => "Refused",
        };
        f.debug_tuple("ResponseFuture")
            .field(&format_args!("{kind}"))
            .finish()
    }
}
