//! What the layer promises, on a paused clock.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, advance, sleep};
use toolweir_core::{
    AsRejection, BoxError, BoxFuture, Delivery, EnsureFresh, Facts, Observation, Outcome, Reason,
    Rejection, ReportState as _,
};
use toolweir_token_freshness::{
    TokenError, TokenFreshnessConfig, TokenFreshnessLayer, TokenLife, TokenSource, TokenStatus,
};
use tower::{Layer, Service, ServiceExt as _, limit::ConcurrencyLimitLayer, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(100);

fn builder() -> toolweir_token_freshness::TokenFreshnessConfigBuilder {
    TokenFreshnessConfig::builder()
        .refresh_ahead(20 * SECOND)
        .min_ttl(5 * SECOND)
        .refresh_timeout(30 * SECOND)
        .max_wait(10 * SECOND)
        .initial_backoff(SECOND)
        .max_backoff(4 * SECOND)
        .jitter(0)
}

fn config() -> TokenFreshnessConfig {
    builder().build().unwrap()
}

/// A source whose answers the test scripts and counts. Beyond the script it refreshes at once.
#[derive(Clone, Default)]
struct Script(Arc<Inner>);

#[derive(Default)]
struct Inner {
    current: Mutex<Option<Answer>>,
    refreshes: Mutex<Vec<Answer>>,
    current_calls: AtomicUsize,
    refresh_calls: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

enum Answer {
    Now(Result<TokenLife, TokenError>),
    After(Duration, Result<TokenLife, TokenError>),
    Panic,
    Never,
}

fn fine() -> Answer {
    Answer::Now(Ok(TokenLife::of(LIFE)))
}

fn slow(seconds: u64) -> Answer {
    Answer::After(Duration::from_secs(seconds), Ok(TokenLife::of(LIFE)))
}

fn down() -> Answer {
    Answer::Now(Err(TokenError::unavailable("down")))
}

fn revoked() -> TokenError {
    TokenError::rejected("invalid_grant", "run `music login`")
}

impl Script {
    fn of(refreshes: impl IntoIterator<Item = Answer>) -> Self {
        let this = Self::default();
        let mut refreshes: Vec<_> = refreshes.into_iter().collect();
        refreshes.reverse();
        *this.0.refreshes.lock().unwrap() = refreshes;
        this
    }

    fn with_current(self, answer: Answer) -> Self {
        *self.0.current.lock().unwrap() = Some(answer);
        self
    }

    fn layer(&self) -> TokenFreshnessLayer {
        TokenFreshnessLayer::new(config(), self.clone())
    }

    fn refreshes(&self) -> usize {
        self.0.refresh_calls.load(Ordering::SeqCst)
    }

    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        let now = self.0.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let landed = Landed(self.0.clone());
        Box::pin(async move {
            let _landed = landed;
            match answer {
                Answer::Now(answer) => answer,
                Answer::After(duration, answer) => {
                    sleep(duration).await;
                    answer
                }
                Answer::Panic => panic!("the source panics, as it was told to"),
                Answer::Never => std::future::pending().await,
            }
        })
    }
}

struct Landed(Arc<Inner>);

impl Drop for Landed {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TokenSource for Script {
    fn current(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        self.0.current_calls.fetch_add(1, Ordering::SeqCst);
        let answer = self.0.current.lock().unwrap().take();
        self.answer(answer.unwrap_or(Answer::Now(Ok(TokenLife::EXPIRED))))
    }

    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        self.0.refresh_calls.fetch_add(1, Ordering::SeqCst);
        let answer = self.0.refreshes.lock().unwrap().pop();
        self.answer(answer.unwrap_or_else(fine))
    }
}

/// Makes one call through a clone of its own.
fn call<F: Facts<u32> + Clone + Send + 'static>(
    layer: &TokenFreshnessLayer<toolweir_core::ErrIsFailure, F>,
) -> impl Future<Output = Result<u32, BoxError>> + Send + use<F> {
    let service = layer.layer(service_fn(|n| async move { Ok::<u32, BoxError>(n) }));
    service.oneshot(7)
}

fn spawn_call(layer: &TokenFreshnessLayer) -> tokio::task::JoinHandle<Result<u32, BoxError>> {
    tokio::spawn(call(layer))
}

/// Makes a call that must not wait.
#[track_caller]
fn call_at_once(layer: &TokenFreshnessLayer) -> Result<u32, BoxError> {
    let mut call = Box::pin(call(layer));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the call waits"),
    }
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
async fn the_first_call_gets_a_token_and_the_next_ones_use_it() {
    let script = Script::of([slow(2)]);
    let layer = script.layer();
    let start = Instant::now();
    assert_eq!(call(&layer).await.unwrap(), 7);
    assert_eq!(start.elapsed(), 2 * SECOND);
    for _ in 0..1000 {
        call_at_once(&layer).unwrap();
    }
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_source_has_is_used_first() {
    let script = Script::default().with_current(fine());
    let layer = script.layer();
    call(&layer).await.unwrap();
    assert_eq!(script.refreshes(), 0);
    // The same windows hold for it.
    sleep(80 * SECOND).await;
    call_at_once(&layer).unwrap();
    settle().await;
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_long_life_is_refreshed_in_time() {
    let current = Answer::Now(Ok(TokenLife::of(15 * SECOND)));
    let script = Script::default().with_current(current);
    let layer = script.layer();
    call(&layer).await.unwrap();
    settle().await;
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_a_life_make_one_token_call_a_life() {
    let script = Script::of((0..20).map(|_| slow(2)));
    let layer = script.layer();
    for _ in 0..100 {
        let calls: Vec<_> = (0..100).map(|_| spawn_call(&layer)).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        sleep(10 * SECOND).await;
    }
    // A life of 100 seconds is renewed 20 seconds before its end, at a call every 10 seconds.
    assert!((11..=14).contains(&script.refreshes()));
    assert_eq!(script.0.most_in_flight.load(Ordering::SeqCst), 1);
    assert_eq!(script.0.current_calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn in_the_advisory_window_it_is_refreshed_behind_the_calls() {
    let script = Script::of([fine(), slow(5)]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    sleep(80 * SECOND - Duration::from_millis(1)).await;
    call_at_once(&layer).unwrap();
    assert!(!layer.handle().state().is_refreshing);
    sleep(Duration::from_millis(1)).await;
    for _ in 0..100 {
        call_at_once(&layer).unwrap();
    }
    assert!(layer.handle().state().is_refreshing);
    sleep(5 * SECOND).await;
    settle().await;
    assert_eq!(layer.handle().state().expires_in_ms, Some(100_000));
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn in_the_mandatory_window_calls_wait_for_the_one_refresh() {
    let script = Script::of([fine(), slow(2)]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    sleep(95 * SECOND).await;
    let start = Instant::now();
    let calls: Vec<_> = (0..100).map(|_| spawn_call(&layer)).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn short_lives_narrow_the_windows() {
    let short = || Answer::Now(Ok(TokenLife::of(8 * SECOND)));
    let script = Script::of([short(), short()]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    let state = layer.handle().state();
    assert_eq!(state.refresh_in_ms, Some(4000));
    // A quarter of the life, and not the five seconds of the configuration.
    sleep(5 * SECOND).await;
    call_at_once(&layer).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_callers_cancellation_leaves_the_refresh_running() {
    let script = Script::of([slow(2)]);
    let layer = script.layer();
    let first = spawn_call(&layer);
    settle().await;
    let second = spawn_call(&layer);
    settle().await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_not_cut_off_when_nobody_is_left() {
    let script = Script::of([slow(2)]);
    let layer = script.layer();
    let only = spawn_call(&layer);
    settle().await;
    only.abort();
    drop(layer);
    settle().await;
    assert_eq!(script.0.in_flight.load(Ordering::SeqCst), 1);
    sleep(3 * SECOND).await;
    assert_eq!(script.0.in_flight.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_is_said_and_served_through_while_the_token_is_valid() {
    let script = Script::of([fine(), down(), down(), down(), down()]);
    let layer = script.layer();
    let handle = layer.handle();
    call(&layer).await.unwrap();
    sleep(80 * SECOND).await;
    // At 80, 81, 83 and 87 seconds: the backoff doubles, up to its longest.
    for (failures, next) in [(1, 1000), (2, 2000), (3, 4000), (4, 4000)] {
        call_at_once(&layer).unwrap();
        settle().await;
        let state = handle.state();
        assert_eq!(state.status, TokenStatus::Valid);
        assert_eq!(
            (state.failures, state.next_attempt_in_ms),
            (failures, Some(next))
        );
        assert_eq!(state.last_error.as_deref(), Some("down"));
        sleep(Duration::from_millis(next - 1)).await;
        call_at_once(&layer).unwrap();
        assert!(!handle.state().is_refreshing);
        sleep(Duration::from_millis(1)).await;
    }
    call_at_once(&layer).unwrap();
    settle().await;
    let state = handle.state();
    assert_eq!((state.failures, state.last_error), (0, None));
    assert_eq!(script.refreshes(), 6);
}

#[tokio::test(start_paused = true)]
async fn in_the_mandatory_window_too_it_is_served_while_valid() {
    let script = Script::of([fine(), down()]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    sleep(95 * SECOND).await;
    call(&layer).await.unwrap();
    assert_eq!(layer.handle().state().failures, 1);
    call_at_once(&layer).unwrap();
}

#[tokio::test(start_paused = true)]
async fn patience_ends_with_the_token_that_is_still_valid() {
    let script = Script::of([fine(), Answer::Never]);
    let config = builder().max_wait(2 * SECOND).build().unwrap();
    let layer = TokenFreshnessLayer::new(config, script.clone());
    call(&layer).await.unwrap();
    sleep(95 * SECOND).await;
    let start = Instant::now();
    call(&layer).await.unwrap();
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn once_it_has_expired_calls_are_refused_until_the_next_try() {
    let script = Script::of([fine(), down(), down()]);
    let layer = script.layer().name("music");
    call(&layer).await.unwrap();
    sleep(100 * SECOND).await;
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.layer(), "token-freshness");
    assert_eq!(refused.reason(), Reason::TokenExpired);
    assert_eq!(refused.key(), Some("music"));
    assert_eq!(refused.detail(), Some("down"));
    assert_eq!(refused.retry_after(), Some(SECOND));
    sleep(SECOND / 2).await;
    let refused = rejection(call_at_once(&layer));
    assert_eq!(refused.retry_after(), Some(SECOND / 2));
    assert_eq!(script.refreshes(), 2);
    sleep(SECOND / 2).await;
    assert_eq!(
        rejection(call(&layer).await).retry_after(),
        Some(2 * SECOND)
    );
    sleep(2 * SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_for_time_gets_it() {
    let busy = TokenError::unavailable("busy").with_retry_after(60 * SECOND);
    let never = TokenError::unavailable("busy").with_retry_after(Duration::MAX);
    let script = Script::of([Answer::Now(Err(busy)), Answer::Now(Err(never))]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.retry_after(), Some(60 * SECOND));
    sleep(60 * SECOND).await;
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.retry_after(), Some(3600 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_grant_is_served_through_and_then_told_with_its_remedy() {
    let script = Script::of([fine(), Answer::Now(Err(revoked()))]);
    let layer = script.layer();
    let handle = layer.handle();
    call(&layer).await.unwrap();
    sleep(80 * SECOND).await;
    call_at_once(&layer).unwrap();
    settle().await;
    assert!(handle.state().is_grant_rejected);
    for _ in 0..19 {
        sleep(SECOND).await;
        call_at_once(&layer).unwrap();
    }
    sleep(SECOND).await;
    for _ in 0..100 {
        let refused = rejection(call_at_once(&layer));
        assert_eq!(refused.reason(), Reason::GrantRejected);
        assert_eq!(refused.retry_after(), None);
        assert_eq!(
            refused.detail(),
            Some("invalid_grant; to recover, run `music login`")
        );
        sleep(60 * SECOND).await;
    }
    assert_eq!(script.refreshes(), 2);
    assert_eq!(
        handle.state().recovery.as_deref(),
        Some("run `music login`")
    );
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_the_terminal_state() {
    let script = Script::of([Answer::Now(Err(revoked()))]);
    let layer = script.layer();
    rejection(call(&layer).await);
    layer.handle().reset();
    assert_eq!(layer.handle().state().status, TokenStatus::Unknown);
    call(&layer).await.unwrap();
    assert_eq!(script.0.current_calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_supplied_token_ends_the_terminal_state() {
    let script = Script::of([Answer::Now(Err(revoked()))]);
    let layer = script.layer();
    rejection(call(&layer).await);
    layer.handle().supply(TokenLife::of(LIFE));
    call_at_once(&layer).unwrap();
    let state = layer.handle().state();
    assert_eq!(state.expires_in_ms, Some(100_000));
    assert!(!state.is_grant_rejected);
    layer.handle().supply(TokenLife::EXPIRED);
    call(&layer).await.unwrap();
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_set_from_outside_overtakes_a_refresh_but_starts_no_second_one() {
    let late = Answer::After(2 * SECOND, Err(revoked()));
    let script = Script::of([late, slow(1)]);
    let layer = script.layer();
    let waiting = spawn_call(&layer);
    sleep(SECOND).await;
    layer.handle().reset();
    let start = Instant::now();
    waiting.await.unwrap().unwrap();
    // The one in flight ended first, and its old news was ignored.
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(script.0.most_in_flight.load(Ordering::SeqCst), 1);
    assert!(!layer.handle().state().is_grant_rejected);
}

/// Reads `u32::MAX` as unauthorised.
fn by_number(result: Result<&u32, &BoxError>) -> Observation {
    let outcome = match result {
        Ok(&u32::MAX) => Outcome::Unauthorized,
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    };
    Observation::new(outcome, Delivery::Executed)
}

/// Makes a call that takes a second and comes back with `answer`.
fn answered(
    layer: &TokenFreshnessLayer,
    answer: u32,
) -> impl Future<Output = Result<u32, BoxError>> + Send + use<> {
    let inner = service_fn(|answer| async move {
        sleep(SECOND).await;
        Ok::<u32, BoxError>(answer)
    });
    let classify: fn(Result<&u32, &BoxError>) -> Observation = by_number;
    let layer = layer.clone().with_classifier(classify);
    layer.layer(inner).oneshot(answer)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_server_does_not_accept_is_replaced_once() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| tokio::spawn(answered(&layer, u32::MAX)))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), u32::MAX);
    }
    assert_eq!(layer.handle().state().status, TokenStatus::Invalid);
    assert_eq!(script.refreshes(), 1);
    call(&layer).await.unwrap();
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_older_token_says_nothing_about_the_new_one() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer).await.unwrap();
    let late = tokio::spawn(answered(&layer, u32::MAX));
    settle().await;
    layer.handle().invalidate();
    call(&layer).await.unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(layer.handle().state().status, TokenStatus::Valid);
    call_at_once(&layer).unwrap();
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_allowed_makes_no_storm_of_refreshes() {
    let script = Script::default();
    let layer = script.layer();
    let minute = Instant::now() + 60 * SECOND;
    let mut calls = 0;
    while Instant::now() < minute {
        // Its answer comes out unchanged each time.
        assert_eq!(answered(&layer, u32::MAX).await.unwrap(), u32::MAX);
        calls += 1;
    }
    assert_eq!(calls, 60);
    // The first one, and then in growing steps up to the longest backoff of 4 seconds.
    assert!(
        (14..=18).contains(&script.refreshes()),
        "{}",
        script.refreshes()
    );
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_an_inner_layer_is_no_unauthorised_answer() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer).await.unwrap();
    let everything =
        |_: Result<&u32, &BoxError>| Observation::new(Outcome::Unauthorized, Delivery::Executed);
    let refuses = service_fn(|_: u32| async {
        Err::<u32, BoxError>(Rejection::new("rate-limit", Reason::QuotaSpent).into())
    });
    let service = layer.clone().with_classifier(everything).layer(refuses);
    let refused = rejection(service.oneshot(1).await);
    assert_eq!(refused.layer(), "rate-limit");
    assert_eq!(layer.handle().state().status, TokenStatus::Valid);
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_longer_than_it_may() {
    let script = Script::of([slow(25)]);
    let layer = script.layer();
    let start = Instant::now();
    let refused = rejection(call(&layer).await);
    assert_eq!(start.elapsed(), 10 * SECOND);
    assert_eq!(refused.reason(), Reason::TokenExpired);
    assert_eq!(refused.retry_after(), Some(10 * SECOND));
    // The refresh goes on.
    sleep(15 * SECOND).await;
    settle().await;
    call_at_once(&layer).unwrap();
    assert_eq!(script.refreshes(), 1);
}

#[derive(Clone, Default)]
struct Needs {
    until: Option<Instant>,
    min_ttl: Option<Duration>,
}

impl Facts<u32> for Needs {
    fn deadline(&self, _: &u32) -> Option<Instant> {
        self.until
    }

    fn min_ttl(&self, _: &u32) -> Option<Duration> {
        self.min_ttl
    }
}

impl Needs {
    fn min_ttl(duration: Duration) -> Self {
        Self {
            min_ttl: Some(duration),
            until: None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_past_its_deadline() {
    let script = Script::of([slow(5)]);
    let start = Instant::now();
    let until = Some(start + SECOND);
    let layer = script.layer().with_facts(Needs {
        until,
        min_ttl: None,
    });
    let refused = rejection(call(&layer).await);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(refused.reason(), Reason::DeadlineTooShort);
    assert_eq!(refused.retry_after(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_needs_the_token_for_longer_gets_a_new_one() {
    let script = Script::default();
    let layer = script.layer();
    call(&layer).await.unwrap();
    sleep(50 * SECOND).await;
    call(&layer.clone().with_facts(Needs::min_ttl(50 * SECOND)))
        .await
        .unwrap();
    assert_eq!(script.refreshes(), 1);
    let demanding = layer.clone().with_facts(Needs::min_ttl(51 * SECOND));
    call(&demanding).await.unwrap();
    assert_eq!(script.refreshes(), 2);
    // A whole life is as much as anybody can ask for.
    sleep(SECOND).await;
    let demanding = layer.with_facts(Needs::min_ttl(LIFE));
    call(&demanding).await.unwrap();
    assert_eq!(script.refreshes(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_demand_is_firm_where_the_margin_is_not() {
    let script = Script::of([fine(), down()]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    sleep(50 * SECOND).await;
    let demanding = layer.clone().with_facts(Needs::min_ttl(60 * SECOND));
    let refused = rejection(call(&demanding).await);
    assert_eq!(refused.reason(), Reason::TokenExpired);
    assert_eq!(refused.retry_after(), Some(SECOND));
    call_at_once(&layer).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_no_token_meets_is_refused_without_a_storm() {
    let script = Script::default();
    let layer = script.layer();
    let demanding = layer.with_facts(Needs::min_ttl(2 * LIFE));
    for _ in 0..100 {
        let refused = rejection(call(&demanding).await);
        assert_eq!(refused.reason(), Reason::TokenExpired);
        assert_eq!(
            refused.detail(),
            Some("the call asks for a token that is valid for 200s, and new ones live 100s")
        );
    }
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_from_the_source_is_a_failure() {
    let script = Script::of([Answer::Now(Ok(TokenLife::EXPIRED))]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.reason(), Reason::TokenExpired);
    assert_eq!(
        refused.detail(),
        Some("the source gave a token that has expired already")
    );
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_dies_on_the_way_serves_who_waited_for_it() {
    let short = || Answer::Now(Ok(TokenLife::of(Duration::from_nanos(1))));
    let script = Script::of([short(), short()]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_end_is_never_refreshed() {
    let script = Script::default().with_current(Answer::Now(Ok(TokenLife::ENDLESS)));
    let layer = script.layer();
    call(&layer).await.unwrap();
    advance(Duration::from_secs(20 * 365 * 24 * 3600)).await;
    call_at_once(&layer).unwrap();
    layer.handle().ensure_fresh(Duration::MAX).await.unwrap();
    assert_eq!(layer.handle().state().expires_in_ms, None);
    assert_eq!(script.refreshes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_longest_life_is_no_trouble() {
    let script = Script::of([Answer::Now(Ok(TokenLife::of(Duration::MAX)))]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    advance(Duration::from_secs(365 * 24 * 3600)).await;
    call_at_once(&layer).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_past_the_expiry_makes_one_refresh() {
    let script = Script::of([fine(), slow(1)]);
    let layer = script.layer();
    call(&layer).await.unwrap();
    advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(layer.handle().state().status, TokenStatus::Expired);
    let calls: Vec<_> = (0..10).map(|_| spawn_call(&layer)).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(script.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_source_is_a_failure() {
    let script = Script::of([Answer::Panic]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.detail(), Some("the token source panicked"));
    sleep(SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_cut_off() {
    let script = Script::of([Answer::Never]);
    let layer = script.layer();
    let start = Instant::now();
    let refused = layer.handle().ensure_fresh(SECOND).await.unwrap_err();
    assert_eq!(start.elapsed(), 30 * SECOND);
    assert_eq!(
        refused.detail(),
        Some("the token source took longer than 30s")
    );
    sleep(SECOND).await;
    call(&layer).await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

#[test]
fn the_end_of_the_runtime_is_a_failure_like_others() {
    let script = Script::default().with_current(Answer::Never);
    let layer = script.layer();
    let first = runtime();
    first.block_on(async {
        let mut waiting = Box::pin(call(&layer));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        settle().await;
    });
    drop(first);
    let state = layer.handle().state();
    assert!(!state.is_refreshing);
    assert_eq!(
        state.last_error.as_deref(),
        Some("the runtime ended while the token source was asked")
    );
    runtime().block_on(async {
        sleep(2 * SECOND).await;
        call(&layer).await.unwrap();
    });
}

#[test]
fn a_call_may_be_made_outside_a_runtime_and_awaited_inside() {
    let script = Script::default();
    let layer = script.layer();
    let inner = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    let response = layer.layer(inner).call(7);
    assert!(!layer.handle().state().is_refreshing);
    assert_eq!(runtime().block_on(response).unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_on_the_way_to_the_source_is_no_failure() {
    let refusal = Rejection::new("rate-limit", Reason::QuotaSpent).with_retry_after(5 * SECOND);
    let script = Script::of([Answer::Now(Err(TokenError::unavailable(refusal)))]);
    let layer = script.layer();
    let refused = rejection(call(&layer).await);
    assert_eq!(refused.reason(), Reason::TokenExpired);
    assert_eq!(refused.retry_after(), Some(5 * SECOND));
    assert_eq!(layer.handle().state().failures, 0);
    sleep(5 * SECOND).await;
    call(&layer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_holds_nothing_of_the_inner_service() {
    let script = Script::of([slow(1)]);
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
    let script = Script::of([slow(1)]);
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
    let script =
        Script::of([slow(5)]).with_current(Answer::After(2 * SECOND, Ok(TokenLife::EXPIRED)));
    let layer = script.layer();
    let mut waiting = Box::pin(call(&layer));
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        waiting.as_mut().poll(cx)
    })
    .await
    .unwrap();
    // Once to begin, once for each of the source's two answers.
    assert_eq!(polls, 3);
}

#[tokio::test(start_paused = true)]
async fn the_handle_sees_to_a_token_as_a_call_would() {
    let script = Script::default();
    let layer = script.layer().name("music");
    let handle = layer.handle();
    let as_trait: &dyn EnsureFresh = &handle;
    as_trait.ensure_fresh(40 * SECOND).await.unwrap();
    as_trait.ensure_fresh(40 * SECOND).await.unwrap();
    assert_eq!(script.refreshes(), 1);
    sleep(70 * SECOND).await;
    as_trait.ensure_fresh(40 * SECOND).await.unwrap();
    assert_eq!(script.refreshes(), 2);
    let refused = as_trait.ensure_fresh(2 * LIFE).await.unwrap_err();
    assert_eq!(refused.key(), Some("music"));
    call_at_once(&layer).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_report_says_what_a_call_would_meet() {
    let script = Script::of([slow(2), down()]);
    let layer = script.layer();
    let handle = layer.handle();
    let reason = || handle.report().reason.unwrap_or_default();
    assert!(!handle.report().ready);
    assert_eq!(reason(), "the next call gets a token, and waits for it");
    let waiting = spawn_call(&layer);
    sleep(SECOND).await;
    assert!(!handle.report().ready);
    assert_eq!(reason(), "the token source is being asked");
    waiting.await.unwrap().unwrap();
    assert!(handle.report().ready);
    sleep(LIFE).await;
    rejection(call(&layer).await);
    let report = handle.report();
    assert!(!report.ready);
    assert_eq!(report.retry_after_ms, Some(1000));
    assert_eq!(report.layer, "token-freshness");
}

#[tokio::test(start_paused = true)]
async fn one_source_behind_a_pointer_is_a_source_too() {
    let script = Script::default().with_current(fine());
    let shared: Arc<dyn TokenSource> = Arc::new(script.clone());
    let layer = TokenFreshnessLayer::new(config(), shared);
    call(&layer).await.unwrap();
    layer.handle().invalidate();
    call(&layer).await.unwrap();
    assert_eq!(script.refreshes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_left_waiting_when_all_happens_at_once() {
    let script = Script::default();
    let config = builder().max_wait(3600 * SECOND).build().unwrap();
    let layer = TokenFreshnessLayer::new(config, script.clone());
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let layer = layer.clone();
            tokio::spawn(async move {
                for round in 0..500 {
                    match (round + n) % 16 {
                        0 => layer.handle().invalidate(),
                        5 => layer.handle().reset(),
                        10 => layer.handle().supply(TokenLife::of(LIFE)),
                        _ => {}
                    }
                    assert_eq!(call(&layer).await.unwrap(), 7);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(script.0.most_in_flight.load(Ordering::SeqCst), 1);
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn the_state_serialises() {
    let layer = Script::default().layer();
    call(&layer).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(
        serde_json::to_value(layer.handle().state()).unwrap(),
        serde_json::json!({
            "status": "valid",
            "expires_in_ms": 99_000,
            "refresh_in_ms": 79_000,
            "is_refreshing": false,
            "is_grant_rejected": false,
            "recovery": null,
            "failures": 0,
            "last_error": null,
            "next_attempt_in_ms": null,
            "token_calls": 2,
        })
    );
}
