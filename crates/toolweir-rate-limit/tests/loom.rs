//! Every order in which threads can meet at the bookings.

#![cfg(toolweir_loom)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use loom::thread;
use tokio::runtime::{EnterGuard, Runtime};
use toolweir_core::{BoxError, Facts};
use toolweir_rate_limit::{RateLimitConfig, RateLimitHandle, RateLimitLayer};
use tower::{Layer, Service, service_fn};

const MILLI: Duration = Duration::from_millis(1);
/// In which one cell comes back.
const INTERVAL: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_millis(50);

/// Its clock moves only where a model moves it. Each model has its own: they run side by side, and all
/// threads of one are on one thread of the machine.
fn runtime() -> &'static Runtime {
    thread_local! {
        static RUNTIME: &'static Runtime = {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            Box::leak(Box::new(builder.enable_time().start_paused(true).build().unwrap()))
        };
    }
    RUNTIME.with(|runtime| *runtime)
}

fn in_runtime() -> EnterGuard<'static> {
    runtime().enter()
}

fn pass(time: Duration) {
    runtime().block_on(tokio::time::advance(time));
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let _in_runtime = in_runtime();
        check();
    });
}

fn spawn<T: 'static>(act: impl FnOnce() -> T + 'static) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        let _in_runtime = in_runtime();
        act()
    })
}

#[derive(Debug, Clone, Copy)]
struct ById;

impl Facts<&'static str> for ById {
    fn call_id<'r>(&self, id: &'r &'static str) -> Option<&'r str> {
        (!id.is_empty()).then_some(*id)
    }
}

type Limit = RateLimitLayer<toolweir_core::ErrIsFailure, ById>;
type Held = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

fn limit(burst: u32, max_wait: Duration) -> Limit {
    let config = RateLimitConfig::builder()
        .quota(1, INTERVAL)
        .burst(burst)
        .max_wait(max_wait)
        .booking_grace(GRACE);
    RateLimitLayer::new(config.build().unwrap()).with_facts(ById)
}

fn call(limit: &Limit, id: &'static str) -> Held {
    let answer = |_: &'static str| -> Ready<Result<(), BoxError>> { ready(Ok(())) };
    Box::pin(limit.layer(service_fn(answer)).call(id))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Passed,
    Refused,
    Waits,
}

fn poll(call: &mut Held) -> Seen {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => Seen::Passed,
        Poll::Ready(Err(_)) => Seen::Refused,
        Poll::Pending => Seen::Waits,
    }
}

fn seen(limit: &Limit, id: &'static str) -> Seen {
    poll(&mut call(limit, id))
}

/// Those that have a booking, that came for theirs, and that did not.
fn booked(handle: &RateLimitHandle) -> (usize, u64, u64) {
    let state = handle.state();
    assert_eq!(state.waiting, 0);
    (
        state.bookings,
        state.redeemed_bookings,
        state.lapsed_bookings,
    )
}

/// Two callers come back late, and only one cell is there.
#[test]
fn the_last_cell_is_redeemed_by_one() {
    model(|| {
        let limit = limit(1, Duration::ZERO);
        assert_eq!(seen(&limit, ""), Seen::Passed);
        assert_eq!(seen(&limit, "a"), Seen::Refused);
        pass(40 * MILLI);
        assert_eq!(seen(&limit, "b"), Seen::Refused);
        pass(60 * MILLI);
        let other = limit.clone();
        let thread = spawn(move || seen(&other, "a"));
        let stranger = seen(&limit, "c");
        assert_eq!(
            (stranger, thread.join().unwrap()),
            (Seen::Refused, Seen::Passed)
        );
        assert_eq!(booked(&limit.handle()), (2, 1, 0));
        pass(INTERVAL);
        let other = limit.clone();
        let thread = spawn(move || seen(&other, "b"));
        let again = seen(&limit, "b");
        let both = [again, thread.join().unwrap()];
        assert!(both.contains(&Seen::Passed) && both.contains(&Seen::Refused));
        assert_eq!(limit.handle().state().passed_calls, 3);
    });
}

/// A caller waits for its slot and is dropped, just as it has its turn and another one comes.
#[test]
fn a_caller_that_is_dropped_while_it_waits_has_taken_nothing() {
    model(|| {
        let limit = limit(1, 30 * MILLI);
        assert_eq!(seen(&limit, ""), Seen::Passed);
        assert_eq!(seen(&limit, "a"), Seen::Refused);
        pass(80 * MILLI);
        let mut waiting = call(&limit, "a");
        assert_eq!(poll(&mut waiting), Seen::Waits);
        pass(20 * MILLI);
        let thread = spawn(move || drop(waiting));
        let first = seen(&limit, "a");
        thread.join().unwrap();
        // Before the drop it is another call, for which there is no cell.
        let again = seen(&limit, "a");
        let passed = [first, again]
            .into_iter()
            .filter(|seen| *seen == Seen::Passed);
        assert_eq!(passed.count(), 1);
        assert_eq!(limit.handle().state().redeemed_bookings, 1);
    });
}

/// A caller comes at the end of its grace.
#[test]
fn a_booking_is_redeemed_or_lapses_and_never_both() {
    model(|| {
        let limit = limit(2, Duration::ZERO);
        assert_eq!(seen(&limit, ""), Seen::Passed);
        assert_eq!(seen(&limit, ""), Seen::Passed);
        assert_eq!(seen(&limit, "a"), Seen::Refused);
        pass(INTERVAL + GRACE);
        let (other, handle) = (limit.clone(), limit.handle());
        let thread = spawn(move || seen(&other, "a"));
        pass(MILLI);
        let (bookings, redeemed, lapsed) = booked(&handle);
        assert_eq!(bookings as u64 + redeemed + lapsed, 1);
        // If it has lapsed, there is a cell for whoever comes.
        assert_eq!(thread.join().unwrap(), Seen::Passed);
        let (bookings, redeemed, lapsed) = booked(&handle);
        assert_eq!((bookings, redeemed + lapsed), (0, 1));
        assert_eq!(handle.state().passed_calls, 3);
    });
}

/// A pause comes just as a caller is back at its time.
#[test]
fn a_pause_lets_a_returning_caller_pass_before_it_or_keeps_its_booking() {
    model(|| {
        let limit = limit(1, Duration::ZERO);
        assert_eq!(seen(&limit, ""), Seen::Passed);
        assert_eq!(seen(&limit, "a"), Seen::Refused);
        pass(INTERVAL);
        let other = limit.clone();
        let thread = spawn(move || seen(&other, "a"));
        let handle = limit.handle();
        handle.pause(INTERVAL);
        let seen_first = thread.join().unwrap();
        let passed = u64::from(seen_first == Seen::Passed);
        let (bookings, redeemed, _) = booked(&handle);
        assert_eq!((bookings as u64, redeemed), (1 - passed, passed));
        pass(INTERVAL);
        let wanted = if passed == 1 { "" } else { "a" };
        assert_eq!(seen(&limit, wanted), Seen::Passed);
    });
}
