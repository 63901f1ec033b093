//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use toolweir_core::{AsRejection, Classify, ErrIsFailure, Facts, Rejection};
use tower_service::Service;

use crate::{
    ResponseFuture,
    shared::{Entered, Shared},
};

/// Makes a call when there is quota for it, and pauses all calls when the server asks for that.
///
/// Clones share the quota, the queue and the pause.
#[derive(Debug, Clone)]
pub struct RateLimit<S, C = ErrIsFailure, F = ()> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
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
        match self.shared.enter(cost, deadline, call_id, Instant::now()) {
            Entered::Passes(dispatched) => {
                let inner = self.inner.call(req);
                ResponseFuture::called(inner, dispatched, self.classify.clone())
            }
            Entered::Waits(place, slot) => {
                self.let_go();
                let (inner, name) = (self.inner.clone(), self.name.clone());
                ResponseFuture::waiting(inner, req, place, slot, self.classify.clone(), name)
            }
            Entered::Refused(refusal) => {
                self.let_go();
                ResponseFuture::refused(refusal.into_rejection(self.name.as_ref()))
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
