//! The service.

use std::task::{Context, Poll};

use tokio::time::Instant;
use toolweir_core::{AsRejection, Facts, Rejection};
use tower_service::Service;

use crate::{
    ResponseFuture,
    keys::Name,
    limit::Limit,
    refusal::rejection,
    shared::{Entered, Shared},
    sync::Arc,
};

/// Makes a call as soon as it has a permit, and keeps the permit until the call has ended.
///
/// Clones share the permits and the queue.
#[derive(Debug, Clone)]
pub struct Semaphore<S, F = ()> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Name>,
    pub(crate) key: KeyOf,
    pub(crate) facts: F,
}

/// Where a call's key comes from.
#[derive(Debug, Clone)]
pub(crate) enum KeyOf {
    Nobody,
    Bound(Name),
    Request,
}

impl KeyOf {
    pub(crate) const fn bound(&self) -> Option<&Name> {
        match self {
            Self::Bound(key) => Some(key),
            Self::Nobody | Self::Request => None,
        }
    }
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
        let key = match &self.key {
            KeyOf::Nobody => None,
            KeyOf::Bound(key) => Some(&**key),
            KeyOf::Request => self.facts.key(&req),
        };
        match self.shared.enter(key, limit, now) {
            Entered::Permit(permit) => ResponseFuture::called(self.inner.call(req), permit),
            Entered::Queue(place) => {
                self.let_go();
                let (inner, name) = (self.inner.clone(), self.name.clone());
                ResponseFuture::waiting(inner, req, place, limit, name)
            }
            Entered::Refused(refusal) => {
                let read = || key.map(Name::from).or_else(|| self.name.clone());
                let name = self.key.bound().cloned().or_else(read);
                let rejection = rejection(&refusal, name);
                self.let_go();
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
