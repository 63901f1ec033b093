//! Every order in which threads can meet, for what is done without a lock: admission, in half-open
//! too, generations, and refusals from what stands beside the machine.

#![cfg(toolweir_loom)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, Ready, poll_fn, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use toolweir_circuit_breaker::{
    Circuit, CircuitBreakerConfig, CircuitBreakerConfigBuilder, CircuitBreakerLayer,
};
use toolweir_core::{AsRejection, BoxError, Delivery, Observation, Outcome, Reason, Rejection};
use tower::{Layer, Service, service_fn};

/// An open period so short that it is over when the clock is read again.
const NO_TIME: Duration = Duration::from_nanos(1);
const PAUSE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(1_000);

type Answered = Result<Outcome, BoxError>;
type Classifier = fn(Result<&Outcome, &BoxError>) -> Observation;
type Breaker = CircuitBreakerLayer<Classifier>;

/// One failure opens it, and one probe may be out.
fn config() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .sliding_window_size(1)
        .failure_rate_threshold(100)
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .probe_lease(LONG)
        .jitter(0)
}

fn breaker(config: CircuitBreakerConfigBuilder) -> Breaker {
    let classify = |result: Result<&Outcome, &BoxError>| match result {
        Ok(outcome) => Observation::new(*outcome, Delivery::Executed),
        Err(_) => Observation::new(Outcome::Failure, Delivery::Ambiguous),
    };
    CircuitBreakerLayer::new(config.build().unwrap()).with_classifier(classify)
}

fn poll<F: Future>(future: Pin<&mut F>) -> F::Output {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it answers at once"),
    }
}

/// Makes a call that the server answers at once.
fn call(breaker: &Breaker, outcome: Outcome) -> Result<(), Rejection> {
    let server = service_fn(move |()| -> Ready<Answered> { ready(Ok(outcome)) });
    match poll(pin!(breaker.layer(server).call(()))) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.as_rejection().unwrap().clone()),
    }
}

/// A call that is under way, and succeeds once it is polled.
fn begin(breaker: &Breaker) -> impl Future<Output = Answered> + Send + use<> {
    let server = service_fn(|()| ready(Ok::<_, BoxError>(Outcome::Success)));
    breaker.layer(server).call(())
}

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(run);
}

/// Lets the shortest open period pass.
fn wait() {
    let before = tokio::time::Instant::now();
    while tokio::time::Instant::now() <= before {}
}

#[test]
fn no_more_probes_are_out_than_are_permitted() {
    model(|| {
        let breaker = breaker(
            config()
                .wait_duration_in_open_state(NO_TIME)
                .max_wait_duration_in_open_state(NO_TIME)
                .success_threshold(10),
        );
        call(&breaker, Outcome::Failure).unwrap();
        wait();
        let out = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (breaker, out) = (breaker.clone(), out.clone());
                thread::spawn(move || probe(&breaker, &out))
            })
            .collect();
        let refused = threads
            .into_iter()
            .map(|thread| u64::from(!thread.join().unwrap()))
            .sum::<u64>();
        let state = breaker.handle().state();
        assert_eq!(state.state, Circuit::HalfOpen);
        assert_eq!(state.probes.out, 0);
        assert_eq!(u64::from(state.probes.successes) + refused, 2);
        assert_eq!(state.rejected_calls, refused);
    });
}

/// Makes a call, and sees that no other is out. Whether it was admitted.
fn probe(breaker: &Breaker, out: &Arc<AtomicUsize>) -> bool {
    let counts = out.clone();
    let server = service_fn(move |()| {
        assert_eq!(
            counts.fetch_add(1, Ordering::SeqCst),
            0,
            "two probes are out"
        );
        let counts = counts.clone();
        poll_fn(move |_| {
            counts.fetch_sub(1, Ordering::SeqCst);
            Poll::Ready(Ok::<_, BoxError>(Outcome::Success))
        })
    });
    poll(pin!(breaker.layer(server).call(()))).is_ok()
}

#[test]
fn a_success_from_before_the_trip_does_not_close_the_circuit() {
    model(|| {
        let breaker = breaker(
            config()
                .wait_duration_in_open_state(NO_TIME)
                .max_wait_duration_in_open_state(LONG),
        );
        let early = begin(&breaker);
        call(&breaker, Outcome::Failure).unwrap();
        wait();
        let failing = {
            let breaker = breaker.clone();
            thread::spawn(move || call(&breaker, Outcome::Failure).unwrap())
        };
        poll(Box::pin(early).as_mut()).unwrap();
        failing.join().unwrap();
        let state = breaker.handle().state();
        // Closed, open, half-open, open: nothing in between.
        assert_eq!((state.state, state.generation), (Circuit::Open, 3));
        assert_eq!(state.stale_outcomes, 1);
    });
}

#[test]
fn an_outcome_meets_a_trip_and_counts_before_it_or_not_at_all() {
    model(|| {
        let breaker = breaker(config().wait_duration_in_open_state(LONG));
        let early = begin(&breaker);
        let failing = {
            let breaker = breaker.clone();
            thread::spawn(move || call(&breaker, Outcome::Failure).unwrap())
        };
        poll(Box::pin(early).as_mut()).unwrap();
        failing.join().unwrap();
        let state = breaker.handle().state();
        assert_eq!((state.state, state.generation), (Circuit::Open, 1));
        assert_eq!((state.window.calls, state.window.failures), (1, 1));
    });
}

#[test]
fn a_refusal_names_the_time_and_the_reason_of_one_moment() {
    model(|| {
        let breaker = breaker(
            config()
                .wait_duration_in_open_state(LONG)
                .max_wait_duration_in_open_state(LONG),
        );
        call(&breaker, Outcome::Failure).unwrap();
        let operator = {
            let breaker = breaker.clone();
            thread::spawn(move || {
                breaker.handle().reset();
                let retry_after = Some(PAUSE);
                // A call may have been let in, and have closed nothing.
                call(&breaker, Outcome::Throttled { retry_after }).unwrap();
            })
        };
        if let Err(rejection) = call(&breaker, Outcome::Ignored) {
            let wait = rejection.retry_after().unwrap();
            // The clock was read before the pause began, perhaps.
            let paused = PAUSE * 2;
            match rejection.reason() {
                Reason::CircuitOpen => assert!(wait > paused, "{rejection}"),
                Reason::Throttled => assert!(wait <= paused, "{rejection}"),
                reason => panic!("{reason}"),
            }
        }
        operator.join().unwrap();
        assert_eq!(breaker.handle().reason(), Some(Reason::Throttled));
    });
}

#[test]
fn a_key_that_two_threads_ask_for_first_has_one_circuit() {
    model(|| {
        let breaker = breaker(config().wait_duration_in_open_state(LONG));
        let other = {
            let breaker = breaker.clone();
            thread::spawn(move || call(&breaker.for_key("search"), Outcome::Failure).is_ok())
        };
        let ours = call(&breaker.for_key("search"), Outcome::Failure).is_ok();
        let passed = u32::from(ours) + u32::from(other.join().unwrap());
        let state = breaker.for_key("search").handle().state();
        assert_eq!((state.state, state.openings), (Circuit::Open, 1));
        assert!(passed >= 1);
        assert_eq!(breaker.handle().keys().evicted, 0);
    });
}
