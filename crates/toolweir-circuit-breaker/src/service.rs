//! The services: the whole breaker, and its two halves.
//!
//! Their `call`s and the `poll`s of their futures are inlined into the caller. A future that is made
//! where it stays need not be moved there, and moving it would be a third of what a call costs.

use std::{
    any::Any,
    sync::Arc,
    task::{Context, Poll},
};

use toolweir_core::{
    AsRejection, CarryLease, Classify, ErrIsFailure, Facts, Lease, LeaseOwner, Rejection,
};
use tower_service::Service;

use crate::{
    AdmissionFuture, ResponseFuture, circuits::Choice, dispatched::Dispatched, shared::Shared,
};

/// The whole breaker around a service: admits or refuses a call, dispatches and observes it.
///
/// It asks nothing of the request, save for the key where it goes by one. Clones share the circuits.
#[derive(Debug, Clone)]
pub struct CircuitBreaker<S, C = ErrIsFailure, F = ()> {
    pub(crate) inner: S,
    pub(crate) choice: Choice,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
    pub(crate) facts: F,
}

impl<S, C, F, Req> Service<Req> for CircuitBreaker<S, C, F>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
    F: Facts<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let mut now = None;
        let circuit = self.choice.circuit(&self.facts, &req, &mut now);
        match circuit.dispatch(None, now) {
            Ok(dispatched) => {
                let mut call = Dispatched::new(circuit.into_shared(), dispatched);
                let future = call.inside(|| self.inner.call(req));
                ResponseFuture::dispatched(future, call, self.classify.clone())
            }
            Err(refusal) => {
                ResponseFuture::refused(refusal, circuit.key_or(self.name.as_ref()).cloned())
            }
        }
    }
}

/// The outer half: admits a call and puts a lease into its request, or refuses it.
///
/// Clones share the circuits.
#[derive(Debug, Clone)]
pub struct Admission<S, F = ()> {
    pub(crate) inner: S,
    pub(crate) choice: Choice,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) facts: F,
}

impl<S, F, Req> Service<Req> for Admission<S, F>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    F: Facts<Req>,
    Req: CarryLease,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, mut req: Req) -> Self::Future {
        let mut now = None;
        let circuit = self.choice.circuit(&self.facts, &req, &mut now);
        match circuit.admit(now) {
            Ok(ticket) => {
                req.put_lease(Lease::new(circuit.into_shared(), ticket));
                AdmissionFuture::admitted(self.inner.call(req))
            }
            Err(refusal) => {
                AdmissionFuture::refused(refusal, circuit.key_or(self.name.as_ref()).cloned())
            }
        }
    }
}

/// The inner half: takes the lease at dispatch and observes how the call goes.
///
/// A lease that has expired, or that is older than the circuit's last transition, is admitted anew,
/// so this half refuses calls too. A request without a lease is dispatched whatever the circuit is;
/// it is observed, and in half-open not counted. Clones share the circuits.
#[derive(Debug, Clone)]
pub struct Observer<S, C = ErrIsFailure, F = ()> {
    pub(crate) inner: S,
    pub(crate) choice: Choice,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) classify: C,
    pub(crate) facts: F,
}

impl<S, C, F, Req> Service<Req> for Observer<S, C, F>
where
    S: Service<Req>,
    S::Error: From<Rejection> + AsRejection,
    C: Classify<S::Response, S::Error> + Clone,
    F: Facts<Req>,
    Req: CarryLease,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, mut req: Req) -> Self::Future {
        let lease = req.take_lease(self.choice.taker());
        let (circuit, dispatched) = match lease.and_then(redeem) {
            // The circuit that admitted the call: no key is looked up a second time.
            Some((circuit, ticket)) if self.choice.keeps(&circuit) => {
                let dispatched = circuit.dispatch(Some(ticket), None);
                (circuit, dispatched)
            }
            Some(admitted) => self.choice.dispatch_anew(admitted, &self.facts, &req),
            None => {
                let mut now = None;
                let circuit = self.choice.circuit(&self.facts, &req, &mut now);
                let dispatched = circuit.dispatch_unadmitted(now);
                (circuit.into_shared(), Ok(dispatched))
            }
        };
        match dispatched {
            Ok(dispatched) => {
                let mut call = Dispatched::new(circuit, dispatched);
                let future = call.inside(|| self.inner.call(req));
                ResponseFuture::dispatched(future, call, self.classify.clone())
            }
            Err(refusal) => {
                ResponseFuture::refused(refusal, circuit.key_or(self.name.as_ref()).cloned())
            }
        }
    }
}

/// The circuit that gave a lease, and what it wrote down.
fn redeem(lease: Lease) -> Option<(Arc<Shared>, toolweir_core::Ticket)> {
    let (owner, ticket) = lease.redeem_from();
    let owner: Arc<dyn LeaseOwner> = owner?;
    let owner: Arc<dyn Any + Send + Sync> = owner;
    Some((owner.downcast().ok()?, ticket))
}
