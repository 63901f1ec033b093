//! What the layer promises, on a paused clock.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use toolweir_core::{
    AsRejection, BoxError, BoxFuture, CheckHealth, Delivery, Health, Observation, Outcome, Reason,
    Rejection, ReportState as _,
};
use toolweir_health_gate::{
    HealthGateConfig, HealthGateConfigBuilder, HealthGateLayer, Probe, UnknownPolicy, probe_fn,
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> HealthGateConfigBuilder {
    HealthGateConfig::builder()
        .period(10 * SECOND)
        .timeout(4 * SECOND)
        .failure_threshold(3)
        .success_threshold(1)
}

/// A probe whose results the test scripts and counts. Beyond the script the server is well.
#[derive(Clone, Default)]
struct Script {
    probes: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<End>>>,
}

enum End {
    Well(Duration),
    Unwell(&'static str),
    Refused(Rejection),
    Panic,
    Never,
}

impl Script {
    fn of(ends: impl IntoIterator<Item = End>) -> Self {
        let mut ends: Vec<_> = ends.into_iter().collect();
        ends.reverse();
        Self {
            probes: Arc::default(),
            ends: Arc::new(Mutex::new(ends)),
        }
    }

    fn down() -> Self {
        Self::of((0..100).map(|_| End::Unwell("connection refused")))
    }

    fn probe(&self) -> impl Probe + use<> {
        let this = self.clone();
        probe_fn(move || {
            this.probes.fetch_add(1, Ordering::SeqCst);
            let end = this.ends.lock().unwrap().pop();
            async move {
                match end {
                    None => Ok(()),
                    Some(End::Well(duration)) => {
                        sleep(duration).await;
                        Ok(())
                    }
                    Some(End::Unwell(error)) => Err(error.into()),
                    Some(End::Refused(rejection)) => Err(rejection.into()),
                    Some(End::Panic) => panic!("the probe panics, as it was told to"),
                    Some(End::Never) => std::future::pending().await,
                }
            }
        })
    }

    fn layer_of(&self, builder: HealthGateConfigBuilder) -> HealthGateLayer {
        HealthGateLayer::new(builder.build().unwrap(), self.probe())
    }

    fn layer(&self) -> HealthGateLayer {
        self.layer_of(builder())
    }

    fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }
}

/// Makes one call, which must not wait.
#[track_caller]
fn call(layer: &HealthGateLayer, works: bool) -> Result<(), BoxError> {
    let inner = service_fn(|works: bool| async move {
        if works {
            Ok(())
        } else {
            Err(BoxError::from("broken pipe"))
        }
    });
    let mut call = Box::pin(layer.layer(inner).oneshot(works));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the call waits"),
    }
}

/// Makes a call that takes so long.
fn slow_call(
    layer: &HealthGateLayer,
    duration: Duration,
    works: bool,
) -> tokio::task::JoinHandle<Result<(), BoxError>> {
    let inner = service_fn(move |works: bool| async move {
        sleep(duration).await;
        if works {
            Ok(())
        } else {
            Err(BoxError::from("broken pipe"))
        }
    });
    tokio::spawn(layer.layer(inner).oneshot(works))
}

#[track_caller]
fn rejection(result: Result<(), BoxError>) -> Rejection {
    let error = result.expect_err("the call is refused");
    error.as_rejection().expect("it is a refusal").clone()
}

#[track_caller]
fn failed(result: Result<(), BoxError>) {
    let error = result.expect_err("the call fails");
    assert!(error.as_rejection().is_none(), "the call was made");
}

/// Lets every task that can run do so, without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A layer whose server is unhealthy: three calls have failed at the present time.
#[track_caller]
fn closed(script: &Script, builder: HealthGateConfigBuilder) -> HealthGateLayer {
    let layer = script.layer_of(builder);
    for _ in 0..3 {
        failed(call(&layer, false));
    }
    assert_eq!(layer.handle().state().health, Health::Unhealthy);
    layer
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_known_calls_pass_and_their_results_tell() {
    let script = Script::default();
    let layer = script.layer();
    assert_eq!(layer.handle().state().health, Health::Unknown);
    call(&layer, true).unwrap();
    assert_eq!(layer.handle().state().health, Health::Healthy);
    settle().await;
    assert_eq!(script.probes(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_known_calls_may_be_refused_instead() {
    let script = Script::of([End::Well(2 * SECOND)]);
    let layer = script
        .layer_of(builder().unknown(UnknownPolicy::Refuse))
        .name("music");
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.layer(), "health-gate");
    assert_eq!(refused.reason(), Reason::HealthUnknown);
    assert_eq!(refused.key(), Some("music"));
    assert_eq!(refused.retry_after(), Some(SECOND / 4));
    // The probe runs behind, and there is one of it.
    settle().await;
    sleep(SECOND).await;
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.retry_after(), Some(SECOND));
    sleep(SECOND).await;
    settle().await;
    call(&layer, true).unwrap();
    assert_eq!(script.probes(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_close_the_gate() {
    let script = Script::default();
    let layer = script.layer();
    failed(call(&layer, false));
    failed(call(&layer, false));
    call(&layer, true).unwrap();
    failed(call(&layer, false));
    failed(call(&layer, false));
    assert!(layer.handle().state().is_open);
    failed(call(&layer, false));
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.reason(), Reason::Unhealthy);
    assert_eq!(refused.detail(), Some("a call failed"));
}

#[tokio::test(start_paused = true)]
async fn failed_probes_close_the_gate_too() {
    let script = Script::down();
    let layer = script.layer();
    let handle = layer.handle();
    for failures in 1..=3 {
        assert!(handle.state().is_open);
        assert_eq!(
            handle.check_health().await.error_type.as_deref(),
            Some("probe-failed")
        );
        assert_eq!(handle.state().failures, failures);
        sleep(10 * SECOND).await;
    }
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.detail(), Some("connection refused"));
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_says_when_the_next_probe_is_due() {
    let script = Script::default();
    let layer = closed(&script, builder());
    settle().await;
    let probes = script.probes();
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.retry_after(), Some(10 * SECOND));
    sleep(7 * SECOND).await;
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.retry_after(), Some(3 * SECOND));
    settle().await;
    assert_eq!(script.probes(), probes);
    assert_eq!(layer.handle().report().retry_after_ms, Some(3000));
}

#[tokio::test(start_paused = true)]
async fn the_call_that_finds_a_probe_due_starts_it_and_is_refused() {
    let script = Script::default();
    let layer = closed(&script, builder());
    sleep(10 * SECOND).await;
    let probes = script.probes();
    for _ in 0..100 {
        let refused = rejection(call(&layer, true));
        assert_eq!(refused.retry_after(), Some(SECOND / 4));
    }
    settle().await;
    assert_eq!(script.probes(), probes + 1);
    call(&layer, true).unwrap();
    let state = layer.handle().state();
    assert_eq!((state.health, state.error), (Health::Healthy, None));
}

#[tokio::test(start_paused = true)]
async fn it_takes_as_many_successes_as_configured_to_open() {
    let script = Script::default();
    let layer = closed(&script, builder().success_threshold(3));
    for successes in 0..3 {
        assert_eq!(layer.handle().state().successes, successes);
        sleep(10 * SECOND).await;
        rejection(call(&layer, true));
        settle().await;
    }
    call(&layer, true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_ends_the_row_of_successes() {
    let ends = [End::Well(SECOND), End::Well(SECOND), End::Unwell("down")];
    let script = Script::of(ends);
    let layer = closed(&script, builder().success_threshold(2));
    for successes in [1, 0, 1] {
        sleep(20 * SECOND).await;
        let report = layer.handle().check_health().await;
        assert!(!report.is_healthy);
        assert_eq!(layer.handle().state().successes, successes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_from_before_the_trip_does_not_open_the_gate() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer, true).unwrap();
    let late = slow_call(&layer, SECOND, true);
    settle().await;
    for _ in 0..3 {
        failed(call(&layer, false));
    }
    late.await.unwrap().unwrap();
    assert_eq!(layer.handle().state().health, Health::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn a_probe_from_before_the_trip_does_not_open_the_gate() {
    let script = Script::of([End::Well(3 * SECOND)]);
    let layer = closed(&script, builder());
    settle().await;
    assert!(layer.handle().state().is_probing);
    sleep(4 * SECOND).await;
    let state = layer.handle().state();
    assert_eq!((state.health, state.is_probing), (Health::Unhealthy, false));
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_the_recovery_does_not_count() {
    let script = Script::default();
    let layer = script.layer();
    let late: Vec<_> = (0..3)
        .map(|_| slow_call(&layer, 30 * SECOND, false))
        .collect();
    settle().await;
    for _ in 0..3 {
        failed(call(&layer, false));
    }
    sleep(10 * SECOND).await;
    assert!(layer.handle().check_health().await.is_healthy);
    for call in late {
        failed(call.await.unwrap());
    }
    assert_eq!(layer.handle().state().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_succeed_spare_the_probe() {
    let script = Script::default();
    let layer = script.layer();
    for _ in 0..100 {
        call(&layer, true).unwrap();
        sleep(SECOND).await;
    }
    // The one for the unknown server at first.
    assert_eq!(script.probes(), 1);
    assert!(layer.handle().state().age_ms.unwrap() <= 6000);
}

#[tokio::test(start_paused = true)]
async fn after_a_quiet_time_a_call_passes_with_a_probe_behind_it() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer, true).unwrap();
    settle().await;
    sleep(3600 * SECOND).await;
    assert_eq!(script.probes(), 1);
    call(&layer, true).unwrap();
    settle().await;
    assert_eq!(script.probes(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_servers_health_counts_for_nothing() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer, true).unwrap();
    settle().await;
    sleep(SECOND).await;
    for outcome in [
        Outcome::Throttled { retry_after: None },
        Outcome::Unauthorized,
        Outcome::Ignored,
    ] {
        let classify =
            move |_: Result<&(), &BoxError>| Observation::new(outcome, Delivery::Executed);
        let inner = service_fn(|(): ()| async { Err::<(), _>(BoxError::from("429")) });
        let mut service = layer.clone().with_classifier(classify).layer(inner);
        for _ in 0..10 {
            failed(service.ready().await.unwrap().call(()).await);
        }
    }
    let state = layer.handle().state();
    assert_eq!((state.failures, state.age_ms), (0, Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_an_inner_layer_is_no_failure() {
    let script = Script::default();
    let layer = script.layer();
    let refuses = service_fn(|(): ()| async {
        Err::<(), BoxError>(Rejection::new("semaphore", Reason::QueueFull).into())
    });
    let mut service = layer.layer(refuses);
    for _ in 0..10 {
        let refused = rejection(service.ready().await.unwrap().call(()).await);
        assert_eq!(refused.layer(), "semaphore");
    }
    assert_eq!(layer.handle().state().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_counts_for_nothing() {
    let script = Script::default();
    let layer = script.layer();
    for _ in 0..10 {
        let call = slow_call(&layer, SECOND, false);
        settle().await;
        call.abort();
    }
    settle().await;
    assert_eq!(layer.handle().state().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_has_failed() {
    let script = Script::of([End::Never]);
    let layer = script.layer();
    let start = Instant::now();
    let report = layer.handle().check_health().await;
    assert_eq!(start.elapsed(), 4 * SECOND);
    assert_eq!(
        report.error.as_deref(),
        Some("the probe took longer than 4s")
    );
    assert_eq!(report.error_type.as_deref(), Some("probe-timed-out"));
    assert_eq!(report.latency_ms, Some(4000));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed() {
    let script = Script::of([End::Panic]);
    let layer = script.layer();
    let report = layer.handle().check_health().await;
    assert_eq!(report.error_type.as_deref(), Some("probe-panicked"));
    sleep(10 * SECOND).await;
    assert!(layer.handle().check_health().await.error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_probe_is_neither_a_failure_nor_a_success() {
    let refusal = || {
        let refusal = Rejection::new("rate-limit", Reason::QuotaSpent);
        End::Refused(refusal.with_retry_after(2 * SECOND))
    };
    let script = Script::of((0..6).map(|_| refusal()));
    let layer = script.layer_of(builder().unknown(UnknownPolicy::Refuse));
    for _ in 0..5 {
        let report = layer.handle().check_health().await;
        assert_eq!(report.health, Health::Unknown);
        assert_eq!(report.retry_after_ms, Some(2000));
        // Who comes earlier is not the one to ask again.
        layer.handle().check_health().await;
        sleep(2 * SECOND).await;
    }
    assert_eq!(script.probes(), 5);
    assert_eq!(layer.handle().state().failures, 0);
    layer.handle().check_health().await;
    let refused = rejection(call(&layer, true));
    assert_eq!(refused.retry_after(), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn one_probe_serves_all_who_ask() {
    let script = Script::of([End::Well(2 * SECOND)]);
    let layer = script.layer();
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let handle = layer.handle();
            tokio::spawn(async move { handle.check_health().await })
        })
        .collect();
    settle().await;
    // The first one's end is not the probe's.
    asking[0].abort();
    for asking in asking.into_iter().skip(1) {
        let report = asking.await.unwrap();
        assert_eq!(report.health, Health::Healthy);
        assert_eq!((report.latency_ms, report.age_ms), (Some(2000), Some(0)));
    }
    assert_eq!(script.probes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recent_result_is_told_without_a_probe() {
    let script = Script::default();
    let layer = script.layer();
    let handle = layer.handle();
    let as_trait: &dyn CheckHealth = &handle;
    as_trait.check_health().await;
    sleep(9 * SECOND).await;
    let report = as_trait.check_health().await;
    assert_eq!(report.age_ms, Some(9000));
    assert_eq!(report.retry_after_ms, Some(1000));
    assert_eq!(script.probes(), 1);
    sleep(SECOND).await;
    assert_eq!(as_trait.check_health().await.age_ms, Some(0));
    assert_eq!(script.probes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dormant_server_is_not_probed_and_calls_pass() {
    let script = Script::default();
    let layer = closed(&script, builder());
    settle().await;
    let probes = script.probes();
    let handle = layer.handle();
    handle.set_dormant();
    sleep(3600 * SECOND).await;
    let report = handle.check_health().await;
    assert_eq!((report.health, report.is_healthy), (Health::Dormant, true));
    assert_eq!(report.retry_after_ms, None);
    assert!(handle.report().ready);
    let waking = slow_call(&layer, SECOND, true);
    settle().await;
    assert_eq!(handle.state().health, Health::Dormant);
    waking.await.unwrap().unwrap();
    assert_eq!(handle.state().health, Health::Healthy);
    assert_eq!(script.probes(), probes);
}

/// A server that can be asleep, and counts what would wake it.
#[derive(Clone, Default)]
struct Sleeper {
    asleep: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    probes: Arc<AtomicUsize>,
}

impl Probe for Sleeper {
    fn probe(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        let down = self.down.load(Ordering::SeqCst);
        Box::pin(async move { if down { Err("down".into()) } else { Ok(()) } })
    }

    fn is_dormant(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_found_dormant_is_not_probed_until_a_call_has_woken_it() {
    let server = Sleeper::default();
    let layer = HealthGateLayer::new(builder().build().unwrap(), server.clone());
    let handle = layer.handle();
    assert_eq!(handle.check_health().await.health, Health::Healthy);
    server.asleep.store(true, Ordering::SeqCst);
    sleep(11 * SECOND).await;

    let report = handle.check_health().await;
    assert_eq!((report.health, report.is_healthy), (Health::Dormant, true));
    sleep(100 * SECOND).await;
    assert_eq!(handle.check_health().await.health, Health::Dormant);
    assert_eq!(server.probes.load(Ordering::SeqCst), 1);

    server.asleep.store(false, Ordering::SeqCst);
    call(&layer, true).unwrap();
    assert_eq!(handle.state().health, Health::Healthy);
    sleep(11 * SECOND).await;
    handle.check_health().await;
    assert_eq!(server.probes.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_call_that_wakes_a_server_counts_though_it_started_the_probe() {
    let server = Sleeper::default();
    server.asleep.store(true, Ordering::SeqCst);
    let layer = HealthGateLayer::new(builder().build().unwrap(), server.clone());
    let waking = slow_call(&layer, SECOND, true);
    sleep(SECOND / 2).await;
    assert_eq!(layer.handle().state().health, Health::Dormant);
    waking.await.unwrap().unwrap();
    assert_eq!(layer.handle().state().health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_server_that_was_stopped_is_let_wake() {
    let server = Sleeper::default();
    server.down.store(true, Ordering::SeqCst);
    let layer = HealthGateLayer::new(
        builder().failure_threshold(1).build().unwrap(),
        server.clone(),
    );
    let handle = layer.handle();
    assert_eq!(handle.check_health().await.health, Health::Unhealthy);
    server.asleep.store(true, Ordering::SeqCst);
    sleep(11 * SECOND).await;
    // This one is still refused, and has it looked at.
    rejection(call(&layer, true));
    sleep(SECOND).await;
    assert!(handle.state().is_open);
    call(&layer, true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dormant_server_that_does_not_wake_is_unknown_and_then_unhealthy() {
    let script = Script::down();
    let layer = script.layer();
    layer.handle().set_dormant();
    failed(call(&layer, false));
    assert_eq!(layer.handle().state().health, Health::Unknown);
    failed(call(&layer, false));
    failed(call(&layer, false));
    assert_eq!(layer.handle().state().health, Health::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn a_reset_forgets_what_is_known_and_what_is_under_way() {
    let script = Script::default();
    let layer = script.layer();
    let late: Vec<_> = (0..3).map(|_| slow_call(&layer, SECOND, false)).collect();
    settle().await;
    layer.handle().reset();
    for call in late {
        failed(call.await.unwrap());
    }
    let state = layer.handle().state();
    assert_eq!((state.health, state.failures), (Health::Unknown, 0));
    assert_eq!((state.age_ms, state.latency_ms), (None, None));
}

#[tokio::test(start_paused = true)]
async fn the_service_need_not_be_clone() {
    struct NotClone;

    impl Service<()> for NotClone {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }

    let mut service = Script::default().layer().layer(NotClone);
    service.ready().await.unwrap().call(()).await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

#[test]
fn outside_a_runtime_calls_are_judged_and_nothing_is_probed() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer, true).unwrap();
    assert_eq!(layer.handle().state().probes, 0);
    let layer = script.layer_of(builder().unknown(UnknownPolicy::Refuse));
    rejection(call(&layer, true));
    assert_eq!(layer.handle().state().probes, 0);
}

#[test]
fn the_end_of_the_runtime_ends_a_probe_and_says_nothing() {
    let script = Script::of([End::Never]);
    let layer = script.layer_of(builder().unknown(UnknownPolicy::Refuse));
    let first = runtime();
    first.block_on(async {
        rejection(call(&layer, true));
        settle().await;
        assert!(layer.handle().state().is_probing);
    });
    drop(first);
    let state = layer.handle().state();
    assert_eq!((state.is_probing, state.failures), (false, 0));
    runtime().block_on(async {
        sleep(10 * SECOND).await;
        assert!(layer.handle().check_health().await.is_healthy);
    });
}

#[test]
fn a_probe_in_a_runtime_that_nobody_drives_is_given_up() {
    let script = Script::of([End::Never]);
    let layer = script.layer_of(builder().unknown(UnknownPolicy::Refuse));
    let idle = runtime();
    idle.block_on(async {
        rejection(call(&layer, true));
        settle().await;
    });
    runtime().block_on(async {
        sleep(4 * SECOND).await;
        rejection(call(&layer, true));
        assert_eq!(layer.handle().state().probes, 1);
        sleep(4 * SECOND).await;
        rejection(call(&layer, true));
        settle().await;
        assert_eq!(layer.handle().state().probes, 2);
    });
    drop(idle);
    // What the first one says by its end is of no interest any more.
    let state = layer.handle().state();
    assert_eq!((state.health, state.failures), (Health::Healthy, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_outlives_the_gate_by_its_timeout_at_most() {
    let script = Script::of([End::Never]);
    let layer = script.layer();
    let asking = tokio::spawn({
        let handle = layer.handle();
        async move { handle.check_health().await }
    });
    settle().await;
    asking.abort();
    drop(layer);
    let metrics = tokio::runtime::Handle::current().metrics();
    settle().await;
    assert_eq!(metrics.num_alive_tasks(), 1);
    sleep(5 * SECOND).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_report_says_what_a_call_would_meet() {
    let script = Script::default();
    let layer = closed(&script, builder()).name("music");
    let report = layer.handle().report();
    assert!(!report.ready);
    assert_eq!(report.retry_after_ms, Some(250));
    settle().await;
    assert_eq!(
        layer.handle().report().reason.as_deref(),
        Some(
            "health-gate refused the call for \"music\": the server is unhealthy \
             (a call failed); retry after 10s"
        )
    );
    layer.handle().reset();
    assert!(layer.handle().report().ready);
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn the_state_serialises() {
    let layer = Script::of([End::Well(SECOND)]).layer();
    layer.handle().check_health().await;
    sleep(2 * SECOND).await;
    assert_eq!(
        serde_json::to_value(layer.handle().state()).unwrap(),
        serde_json::json!({
            "health": "healthy",
            "is_open": true,
            "failures": 0,
            "successes": 0,
            "is_probing": false,
            "probes": 1,
            "latency_ms": 1000,
            "error": null,
            "error_type": null,
            "age_ms": 2000,
            "probe_due_in_ms": 8000,
        })
    );
}
