//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use toolweir_core::{
    AsRejection, Classify, ErrIsFailure, Facts, Reason, Rejection, time::saturating_add,
};
use tower_service::Service;

use crate::{
    future::{Observer, ResponseFuture, Wait},
    shared::{Admission, Limit, Shared},
    state::Demand,
};

/// A service whose calls go out with a fresh token. From
/// [`TokenFreshnessLayer`](crate::TokenFreshnessLayer).
///
/// Clones share the layer's token.
#[derive(Debug, Clone)]
pub struct TokenFreshness<S, C = ErrIsFailure, F = ()> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
    pub(crate) facts: F,
}

impl<S, C, F, Req> Service<Req> for TokenFreshness<S, C, F>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
    F: Facts<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, S::Future, Req, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let observer = Observer {
            shared: self.shared.clone(),
            classify: self.classify.clone(),
        };
        let mut demand = Demand {
            min_ttl: self.facts.min_ttl(&request),
            waiting_since: None,
        };
        let now = Instant::now();
        if let Some(generation) = self.shared.fresh(demand, now) {
            return ResponseFuture::calling(self.inner.call(request), generation, observer);
        }
        // Read before the state is: a token that comes in between is not held to account for this
        // call.
        let generation = self.shared.generation();
        match self.shared.admit(demand, now) {
            Admission::Pass => {
                ResponseFuture::calling(self.inner.call(request), generation, observer)
            }
            Admission::Refuse(rejection) => {
                ResponseFuture::refused(with_key(rejection, &self.name), observer)
            }
            Admission::Wait => {
                demand.waiting_since = Some(generation);
                let wait = self.wait(demand, self.facts.deadline(&request), now);
                // What the readied instance holds is of use to others while we wait.
                self.inner = self.inner.clone();
                ResponseFuture::waiting(wait, self.inner.clone(), request, observer)
            }
        }
    }
}

impl<S, C, F> TokenFreshness<S, C, F> {
    fn wait(&self, demand: Demand, deadline: Option<Instant>, now: Instant) -> Wait {
        let patience = saturating_add(now, self.shared.config().max_wait);
        let limit = match deadline {
            Some(until) if until < patience => Limit {
                until,
                reason: Reason::DeadlineTooShort,
            },
            _ => Limit {
                until: patience,
                reason: Reason::TokenExpired,
            },
        };
        let shared = self.shared.clone();
        let name = self.name.clone();
        Box::pin(async move {
            let fresh = shared.wait(demand, limit).await;
            fresh.map_err(|rejection| with_key(rejection, &name))
        })
    }
}

pub(crate) fn with_key(rejection: Rejection, name: &Option<Arc<str>>) -> Rejection {
    match name {
        Some(name) => rejection.with_key(name.clone()),
        None => rejection,
    }
}
