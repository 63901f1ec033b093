//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use toolweir_core::{AsRejection, Classify, ErrIsFailure, Facts, Rejection};
use tower_service::Service;

use crate::{
    ResponseFuture,
    limiters::Choice,
    shared::{Dispatched, Entered, InQueue},
};

/// Makes a call when there is quota for it, and pauses all calls when the server asks for that.
///
/// Clones share the quota, the queue and the pause, or those of each key where there are keys.
#[derive(Debug, Clone)]
pub struct RateLimit<S, C = ErrIsFailure, F = ()> {
    pub(crate) inner: S,
    pub(crate) choice: Choice,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
    pub(crate) facts: F,
}

impl<S, C, F, Req> Service<Req> for RateLimit<S, C, F>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
    F: Facts<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let (cost, deadline) = (self.facts.cost(&req), self.facts.deadline(&req));
        let call_id = self.facts.call_id(&req);
        let (limiter, now) = self.choice.limiter(&self.facts, &req);
        match limiter.enter(cost, deadline, call_id, now) {
            Entered::Passes(sent, receipt) => {
                let dispatched = Dispatched::new(limiter.into_shared(), sent, receipt);
                let inner = self.inner.call(req);
                ResponseFuture::called(inner, dispatched, self.classify.clone())
            }
            Entered::Waits(place, ask, slot) => {
                let key = limiter.key_or(self.name.as_ref()).cloned();
                let place = InQueue::new(limiter.into_shared(), place, ask);
                self.let_go();
                let inner = self.inner.clone();
                ResponseFuture::waiting(inner, req, place, slot, self.classify.clone(), key)
            }
            Entered::Refused(refusal) => {
                let rejection = refusal.into_rejection(limiter.key_or(self.name.as_ref()));
                self.let_go();
                ResponseFuture::refused(rejection)
            }
        }
    }
}

impl<S: Clone, C, F> RateLimit<S, C, F> {
    /// Drops the readied instance, which may hold something that others want, and keeps a fresh
    /// one.
    fn let_go(&mut self) {
        self.inner = self.inner.clone();
    }
}
