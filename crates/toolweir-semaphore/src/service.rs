//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use toolweir_core::{AsRejection, Facts, Reason, Rejection};
use tower_service::Service;

use crate::{
    ResponseFuture,
    future::Limit,
    shared::{Entered, Shared},
    state::{Figures, LAYER},
};

/// Makes a call as soon as it has a permit, and keeps the permit until the call has ended.
///
/// Clones share the permits and the queue.
#[derive(Debug, Clone)]
pub struct Semaphore<S, F = ()> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) facts: F,
}

impl<S, F, Req> Service<Req> for Semaphore<S, F>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection> + AsRejection,
    F: Facts<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        match self.shared.try_acquire() {
            Some(permit) => ResponseFuture::called(self.inner.call(req), permit),
            None => self.call_later(req),
        }
    }
}

impl<S, F> Semaphore<S, F> {
    /// A call that found no permit: it waits, or is refused.
    fn call_later<Req>(&mut self, req: Req) -> ResponseFuture<S, Req, S::Future>
    where
        S: Service<Req> + Clone,
        F: Facts<Req>,
    {
        let now = Instant::now();
        let limit = Limit::new(now, self.shared.max_wait(), self.facts.deadline(&req));
        if limit.has_come(now) {
            self.let_go();
            let rejection = refusal(self.name.as_ref(), limit.reason(), &self.shared.reject());
            return ResponseFuture::refused(rejection);
        }
        match self.shared.enter(now) {
            Entered::Permit(permit) => ResponseFuture::called(self.inner.call(req), permit),
            Entered::Queue(place) => {
                self.let_go();
                let (inner, name) = (self.inner.clone(), self.name.clone());
                ResponseFuture::waiting(inner, req, place, limit, name)
            }
            Entered::QueueFull(figures) => {
                self.let_go();
                let rejection = refusal(self.name.as_ref(), Reason::QueueFull, &figures);
                ResponseFuture::refused(rejection)
            }
        }
    }

    /// Drops the readied instance, which may hold something that others want, and keeps a fresh
    /// one.
    fn let_go(&mut self)
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
    }
}

/// No time to come back: when a permit is given back, the calls that hold them decide.
pub(crate) fn refusal(name: Option<&Arc<str>>, reason: Reason, figures: &Figures) -> Rejection {
    let Figures {
        in_flight,
        permits,
        queued,
        ..
    } = figures;
    let rejection = Rejection::new(LAYER, reason).with_detail(format!(
        "{in_flight} calls under way with {permits} permits, {queued} waiting"
    ));
    match name {
        Some(name) => rejection.with_key(name.clone()),
        None => rejection,
    }
}
