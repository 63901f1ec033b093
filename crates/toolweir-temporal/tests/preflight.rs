//! The preflight: what it asks, in which order, and what it makes of the answers.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use temporalio_sdk::testing::ActivityEnvironment;
use toolweir_core::{
    BoxError, BoxFuture, CheckHealth, EnsureFresh, Health, HealthReport, Reason, Rejection,
    ReportState, StateReport, WarmUp,
};
use toolweir_mcp::{Entry, McpService, ServerRegistry};
use toolweir_temporal::ToolActivities;
use toolweir_testkit::mcp::ScriptedServer;
use toolweir_workflow::{Check, PreflightInput, PreflightReport};

/// A layer's state as it was made.
struct Says(StateReport);

impl ReportState for Says {
    fn report(&self) -> StateReport {
        self.0.clone()
    }
}

/// Who was asked, in order.
type Asked = Arc<Mutex<Vec<&'static str>>>;

/// Answers everything with the same, and writes down that it was asked.
struct Answers<T> {
    asked: Asked,
    with: T,
}

impl<T: Clone> Answers<T> {
    fn ask(&self, what: &'static str) -> T {
        self.asked.lock().unwrap().push(what);
        self.with.clone()
    }
}

impl WarmUp for Answers<Result<(), Refusal>> {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        let answer = self.ask("warm-up").map_err(|refusal| match refusal {
            Refusal::Layer(rejection) => rejection.into(),
            Refusal::Text(text) => text.into(),
        });
        Box::pin(async { answer })
    }
}

impl EnsureFresh for Answers<Result<(), Rejection>> {
    fn ensure_fresh(&self, _: Duration) -> BoxFuture<'_, Result<(), Rejection>> {
        let answer = self.ask("token-freshness");
        Box::pin(async { answer })
    }
}

impl CheckHealth for Answers<HealthReport> {
    fn check_health(&self) -> BoxFuture<'_, HealthReport> {
        let answer = self.ask("health-gate");
        Box::pin(async { answer })
    }
}

/// What a warm-up fails with.
#[derive(Clone)]
enum Refusal {
    Layer(Rejection),
    Text(&'static str),
}

/// What stands beside the connection, each as it answers.
struct Beside {
    states: Vec<StateReport>,
    warm_up: Result<(), Refusal>,
    token: Result<(), Rejection>,
    health: HealthReport,
}

impl Beside {
    /// All well.
    fn ready() -> Self {
        Self {
            states: Vec::new(),
            warm_up: Ok(()),
            token: Ok(()),
            health: HealthReport::new(Health::Healthy, true),
        }
    }

    /// The preflight's answer, and who was asked for it.
    async fn preflight(self) -> (PreflightReport, Vec<&'static str>) {
        let asked = Asked::default();
        let (first, second, third) = (asked.clone(), asked.clone(), asked.clone());
        let mut entry = connection()
            .with_warm_up(Answers {
                asked: first,
                with: self.warm_up,
            })
            .with_token(Answers {
                asked: second,
                with: self.token,
            })
            .with_health(Answers {
                asked: third,
                with: self.health,
            });
        for state in self.states {
            entry = entry.with_state(Says(state));
        }
        let report = preflight(entry).await;
        let asked = asked.lock().unwrap().clone();
        (report, asked)
    }
}

/// A connection with nothing beside it.
fn connection() -> Entry {
    let server = ScriptedServer::new();
    let mcp = McpService::builder("music").transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    });
    Entry::of(mcp.build().unwrap())
}

async fn preflight(entry: Entry) -> PreflightReport {
    let registry = ServerRegistry::builder().server("music", entry);
    let activities = ToolActivities::new(Arc::new(registry.build().unwrap()));
    ActivityEnvironment::builder()
        .register_activities(activities)
        .build()
        .run(ToolActivities::preflight, PreflightInput::new("music"))
        .await
        .unwrap()
}

fn refusal(layer: &'static str, reason: Reason, millis: u64) -> Rejection {
    Rejection::new(layer, reason).with_retry_after(Duration::from_millis(millis))
}

fn unhealthy(error: &str, retry_after_ms: Option<u64>) -> HealthReport {
    let mut report = HealthReport::new(Health::Unhealthy, false);
    report.error = Some(error.to_owned());
    report.retry_after_ms = retry_after_ms;
    report
}

fn check<'a>(report: &'a PreflightReport, name: &str) -> &'a Check {
    let mut named = report.checks.iter().filter(|check| check.name == name);
    let check = named
        .next()
        .unwrap_or_else(|| panic!("no {name} in {report:?}"));
    assert!(named.next().is_none(), "{name} twice in {report:?}");
    check
}

#[tokio::test(start_paused = true)]
async fn what_is_not_configured_says_so_and_is_ready() {
    let report = preflight(connection()).await;
    assert!(report.ready, "{report:?}");
    assert_eq!((&report.reason, report.retry_after_ms), (&None, None));
    for name in [
        "circuit-breaker",
        "semaphore",
        "rate-limit",
        "warm-up",
        "token-freshness",
        "health-gate",
    ] {
        let check = check(&report, name);
        assert!(check.ready && !check.configured, "{check:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_that_is_configured_is_asked_in_order() {
    let mut beside = Beside::ready();
    beside.states = vec![StateReport::ready("circuit-breaker")];
    let (report, asked) = beside.preflight().await;
    assert!(report.ready, "{report:?}");
    assert_eq!(asked, ["warm-up", "token-freshness", "health-gate"]);
    for name in [
        "circuit-breaker",
        "warm-up",
        "token-freshness",
        "health-gate",
    ] {
        let check = check(&report, name);
        assert!(check.ready && check.configured, "{check:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_a_ready_layer_leaves_to_others_is_reported() {
    let mut report = StateReport::ready("circuit-breaker");
    report.reason = Some("the server asked for a pause".to_owned());
    report.retry_after_ms = Some(7000);
    let mut beside = Beside::ready();
    beside.states = vec![report];
    let (report, asked) = beside.preflight().await;
    assert!(report.ready, "{report:?}");
    assert_eq!(asked, ["warm-up", "token-freshness", "health-gate"]);
    let check = check(&report, "circuit-breaker");
    assert!(check.ready && check.configured, "{check:?}");
    assert_eq!(
        check.reason.as_deref(),
        Some("the server asked for a pause")
    );
    assert_eq!(check.retry_after_ms, Some(7000));
}

#[tokio::test(start_paused = true)]
async fn where_a_state_refuses_nothing_more_is_asked() {
    let rejection = refusal("circuit-breaker", Reason::CircuitOpen, 300);
    let mut beside = Beside::ready();
    beside.states = vec![StateReport::refusing(&rejection)];
    let (report, asked) = beside.preflight().await;
    assert!(!report.ready);
    assert_eq!(report.reason, Some(rejection.to_string()));
    assert_eq!(report.retry_after_ms, Some(300));
    assert_eq!(asked, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_warm_up_says_when_it_may_succeed() {
    let rejection = refusal("rate-limit", Reason::QuotaSpent, 700);
    let mut beside = Beside::ready();
    beside.warm_up = Err(Refusal::Layer(rejection.clone()));
    let (report, _) = beside.preflight().await;
    assert!(!report.ready);
    assert_eq!(report.reason, Some(rejection.to_string()));
    assert_eq!(report.retry_after_ms, Some(700));
    assert_eq!(check(&report, "warm-up").retry_after_ms, Some(700));
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_server_is_the_reason() {
    let mut beside = Beside::ready();
    beside.health = unhealthy("no answer to a ping", Some(5000));
    let (report, _) = beside.preflight().await;
    assert!(!report.ready);
    assert_eq!(report.reason.as_deref(), Some("no answer to a ping"));
    assert_eq!(report.retry_after_ms, Some(5000));
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_counts() {
    let mut beside = Beside::ready();
    beside.token = Err(refusal("token-freshness", Reason::TokenExpired, 900));
    beside.health = unhealthy("no answer to a ping", Some(200));
    let (report, _) = beside.preflight().await;
    assert_eq!(report.retry_after_ms, Some(900));
    let reason = report.reason.unwrap();
    assert!(reason.ends_with("; no answer to a ping"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_unknown_length_leaves_the_answer_without_a_time() {
    let mut beside = Beside::ready();
    beside.warm_up = Err(Refusal::Text("the first call failed"));
    beside.health = unhealthy("no answer to a ping", Some(200));
    let (report, _) = beside.preflight().await;
    assert_eq!(report.retry_after_ms, None);
    let reason = report.reason.unwrap();
    assert!(reason.contains("the first call failed"), "{reason}");
}
