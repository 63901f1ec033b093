//! The future of a call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use toolweir_core::{AsRejection, Classify, Rejection, observe};
use tower_service::Service;

use crate::{
    refusal::Refusal,
    shared::{Dispatched, InQueue},
    state::Turn,
};

pin_project! {
    /// The future of [`RateLimit`](crate::RateLimit).
    ///
    /// While the call waits, it owns its place in the queue. Dropping it gives the place up.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, F, C> {
        #[pin]
        stage: Stage<S, Req, F, C>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, Req, F, C> {
        Waiting {
            // On the heap, so that a call which does not wait need not carry the room for it.
            wait: Pin<Box<Wait<S, Req, C>>>,
        },
        Called {
            #[pin]
            inner: F,
            dispatched: Dispatched,
            classify: C,
        },
        Refused {
            rejection: Option<Rejection>,
        },
        Ended,
    }
}

pin_project! {
    /// A call in the queue.
    struct Wait<S, Req, C> {
        inner: S,
        request: Option<Req>,
        place: InQueue,
        #[pin]
        alarm: Sleep,
        classify: C,
        key: Option<Arc<str>>,
    }
}

/// A call that was made after a wait.
type Made<F> = (F, Dispatched);

/// What is wrong where a future is polled again. That is a mistake of the caller's, as it is with
/// any future.
const ENDED: &str = "the future is not polled after it has ended";

impl<S, Req, F, C> ResponseFuture<S, Req, F, C> {
    #[inline]
    pub(crate) const fn called(inner: F, dispatched: Dispatched, classify: C) -> Self {
        Self {
            stage: Stage::Called {
                inner,
                dispatched,
                classify,
            },
        }
    }

    pub(crate) const fn refused(rejection: Rejection) -> Self {
        Self {
            stage: Stage::Refused {
                rejection: Some(rejection),
            },
        }
    }

    pub(crate) fn waiting(
        inner: S,
        request: Req,
        place: InQueue,
        slot: Instant,
        classify: C,
        key: Option<Arc<str>>,
    ) -> Self {
        let wait = Box::pin(Wait {
            inner,
            request: Some(request),
            place,
            alarm: sleep_until(slot),
            classify,
            key,
        });
        Self {
            stage: Stage::Waiting { wait },
        }
    }
}

impl<S, Req, C> Future for ResponseFuture<S, Req, S::Future, C>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            match stage.as_mut().project() {
                StageProj::Waiting { wait } => match ready!(wait.as_mut().poll_call(cx)) {
                    Ok((inner, dispatched)) => {
                        let classify = wait.classify.clone();
                        stage.set(Stage::Called {
                            inner,
                            dispatched,
                            classify,
                        });
                    }
                    Err(error) => {
                        stage.set(Stage::Ended);
                        return Poll::Ready(Err(error));
                    }
                },
                StageProj::Called {
                    inner,
                    dispatched,
                    classify,
                } => {
                    let result = ready!(inner.poll(cx));
                    match observe(classify, result.as_ref()) {
                        Some(seen) => dispatched.observed(seen),
                        // A layer further in refused it.
                        None => dispatched.not_made(),
                    }
                    stage.set(Stage::Ended);
                    return Poll::Ready(result);
                }
                StageProj::Refused { rejection } => {
                    let rejection = rejection.take().expect(ENDED);
                    return Poll::Ready(Err(rejection.into()));
                }
                StageProj::Ended => panic!("{ENDED}"),
            }
        }
    }
}

impl<S, Req, C> Wait<S, Req, C> {
    /// Makes the call, once its turn has come and the service is ready.
    fn poll_call(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Made<S::Future>, S::Error>>
    where
        S: Service<Req> + Clone,
        S::Error: From<Rejection>,
    {
        let mut this = self.project();
        let refused = |refusal: Refusal| Err(refusal.into_rejection(this.key.as_ref()).into());
        loop {
            let now = Instant::now();
            let next = match this.place.turn(cx, now) {
                Turn::Come { until } => {
                    if this.inner.poll_ready(cx)?.is_ready() {
                        if let Some(dispatched) = this.place.take(now) {
                            let request = this.request.take().expect("a call is made once");
                            return Poll::Ready(Ok((this.inner.call(request), dispatched)));
                        }
                        // A pause came between. It is not waited out with a readied instance.
                        *this.inner = this.inner.clone();
                        continue;
                    }
                    if until <= now {
                        return Poll::Ready(refused(this.place.not_taken()));
                    }
                    until
                }
                Turn::NotBefore(slot) => slot,
                Turn::Refused(refusal) => return Poll::Ready(refused(refusal)),
            };
            if this.alarm.deadline() != next {
                this.alarm.as_mut().reset(next);
            }
            ready!(this.alarm.as_mut().poll(cx));
        }
    }
}

impl<S, Req, F, C> fmt::Debug for ResponseFuture<S, Req, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Waiting { .. } => "waiting",
            Stage::Called { .. } => "called",
            Stage::Refused { .. } => "refused",
            Stage::Ended => "ended",
        };
        f.debug_struct("ResponseFuture")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
