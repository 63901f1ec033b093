//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use toolweir_core::{Facts, Reason, Rejection, time::saturating_add};
use tower_service::Service;

use crate::{
    future::{ResponseFuture, Wait},
    shared::{Limit, Shared},
};

/// A service whose calls wait until the server behind it is warm. From
/// [`WarmUpLayer`](crate::WarmUpLayer).
///
/// Clones share the layer's warmth.
#[derive(Debug, Clone)]
pub struct WarmedUp<S, F = ()> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) facts: F,
}

impl<S, F, Req> Service<Req> for WarmedUp<S, F>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection>,
    F: Facts<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, S::Future, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self.shared.look() {
            Some(Ok(())) => ResponseFuture::calling(self.inner.call(request)),
            Some(Err(rejection)) => ResponseFuture::refused(with_key(rejection, &self.name)),
            None => {
                let wait = self.wait(self.facts.deadline(&request));
                // What the readied instance holds is of use to others while we wait.
                self.inner = self.inner.clone();
                ResponseFuture::warming(wait, self.inner.clone(), request)
            }
        }
    }
}

impl<S, F> WarmedUp<S, F> {
    fn wait(&self, deadline: Option<Instant>) -> Wait {
        let patience = saturating_add(Instant::now(), self.shared.plan().config.max_wait);
        let limit = match deadline {
            Some(until) if until < patience => Limit {
                until,
                reason: Reason::DeadlineTooShort,
            },
            _ => Limit {
                until: patience,
                reason: Reason::WaitTooLong,
            },
        };
        let shared = self.shared.clone();
        let name = self.name.clone();
        Box::pin(async move {
            let warm = shared.wait(limit).await;
            warm.map_err(|rejection| with_key(rejection, &name))
        })
    }
}

pub(crate) fn with_key(rejection: Rejection, name: &Option<Arc<str>>) -> Rejection {
    match name {
        // The refusal of a layer further in has a key of its own.
        Some(name) if rejection.key().is_none() => rejection.with_key(name.clone()),
        _ => rejection,
    }
}
