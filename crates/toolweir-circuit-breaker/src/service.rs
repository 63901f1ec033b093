//! The services: the whole breaker, and its two halves.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use toolweir_core::{
    AsRejection, CarryLease, Classify, ErrIsFailure, Lease, LeaseOwner, Rejection,
};
use tower_service::Service;

use crate::{AdmissionFuture, ResponseFuture, dispatched::Dispatched, shared::Shared};

/// The whole breaker around a service: admits or refuses a call, dispatches and observes it.
///
/// It asks nothing of the request. Clones share the circuit.
#[derive(Debug, Clone)]
pub struct CircuitBreaker<S, C = ErrIsFailure> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
}

impl<S, C, Req> Service<Req> for CircuitBreaker<S, C>
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

    fn call(&mut self, req: Req) -> Self::Future {
        match self.shared.dispatch(None) {
            Ok(ticket) => {
                let mut call = Dispatched::new(self.shared.clone(), ticket);
                let future = call.inside(|| self.inner.call(req));
                ResponseFuture::dispatched(future, call, self.classify.clone())
            }
            Err(refusal) => ResponseFuture::refused(refusal.into_rejection(self.name.as_ref())),
        }
    }
}

/// The outer half: admits a call and puts a lease into its request, or refuses it.
///
/// Clones share the circuit.
#[derive(Debug, Clone)]
pub struct Admission<S> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl<S, Req> Service<Req> for Admission<S>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    Req: CarryLease,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Req) -> Self::Future {
        match self.shared.admit() {
            Ok(ticket) => {
                let owner: Arc<dyn LeaseOwner> = self.shared.clone();
                req.put_lease(Lease::new(owner, ticket));
                AdmissionFuture::admitted(self.inner.call(req))
            }
            Err(refusal) => AdmissionFuture::refused(refusal.into_rejection(self.name.as_ref())),
        }
    }
}

/// The inner half: takes the lease at dispatch and observes how the call goes.
///
/// A lease that has expired, or that is older than the circuit's last transition, is admitted anew,
/// so this half refuses calls too. A request without a lease is dispatched whatever the circuit is;
/// it is observed, and in half-open not counted. Clones share the circuit.
#[derive(Debug, Clone)]
pub struct Observer<S, C = ErrIsFailure> {
    pub(crate) inner: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
}

impl<S, C, Req> Service<Req> for Observer<S, C>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
    Req: CarryLease,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Req) -> Self::Future {
        let ticket = match req.take_lease(&*self.shared) {
            Some(lease) => self.shared.dispatch(Some(lease.redeem())),
            None => Ok(self.shared.dispatch_unadmitted()),
        };
        match ticket {
            Ok(ticket) => {
                let mut call = Dispatched::new(self.shared.clone(), ticket);
                let future = call.inside(|| self.inner.call(req));
                ResponseFuture::dispatched(future, call, self.classify.clone())
            }
            Err(refusal) => ResponseFuture::refused(refusal.into_rejection(self.name.as_ref())),
        }
    }
}
