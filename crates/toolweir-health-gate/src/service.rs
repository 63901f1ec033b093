//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use toolweir_core::{AsRejection, Classify, ErrIsFailure, Rejection};
use tower_service::Service;

use crate::{
    future::{Observer, ResponseFuture},
    shared::Shared,
};

/// A service that refuses calls while the server behind it is unhealthy. From
/// [`HealthGateLayer`](crate::HealthGateLayer).
///
/// Clones share the layer's gate.
#[derive(Debug, Clone)]
pub struct HealthGate<S, C = ErrIsFailure> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
}

impl<S, C, Req> Service<Req> for HealthGate<S, C>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self.shared.admit() {
            Ok(generation) => ResponseFuture::calling(
                self.inner.call(request),
                Observer {
                    shared: self.shared.clone(),
                    generation,
                    classify: self.classify.clone(),
                },
            ),
            Err(rejection) => ResponseFuture::refused(with_key(rejection, &self.name)),
        }
    }
}

pub(crate) fn with_key(rejection: Rejection, name: &Option<Arc<str>>) -> Rejection {
    match name {
        Some(name) => rejection.with_key(name.clone()),
        None => rejection,
    }
}
