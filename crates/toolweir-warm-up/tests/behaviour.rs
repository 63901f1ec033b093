//! What the layer promises, on a paused clock.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use toolweir_core::{AsRejection, BoxError, Facts, Reason, Rejection, ReportState as _};
use toolweir_warm_up::{WarmUpConfig, WarmUpHandle, WarmUpLayer, Warmth, step_fn};
use tower::{Layer, Service, ServiceExt as _, limit::ConcurrencyLimitLayer, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> WarmUpConfig {
    WarmUpConfig::builder()
        .timeout(20 * SECOND)
        .step_timeout(8 * SECOND)
        .max_wait(10 * SECOND)
        .initial_backoff(SECOND)
        .max_backoff(3 * SECOND)
        .build()
        .unwrap()
}

/// A step whose runs the test scripts and counts.
#[derive(Clone, Default)]
struct Script {
    runs: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<End>>>,
}

/// How a run of the step ends. Runs beyond the script end well at once.
enum End {
    Well(Duration),
    Badly(&'static str),
    Refused(Rejection),
    Panic,
    Never,
}

impl Script {
    fn of(ends: impl IntoIterator<Item = End>) -> Self {
        let mut ends: Vec<_> = ends.into_iter().collect();
        ends.reverse();
        Self {
            runs: Arc::default(),
            ends: Arc::new(Mutex::new(ends)),
        }
    }

    fn takes(duration: Duration) -> Self {
        Self::of((0..100).map(|_| End::Well(duration)))
    }

    fn step(&self) -> impl toolweir_warm_up::WarmUp + use<> {
        let this = self.clone();
        step_fn(move || {
            this.runs.fetch_add(1, Ordering::SeqCst);
            let end = this.ends.lock().unwrap().pop();
            async move {
                match end {
                    None => Ok(()),
                    Some(End::Well(duration)) => {
                        sleep(duration).await;
                        Ok(())
                    }
                    Some(End::Badly(error)) => Err(error.into()),
                    Some(End::Refused(rejection)) => Err(rejection.into()),
                    Some(End::Panic) => panic!("the step panics, as it was told to"),
                    Some(End::Never) => std::future::pending().await,
                }
            }
        })
    }

    fn layer(&self) -> WarmUpLayer {
        WarmUpLayer::new(config(), self.step())
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Makes one call through a clone of its own.
fn call<F: Facts<u32> + Clone + Send + 'static>(
    layer: &WarmUpLayer<F>,
) -> impl Future<Output = Result<u32, BoxError>> + Send + use<F> {
    let service = layer.layer(service_fn(|n| async move { Ok::<u32, BoxError>(n) }));
    service.oneshot(7)
}

fn spawn_call(layer: &WarmUpLayer) -> tokio::task::JoinHandle<Result<u32, BoxError>> {
    tokio::spawn(call(layer))
}

#[track_caller]
fn rejection(result: Result<u32, BoxError>) -> Rejection {
    let error = result.expect_err("the call is refused");
    error.as_rejection().expect("it is a refusal").clone()
}

/// Lets every task that can run do so, without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_call_waits_and_a_warm_one_does_not() {
    let script = Script::takes(2 * SECOND);
    let layer = script.layer();
    let start = Instant::now();
    assert_eq!(call(&layer).await.unwrap(), 7);
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(call(&layer).await.unwrap(), 7);
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_warm_up_serves_all_who_wait() {
    let script = Script::takes(2 * SECOND);
    let layer = script.layer();
    let calls: Vec<_> = (0..100).map(|_| spawn_call(&layer)).collect();
    sleep(SECOND).await;
    let handle = layer.handle();
    let (joined, ()) = tokio::join!(handle.warm_up(), async {
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
    joined.unwrap();
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_callers_cancellation_leaves_it_running_for_the_others() {
    let script = Script::takes(2 * SECOND);
    let layer = script.layer();
    let first = spawn_call(&layer);
    settle().await;
    assert_eq!(layer.handle().state().warmth, Warmth::Warming);
    let second = spawn_call(&layer);
    settle().await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_when_all_callers_are_gone() {
    let script = Script::takes(2 * SECOND);
    let layer = script.layer();
    let only = spawn_call(&layer);
    settle().await;
    only.abort();
    sleep(3 * SECOND).await;
    assert_eq!(layer.handle().state().warmth, Warmth::Warm);
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_wait_and_kept_for_nobody() {
    let script = Script::of([End::Badly("no such tool"), End::Well(SECOND)]);
    let layer = script.layer().name("music");
    let (one, two) = tokio::join!(call(&layer), call(&layer));
    for refused in [rejection(one), rejection(two)] {
        assert_eq!(refused.reason(), Reason::WarmUpFailed);
        assert_eq!(refused.layer(), "warm-up");
        assert_eq!(refused.key(), Some("music"));
        assert_eq!(refused.retry_after(), Some(SECOND));
        assert_eq!(refused.detail(), Some(r#"step "warm-up": no such tool"#));
    }
    assert_eq!(script.runs(), 1);
    sleep(SECOND).await;
    assert_eq!(call(&layer).await.unwrap(), 7);
    let state = layer.handle().state();
    assert_eq!((state.failures, state.last_error), (0, None));
}

#[tokio::test(start_paused = true)]
async fn while_it_rests_calls_are_refused_without_a_try() {
    let script = Script::of([End::Badly("down"), End::Badly("down"), End::Badly("down")]);
    let layer = script.layer();
    // Doubled each time, up to the longest backoff.
    for (runs, backoff) in [(1, 1), (2, 2), (3, 3)] {
        let refused = rejection(call(&layer).await);
        assert_eq!(refused.retry_after(), Some(backoff * SECOND));
        sleep(backoff * SECOND - SECOND / 4).await;
        let refused = rejection(call(&layer).await);
        assert_eq!(refused.retry_after(), Some(SECOND / 4));
        assert_eq!(script.runs(), runs);
        sleep(SECOND / 4).await;
    }
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_step_is_a_failure() {
    let script = Script::of([End::Panic]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.detail(), Some(r#"step "warm-up" panicked"#));
    sleep(SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_cut_off() {
    let script = Script::of([End::Never]);
    let layer = script.layer();
    let start = Instant::now();
    let refused = rejection(call(&layer).await);
    assert_eq!(start.elapsed(), 8 * SECOND);
    assert_eq!(
        refused.detail(),
        Some(r#"step "warm-up" took longer than 8s"#)
    );
    sleep(SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_steps_together_are_bounded() {
    let slow = Script::takes(7 * SECOND);
    let layer = WarmUpLayer::builder(config())
        .step("one", slow.step())
        .step("two", slow.step())
        .step("three", slow.step())
        .build()
        .unwrap();
    let start = Instant::now();
    let refused = layer.handle().warm_up().await.unwrap_err();
    assert_eq!(start.elapsed(), 20 * SECOND);
    assert_eq!(
        refused.detail(),
        Some(r#"not done within 20s; it was at step "three""#)
    );
}

#[tokio::test(start_paused = true)]
async fn steps_run_in_order_and_the_state_names_the_one_in_flight() {
    let slow = Script::takes(SECOND);
    let failing = Script::of([End::Badly("not allowed")]);
    let never_reached = Script::default();
    let layer = WarmUpLayer::builder(config())
        .step("connect", slow.step())
        .step("list tools", slow.step())
        .step("token", failing.step())
        .step("first call", never_reached.step())
        .build()
        .unwrap();
    let waiting = spawn_call(&layer);
    sleep(SECOND + SECOND / 2).await;
    let state = layer.handle().state();
    assert_eq!(state.step.as_deref(), Some("list tools"));
    assert_eq!(state.since_ms, Some(1500));
    let refused = rejection(waiting.await.unwrap());
    assert_eq!(refused.detail(), Some(r#"step "token": not allowed"#));
    assert_eq!((slow.runs(), never_reached.runs()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_longer_than_it_may() {
    let script = Script::takes(7 * SECOND);
    let config = WarmUpConfig::builder()
        .max_wait(2 * SECOND)
        .build()
        .unwrap();
    let layer = WarmUpLayer::new(config, script.step());
    let start = Instant::now();
    let refused = rejection(call(&layer).await);
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(refused.reason(), Reason::WaitTooLong);
    assert_eq!(refused.retry_after(), Some(2 * SECOND));
    // The warm-up goes on.
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.retry_after(), Some(4 * SECOND));
    sleep(4 * SECOND).await;
    assert_eq!(call(&layer).await.unwrap(), 7);
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_no_wait_allowed_the_first_call_starts_it_and_is_refused() {
    let script = Script::takes(SECOND);
    let config = WarmUpConfig::builder()
        .max_wait(Duration::ZERO)
        .build()
        .unwrap();
    let layer = WarmUpLayer::new(config, script.step());
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.reason(), Reason::WaitTooLong);
    sleep(2 * SECOND).await;
    assert_eq!(call(&layer).await.unwrap(), 7);
}

#[derive(Clone)]
struct Until(Instant);

impl Facts<u32> for Until {
    fn deadline(&self, _: &u32) -> Option<Instant> {
        Some(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_past_its_deadline() {
    let script = Script::takes(7 * SECOND);
    let start = Instant::now();
    let layer = script.layer().with_facts(Until(start + SECOND));
    let refused = rejection(call(&layer).await);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(refused.reason(), Reason::DeadlineTooShort);
    assert_eq!(refused.retry_after(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn after_an_invalidation_the_server_is_warmed_again() {
    let script = Script::takes(SECOND);
    let layer = script.layer();
    let handle = layer.handle();
    handle.warm_up().await.unwrap();
    handle.invalidate();
    assert_eq!(handle.state().warmth, Warmth::Cold);
    call(&layer).await.unwrap();
    assert_eq!(script.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_from_before_an_invalidation_warms_nothing() {
    let script = Script::takes(2 * SECOND);
    let layer = script.layer();
    let waiting = spawn_call(&layer);
    sleep(SECOND).await;
    let start = Instant::now();
    layer.handle().invalidate();
    waiting.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(script.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_ends_the_backoff() {
    let script = Script::of([End::Badly("down")]);
    let layer = script.layer();
    rejection(call(&layer).await);
    layer.handle().invalidate();
    call(&layer).await.unwrap();
}

/// A layer whose epoch the test moves.
fn with_epoch(steps: impl IntoIterator<Item = Script>) -> (WarmUpLayer, Arc<AtomicU64>) {
    let epoch = Arc::new(AtomicU64::new(0));
    let mut builder = WarmUpLayer::builder(config()).epoch({
        let epoch = epoch.clone();
        move || epoch.load(Ordering::SeqCst)
    });
    for (n, script) in steps.into_iter().enumerate() {
        builder = builder.step(format!("{n}"), script.step());
    }
    (builder.build().unwrap(), epoch)
}

#[tokio::test(start_paused = true)]
async fn another_epoch_is_cold() {
    let script = Script::takes(SECOND);
    let (layer, epoch) = with_epoch([script.clone()]);
    for runs in 1..4 {
        call(&layer).await.unwrap();
        call(&layer).await.unwrap();
        assert_eq!(script.runs(), runs);
        epoch.fetch_add(1, Ordering::SeqCst);
        assert_eq!(layer.handle().state().warmth, Warmth::Cold);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_step_may_bring_the_epoch_about() {
    let (connect, list) = (Script::takes(2 * SECOND), Script::takes(SECOND));
    let (layer, epoch) = with_epoch([connect.clone(), list.clone()]);
    let waiting = spawn_call(&layer);
    sleep(SECOND).await;
    epoch.store(1, Ordering::SeqCst);
    waiting.await.unwrap().unwrap();
    call(&layer).await.unwrap();
    assert_eq!((connect.runs(), list.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_under_a_later_step_runs_all_again() {
    let (connect, list) = (Script::takes(SECOND), Script::takes(2 * SECOND));
    let (layer, epoch) = with_epoch([connect.clone(), list.clone()]);
    let waiting = spawn_call(&layer);
    sleep(2 * SECOND).await;
    epoch.store(1, Ordering::SeqCst);
    waiting.await.unwrap().unwrap();
    assert_eq!((connect.runs(), list.runs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_holds_is_a_failure() {
    let steps = [Script::default(), Script::default()];
    let counter = AtomicU64::new(0);
    let layer = WarmUpLayer::builder(config())
        .step("one", steps[0].step())
        .step("two", steps[1].step())
        .epoch(move || counter.fetch_add(1, Ordering::SeqCst))
        .build()
        .unwrap();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.reason(), Reason::WarmUpFailed);
    assert_eq!((steps[0].runs(), steps[1].runs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_further_in_is_no_failure() {
    let refusal = Rejection::new("rate-limit", Reason::QuotaSpent).with_retry_after(5 * SECOND);
    let script = Script::of([End::Refused(refusal)]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.retry_after(), Some(5 * SECOND));
    assert_eq!(layer.handle().state().failures, 0);
    sleep(5 * SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_further_in_keeps_its_layer_reason_and_key() {
    let refusal = Rejection::new("rate-limit", Reason::QuotaSpent)
        .with_key("songs")
        .with_retry_after(5 * SECOND);
    let script = Script::of([End::Refused(refusal)]);
    let layer = script.layer().name("music");
    rejection(call(&layer).await);
    sleep(2 * SECOND).await;
    let refused = rejection(call(&layer).await);
    assert_eq!(
        (refused.layer(), refused.reason(), refused.key()),
        ("rate-limit", Reason::QuotaSpent, Some("songs"))
    );
    assert_eq!(refused.detail(), Some(r#"step "warm-up" of the warm-up"#));
    assert_eq!(refused.retry_after(), Some(3 * SECOND), "what is left");
    assert_eq!(script.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_mend_has_no_time_to_come_back() {
    let spent = || Rejection::new("mcp", Reason::RestartsSpent).with_detail("exit status 3");
    let script = Script::of([End::Refused(spent()), End::Refused(spent())]);
    let layer = script.layer().name("music");
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.reason(), Reason::RestartsSpent);
    assert_eq!(
        (refused.key(), refused.retry_after()),
        (Some("music"), None)
    );
    assert_eq!(
        refused.detail(),
        Some(r#"step "warm-up" of the warm-up: exit status 3"#)
    );
    // It is looked at again all the same, less and less often: a person may have mended it.
    sleep(SECOND).await;
    rejection(call(&layer).await);
    assert_eq!(script.runs(), 2);
    sleep(SECOND).await;
    rejection(call(&layer).await);
    assert_eq!(script.runs(), 2);
    sleep(SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_holds_nothing_of_the_inner_service() {
    let script = Script::takes(SECOND);
    let inner = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    let limited = ConcurrencyLimitLayer::new(1).layer(inner);
    let mut one = script.layer().layer(limited);
    let mut two = one.clone();
    let waiting = one.ready().await.unwrap().call(1);
    // The only permit is free again.
    two.ready().await.unwrap();
    let two = two.call(2);
    let (one, two) = tokio::join!(waiting, two);
    assert_eq!((one.unwrap(), two.unwrap()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn after_the_wait_another_instance_is_readied_first() {
    let (mock, mut inner) = tower_test::mock::pair::<u32, u32>();
    let script = Script::takes(SECOND);
    // The mock panics if it is called unreadied.
    let mut service = script.layer().layer(mock);
    inner.allow(1);
    service.ready().await.unwrap();
    let waiting = tokio::spawn(service.call(1));
    sleep(2 * SECOND).await;
    let (request, answer) = inner.next_request().await.unwrap();
    answer.send_response(request + 1);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_woken_only_when_there_is_something_to_do() {
    let script = Script::takes(5 * SECOND);
    let layer = script.layer();
    let mut waiting = Box::pin(call(&layer));
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        waiting.as_mut().poll(cx)
    })
    .await
    .unwrap();
    assert_eq!(polls, 2);
}

/// Says when it is dropped.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_who_could_want_it() {
    let dropped = Arc::new(Semaphore::new(0));
    let step = step_fn({
        let dropped = dropped.clone();
        move || {
            let held = Dropped(dropped.clone());
            async move {
                let _held = held;
                std::future::pending().await
            }
        }
    });
    let layer = WarmUpLayer::new(config(), step);
    let handle = layer.handle();
    let waiting = spawn_call(&layer);
    settle().await;
    drop(layer);
    waiting.abort();
    settle().await;
    assert_eq!(dropped.available_permits(), 0);
    drop(handle);
    settle().await;
    assert_eq!(dropped.available_permits(), 1);
}

#[test]
fn the_end_of_the_runtime_is_a_failure_like_others() {
    let script = Script::of([End::Never]);
    let layer = script.layer();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(async {
        let mut waiting = Box::pin(call(&layer));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        settle().await;
    });
    drop(first);
    let state = layer.handle().state();
    assert_eq!(state.warmth, Warmth::Failed);
    assert_eq!(
        state.last_error.as_deref(),
        Some(r#"the runtime ended during step "warm-up""#)
    );
    runtime().block_on(async {
        sleep(2 * SECOND).await;
        call(&layer).await.unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn the_handle_warms_and_its_error_is_the_rejection() {
    let script = Script::of([End::Badly("down")]);
    let layer = script.layer().name("music");
    let handle = layer.handle();
    let as_trait: &dyn toolweir_core::WarmUp = &handle;
    let error = as_trait.warm_up().await.unwrap_err();
    let refused = error.as_rejection().unwrap();
    assert_eq!(refused.reason(), Reason::WarmUpFailed);
    assert_eq!(refused.key(), Some("music"));
    sleep(SECOND).await;
    as_trait.warm_up().await.unwrap();
    let mut ready = layer.layer(service_fn(|n: u32| async move { Ok::<_, BoxError>(n) }));
    let mut cx = Context::from_waker(Waker::noop());
    let mut call = Box::pin(ready.ready().await.unwrap().call(3));
    assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(3))));
}

#[tokio::test(start_paused = true)]
async fn a_handle_can_be_a_step_of_another_layer() {
    let script = Script::of([End::Badly("down")]);
    let inner = script.layer();
    let outer = WarmUpLayer::new(config(), inner.handle());
    let refused = rejection(call(&outer).await);
    assert_eq!(refused.retry_after(), Some(SECOND));
    // The inner layer's refusal is no failure of the outer one's step.
    assert_eq!(outer.handle().state().failures, 0);
    sleep(SECOND).await;
    call(&outer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_left_waiting_when_all_happens_at_once() {
    let step = step_fn(|| async {
        tokio::task::yield_now().await;
        Ok(())
    });
    let config = WarmUpConfig::builder()
        .max_wait(3600 * SECOND)
        .build()
        .unwrap();
    let layer = WarmUpLayer::new(config, step);
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let layer = layer.clone();
            tokio::spawn(async move {
                for round in 0..500 {
                    if (round + n) % 8 == 0 {
                        layer.handle().invalidate();
                    }
                    assert_eq!(call(&layer).await.unwrap(), 7);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    layer.handle().warm_up().await.unwrap();
    assert_eq!(layer.handle().state().warmth, Warmth::Warm);
}

fn reported(handle: &WarmUpHandle) -> (bool, String, Option<u64>) {
    let report = handle.report();
    assert_eq!(report.layer, "warm-up");
    (
        report.ready,
        report.reason.unwrap_or_default(),
        report.retry_after_ms,
    )
}

#[tokio::test(start_paused = true)]
async fn the_report_says_what_a_call_would_meet() {
    let script = Script::of([End::Badly("down"), End::Well(2 * SECOND)]);
    let layer = script.layer();
    let handle = layer.handle();
    let cold = "cold: the next call warms the server up";
    assert_eq!(reported(&handle), (false, cold.to_owned(), None));
    rejection(call(&layer).await);
    let failed = r#"the last warm-up failed: step "warm-up": down"#;
    assert_eq!(reported(&handle), (false, failed.to_owned(), Some(1000)));
    sleep(SECOND).await;
    let waiting = spawn_call(&layer);
    sleep(SECOND).await;
    let warming = "the warm-up is in flight";
    assert_eq!(reported(&handle), (false, warming.to_owned(), Some(1000)));
    waiting.await.unwrap().unwrap();
    assert_eq!(reported(&handle), (true, String::new(), None));
    assert_eq!(handle.state().took_ms, Some(2000));
}

#[test]
fn a_layer_without_steps_is_refused() {
    let error = WarmUpLayer::builder(config()).build().unwrap_err();
    assert_eq!(error.to_string(), "`steps` must be at least 1, but is 0");
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn the_state_serialises() {
    let layer = Script::takes(SECOND).layer();
    layer.handle().warm_up().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(
        serde_json::to_value(layer.handle().state()).unwrap(),
        serde_json::json!({
            "warmth": "warm",
            "since_ms": 1000,
            "took_ms": 1000,
            "step": null,
            "warm_ups": 1,
            "failures": 0,
            "last_error": null,
            "retry_after_ms": null,
        })
    );
}
