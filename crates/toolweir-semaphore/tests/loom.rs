//! Every order in which threads can meet: the way past the lock against the lock, and permits that
//! come against waiters that go.

#![cfg(toolweir_loom)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, Pending, Ready, ready},
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tokio::runtime::{EnterGuard, Runtime};
use toolweir_core::BoxError;
use toolweir_semaphore::{SemaphoreConfig, SemaphoreHandle, SemaphoreLayer};
use tower::{Layer, Service, service_fn};

/// A wait needs a runtime's timer, which is no part of a model: its time never comes. Its clock stands
/// still: how long a permit was held decides who may go past the lock, and each run of a model has to
/// go the same way.
fn in_runtime() -> EnterGuard<'static> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    RUNTIME.get_or_init(build).enter()
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

fn semaphore(permits: usize) -> SemaphoreLayer {
    let config = SemaphoreConfig::builder()
        .permits(permits)
        .max_queue(10)
        .max_wait(Duration::from_secs(1_000_000));
    SemaphoreLayer::new(config.build().unwrap())
}

type Held = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A call that never ends.
fn call(layer: &SemaphoreLayer) -> Held {
    let never = |()| -> Pending<Result<(), BoxError>> { std::future::pending() };
    Box::pin(layer.layer(service_fn(never)).call(()))
}

/// A call that ends when it has its permit. `None`: it waits.
fn call_through(layer: &SemaphoreLayer) -> Option<()> {
    let answer = |()| -> Ready<Result<(), BoxError>> { ready(Ok(())) };
    let call = pin!(layer.layer(service_fn(answer)).call(()));
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result.unwrap()),
        Poll::Pending => None,
    }
}

struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(call: &mut Held) -> std::sync::Arc<Wakes> {
    let wakes = std::sync::Arc::new(Wakes(AtomicUsize::new(0)));
    let waker = Waker::from(wakes.clone());
    let poll = call.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll.is_pending());
    wakes
}

fn figures(handle: &SemaphoreHandle) -> (usize, usize) {
    let state = handle.state();
    (state.in_flight, state.queued)
}

/// So many calls have been made and have ended, so that others go past the lock.
fn warm(layer: &SemaphoreLayer, calls: usize) {
    let held: Vec<Held> = (0..calls).map(|_| call(layer)).collect();
    drop(held);
}

#[test]
fn calls_that_go_past_are_counted() {
    model(|| {
        let layer = semaphore(3);
        warm(&layer, 3);
        let other = layer.clone();
        let thread = spawn(move || call_through(&other).unwrap());
        call_through(&layer).unwrap();
        let state = layer.handle().state();
        assert!(state.in_flight <= 1);
        thread.join().unwrap();
        let state = layer.handle().state();
        assert_eq!((state.in_flight, state.admitted_calls), (0, 5));
        assert_eq!(state.peak_in_flight, 3);
    });
}

/// No more are ever under way than there are permits, and what one did the next one sees.
#[test]
fn permits_are_held_by_one_at_a_time() {
    model(|| {
        let layer = semaphore(1);
        warm(&layer, 1);
        let cell = Arc::new(loom::cell::UnsafeCell::new(0));
        let add = |layer: &SemaphoreLayer, cell: &Arc<loom::cell::UnsafeCell<i32>>| {
            let service = service_fn(|()| {
                // Loom reports an access that another one may overlap.
                cell.with_mut(|_| ());
                ready(Ok::<_, BoxError>(()))
            });
            let call = pin!(layer.layer(service).call(()));
            call.poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        };
        let (other, others) = (layer.clone(), cell.clone());
        let thread = spawn(move || add(&other, &others));
        let first = add(&layer, &cell);
        let second = thread.join().unwrap();
        assert!(first || second);
        assert_eq!(figures(&layer.handle()), (0, 0));
    });
}

/// A permit that comes back finds the call that waits, or the call finds it. None is lost between.
#[test]
fn a_release_does_not_miss_a_call_that_begins_to_wait() {
    model(|| {
        let layer = semaphore(1);
        warm(&layer, 1);
        let holder = call(&layer);
        let thread = spawn(move || {
            drop(holder);
        });
        let mut waiting = call(&layer);
        let wakes = poll(&mut waiting);
        thread.join().unwrap();
        // Its permit had come before it looked, or it was woken for it.
        let woken = wakes.0.load(Ordering::SeqCst);
        assert_eq!(figures(&layer.handle()), (1, 0));
        assert!(woken <= 1);
        let again = poll(&mut waiting);
        assert_eq!(again.0.load(Ordering::SeqCst), 0);
        drop(waiting);
        assert_eq!(figures(&layer.handle()), (0, 0));
    });
}

/// Whether its turn has come or not when it is dropped, the next one gets the permit.
#[test]
fn a_waiter_that_is_dropped_as_its_turn_comes_hands_on() {
    model(|| {
        let layer = semaphore(1);
        warm(&layer, 1);
        let holder = call(&layer);
        let mut first = call(&layer);
        let mut second = call(&layer);
        let _ = poll(&mut first);
        let wakes = poll(&mut second);
        let release = spawn(move || drop(holder));
        drop(first);
        release.join().unwrap();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(figures(&layer.handle()), (1, 0));
        drop(second);
        assert_eq!(figures(&layer.handle()), (0, 0));
    });
}

#[test]
fn growth_and_a_release_serve_two() {
    model(|| {
        let layer = semaphore(1);
        warm(&layer, 1);
        let holder = call(&layer);
        let mut waiting = [call(&layer), call(&layer), call(&layer)];
        let wakes = waiting.each_mut().map(poll);
        let release = spawn(move || drop(holder));
        layer.handle().resize(2).unwrap();
        release.join().unwrap();
        let woken = wakes.map(|wakes| wakes.0.load(Ordering::SeqCst));
        assert_eq!(woken, [1, 1, 0]);
        assert_eq!(figures(&layer.handle()), (2, 1));
    });
}

/// What is taken away is not given out by the way past the lock.
#[test]
fn nobody_goes_past_what_a_resize_has_taken_away() {
    model(|| {
        let layer = semaphore(2);
        warm(&layer, 2);
        let other = layer.clone();
        let thread = spawn(move || (call(&other), call(&other)));
        layer.handle().resize(1).unwrap();
        let (under_way, _) = figures(&layer.handle());
        let calls = thread.join().unwrap();
        let (in_flight, queued) = figures(&layer.handle());
        assert_eq!(in_flight + queued, 2);
        // Once it holds, none begins over it.
        assert!(
            in_flight <= under_way.max(1),
            "{under_way}, then {in_flight}"
        );
        drop(calls);
        assert_eq!(figures(&layer.handle()), (0, 0));
    });
}

/// A permit comes back just as the high-water marks are begun anew.
#[test]
fn marks_are_no_lower_than_what_is_under_way() {
    model(|| {
        let layer = semaphore(3);
        warm(&layer, 3);
        let other = layer.clone();
        let thread = spawn(move || (call(&other), call(&other)));
        let _ = layer.handle().reset_peaks();
        let calls = thread.join().unwrap();
        let state = layer.handle().state();
        assert_eq!((state.in_flight, state.peak_in_flight), (2, 2));
        drop(calls);
    });
}
