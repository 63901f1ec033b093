//! A call allocates nothing, whether it passes or is refused.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use toolweir_circuit_breaker::{
    CircuitBreakerConfig, CircuitBreakerConfigBuilder, CircuitBreakerLayer,
};
use toolweir_core::{
    AsRejection, CarryLease, ErrIsFailure, Facts, Lease, LeaseOwner, LeaseSlot, Reason, Rejection,
};
use tower::{Layer, Service, service_fn};

#[derive(Debug)]
enum Failed {
    Refused(Rejection),
    Reset,
}

impl From<Rejection> for Failed {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl AsRejection for Failed {
    fn as_rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Refused(rejection) => Some(rejection),
            Self::Reset => None,
        }
    }
}

/// A call that succeeds or not.
#[derive(Debug, Default)]
struct Job {
    fails: bool,
    leases: LeaseSlot,
}

impl CarryLease for Job {
    fn put_lease(&mut self, lease: Lease) {
        self.leases.put_lease(lease);
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        self.leases.take_lease(owner)
    }
}

#[derive(Clone)]
struct Tool;

impl Facts<Job> for Tool {
    fn key<'r>(&self, _: &'r Job) -> Option<&'r str> {
        Some("add_to_playlist")
    }
}

type Breaker = CircuitBreakerLayer<ErrIsFailure, Tool>;

fn breaker(builder: CircuitBreakerConfigBuilder) -> Breaker {
    let config = builder
        .slow_call_duration_threshold(Duration::from_secs(10))
        .build()
        .unwrap();
    CircuitBreakerLayer::new(config)
        .name("music")
        .with_facts(Tool)
}

fn server(fails: bool) -> Ready<Result<(), Failed>> {
    ready(if fails { Err(Failed::Reset) } else { Ok(()) })
}

fn call(
    service: &mut impl Service<Job, Response = (), Error = Failed>,
    fails: bool,
) -> Option<Reason> {
    let job = Job {
        fails,
        ..Job::default()
    };
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(service.call(job)).poll(&mut cx) {
        Poll::Ready(Err(Failed::Refused(rejection))) => Some(rejection.reason()),
        Poll::Ready(_) => None,
        Poll::Pending => panic!("it answers at once"),
    }
}

/// How many allocations a hundred calls make, once there have been some.
fn allocations(layer: &Breaker, fails: bool, expected: Option<Reason>) -> u64 {
    let mut whole = layer.layer(service_fn(|job: Job| server(job.fails)));
    let mut halves = layer.admission().layer(
        layer
            .observation()
            .layer(service_fn(|job: Job| server(job.fails))),
    );
    call(&mut whole, fails);
    measure(|| {
        for _ in 0..100 {
            assert_eq!(call(&mut whole, fails), expected);
            assert_eq!(call(&mut halves, fails), expected);
        }
    })
    .count_total
}

fn counted() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder().minimum_number_of_calls(5)
}

fn timed() -> CircuitBreakerConfigBuilder {
    counted().sliding_window_duration(Duration::from_millis(1))
}

#[test]
fn closed_none() {
    for config in [counted(), timed()] {
        let layer = breaker(config);
        assert_eq!(allocations(&layer, false, None), 0);
        assert_eq!(allocations(&layer.clone().by_key(), false, None), 0);
        assert_eq!(allocations(&layer.for_key("search"), false, None), 0);
        layer.handle().observe_only("trying it out", None);
        assert_eq!(allocations(&layer, true, None), 0);
    }
}

#[test]
fn open_none() {
    for config in [counted(), timed()] {
        let layer = breaker(config);
        for layer in [layer.clone(), layer.for_key("search"), layer.by_key()] {
            let mut service = layer.layer(service_fn(|job: Job| server(job.fails)));
            while call(&mut service, true).is_none() {}
            assert_eq!(allocations(&layer, false, Some(Reason::CircuitOpen)), 0);
        }
    }
}

#[test]
fn held_open_none_whatever_the_operator_said() {
    let layer = breaker(counted());
    layer.handle().hold_open("migration of the database", None);
    assert_eq!(allocations(&layer, false, Some(Reason::HeldOpen)), 0);
    assert_eq!(
        allocations(&layer.by_key(), false, Some(Reason::HeldOpen)),
        0
    );
}
