//! The future of a call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use toolweir_core::{AsRejection, Reason, Rejection};
use tower_service::Service;

use crate::{
    keys::Name,
    limit::Limit,
    refusal::rejection,
    shared::{InQueue, Permit},
};

pin_project! {
    /// The future of [`Semaphore`](crate::Semaphore).
    ///
    /// It owns the call's permit, or its place in the queue. Dropping it gives them back.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, F> {
        #[pin]
        stage: Stage<S, Req, F>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, Req, F> {
        Waiting {
            // On the heap, so that a call which does not wait need not carry the room for it.
            wait: Pin<Box<Wait<S, Req>>>,
        },
        Called {
            #[pin]
            inner: F,
            permit: Option<Permit>,
        },
        Refused {
            rejection: Option<Box<Rejection>>,
        },
        Ended,
    }
}

pin_project! {
    /// A call in the queue, or with a permit and a service that is not ready yet.
    pub(crate) struct Wait<S, Req> {
        inner: S,
        request: Option<Req>,
        place: InQueue,
        permit: Option<Permit>,
        limit: Limit,
        #[pin]
        alarm: Sleep,
        name: Option<Name>,
    }
}

/// A call that has been made, with its permit.
type Made<F, E> = Result<(F, Permit), E>;

/// What is wrong where a future is polled again. That is a mistake of the caller's, as it is with
/// any future.
const ENDED: &str = "the future is not polled after it has ended";

impl<S, Req, F> ResponseFuture<S, Req, F> {
    #[inline(always)]
    pub(crate) const fn called(inner: F, permit: Permit) -> Self {
        Self {
            stage: Stage::Called {
                inner,
                permit: Some(permit),
            },
        }
    }

    #[inline(always)]
    pub(crate) const fn refused(rejection: Box<Rejection>) -> Self {
        Self {
            stage: Stage::Refused {
                rejection: Some(rejection),
            },
        }
    }

    #[inline(always)]
    pub(crate) const fn waiting(wait: Pin<Box<Wait<S, Req>>>) -> Self {
        Self {
            stage: Stage::Waiting { wait },
        }
    }
}

impl<S, Req> Future for ResponseFuture<S, Req, S::Future>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
{
    type Output = Result<S::Response, S::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        if !matches!(*stage, Stage::Called { .. }) {
            ready!(stage.as_mut().poll_until_called(cx))?;
        }
        let StageProj::Called { inner, permit } = stage.as_mut().project() else {
            panic!("{ENDED}")
        };
        let watch = GiveBackOnPanic(Some(permit));
        let polled = inner.poll(cx);
        watch.end();
        if polled.is_ready() {
            // The call's own future goes first, then its permit, and then the answer.
            stage.set(Stage::Ended);
        }
        polled
    }
}

impl<S, Req> Stage<S, Req, S::Future>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
{
    #[inline(never)]
    fn poll_until_called(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), S::Error>> {
        match self.as_mut().project() {
            StageProj::Waiting { wait } => match ready!(wait.as_mut().poll_call(cx)) {
                Ok((inner, permit)) => {
                    let permit = Some(permit);
                    self.set(Self::Called { inner, permit });
                    Poll::Ready(Ok(()))
                }
                Err(error) => {
                    self.set(Self::Ended);
                    Poll::Ready(Err(error))
                }
            },
            StageProj::Refused { rejection } => {
                let rejection = rejection.take().expect(ENDED);
                Poll::Ready(Err((*rejection).into()))
            }
            StageProj::Called { .. } => Poll::Ready(Ok(())),
            StageProj::Ended => panic!("{ENDED}"),
        }
    }
}

/// Gives a permit back where the call panics: its future may be kept for long.
struct GiveBackOnPanic<'p>(Option<&'p mut Option<Permit>>);

impl GiveBackOnPanic<'_> {
    #[inline(always)]
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for GiveBackOnPanic<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            *permit = None;
        }
    }
}

impl<S, Req> Wait<S, Req> {
    pub(crate) fn new(
        inner: S,
        request: Req,
        place: InQueue,
        limit: Limit,
        name: Option<Name>,
    ) -> Pin<Box<Self>> {
        Box::pin(Self {
            inner,
            request: Some(request),
            place,
            permit: None,
            limit,
            alarm: sleep_until(limit.until()),
            name,
        })
    }

    /// Makes the call, once there is a permit and the service is ready.
    fn poll_call(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Made<S::Future, S::Error>>
    where
        S: Service<Req>,
        S::Error: From<Rejection>,
    {
        let this = self.as_mut().project();
        if this.permit.is_none() {
            match this.place.poll(cx) {
                Poll::Ready(Some(permit)) => *this.permit = Some(permit),
                Poll::Ready(None) => {
                    let pushed_out = self.refuse(Reason::QueueFull);
                    let why = "its place went to the call of a key with fewer waiting";
                    return Poll::Ready(Err(pushed_out.with_detail(why).into()));
                }
                Poll::Pending => {}
            }
        }
        let this = self.as_mut().project();
        // Taken out, so that a panic gives it back: the future may be kept for long.
        if let Some(permit) = this.permit.take() {
            // Nobody waits for the answer to a call that is made after its deadline.
            if this.limit.is_past_deadline(Instant::now()) {
                return Poll::Ready(Err(self.refuse(Reason::DeadlineTooShort).into()));
            }
            if this.inner.poll_ready(cx)?.is_ready() {
                let request = this.request.take().expect("a call is made once");
                return Poll::Ready(Ok((this.inner.call(request), permit)));
            }
            *this.permit = Some(permit);
        }
        ready!(this.alarm.poll(cx));
        let has_permit = this.permit.is_some();
        let reason = this.limit.reason();
        let mut rejection = self.refuse(reason);
        if has_permit {
            rejection = rejection.with_detail("its turn came, but the inner service was not ready");
        }
        Poll::Ready(Err(rejection.into()))
    }

    fn refuse(self: Pin<&mut Self>, reason: Reason) -> Rejection {
        let this = self.project();
        let refusal = this.place.refuse(reason);
        let name = this.place.key().or(this.name.as_ref());
        rejection(&refusal, name.cloned())
    }
}

impl<S, Req, F> fmt::Debug for ResponseFuture<S, Req, F> {
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
