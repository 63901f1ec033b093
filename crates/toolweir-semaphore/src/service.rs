//! The service.
//!
//! Its `call` and its future's `poll` are inlined into the caller, as far as a call goes that need
//! not wait. What takes longer stays outside, and hands back parts of a future rather than a whole
//! one. So the future is made where it stays. Putting it together elsewhere and moving it there took
//! longer than all else that a call does here.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;
use toolweir_core::{AsRejection, Facts, Rejection};
use tower_service::Service;

use crate::{
    ResponseFuture,
    future::Wait,
    keys::Name,
    limit::Limit,
    refusal::rejection,
    shared::{Entered, InQueue, Permit, Shared},
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

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let permit = match self.shared.pass() {
            Some(permit) => permit,
            None => match self.ask(&req) {
                Answer::Permit(permit) => permit,
                Answer::Place(place, limit) => {
                    return ResponseFuture::waiting(self.wait(req, place, limit));
                }
                Answer::Refused(rejection) => return ResponseFuture::refused(rejection),
            },
        };
        ResponseFuture::called(self.inner.call(req), permit)
    }
}

/// What a call gets that may not go past the lock.
enum Answer {
    Permit(Permit),
    Place(InQueue, Limit),
    Refused(Box<Rejection>),
}

impl<S: Clone, F> Semaphore<S, F> {
    #[inline(never)]
    fn ask<Req>(&mut self, req: &Req) -> Answer
    where
        F: Facts<Req>,
    {
        if let Some(permit) = self.shared.try_acquire() {
            return Answer::Permit(permit);
        }
        let now = Instant::now();
        let limit = Limit::new(now, self.shared.max_wait(), self.facts.deadline(req));
        let key = match &self.key {
            KeyOf::Nobody => None,
            KeyOf::Bound(key) => Some(&**key),
            KeyOf::Request => self.facts.key(req),
        };
        match self.shared.enter(key, limit, now) {
            Entered::Permit(permit) => Answer::Permit(permit),
            Entered::Queue(place) => Answer::Place(place, limit),
            Entered::Refused(refusal) => {
                let read = || key.map(Name::from).or_else(|| self.name.clone());
                let name = self.key.bound().cloned().or_else(read);
                let rejection = rejection(&refusal, name);
                self.let_go();
                Answer::Refused(Box::new(rejection))
            }
        }
    }

    #[inline(never)]
    fn wait<Req>(&mut self, req: Req, place: InQueue, limit: Limit) -> Pin<Box<Wait<S, Req>>> {
        self.let_go();
        let (inner, name) = (self.inner.clone(), self.name.clone());
        Wait::new(inner, req, place, limit, name)
    }

    /// Drops the readied instance, which may hold something that others want, and keeps a fresh
    /// one.
    fn let_go(&mut self) {
        self.inner = self.inner.clone();
    }
}
