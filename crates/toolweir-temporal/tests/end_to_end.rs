//! Workflows that call tools, on a real Temporal server and over an MCP server in memory.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowHandle, WorkflowStartOptions, errors::WorkflowGetResultError,
};
use temporalio_common::HasWorkflowDefinition;
use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{sleep, timeout},
};
use toolweir_core::{BoxError, BoxFuture, Reason, Rejection, ReportState, StateReport, WarmUp};
use toolweir_mcp::{Entry, McpService, ServerRegistry};
use toolweir_temporal::ToolActivities;
use toolweir_testkit::{
    mcp::{Answer, ScriptedServer},
    temporal::{Options, TemporalServer},
};

use workflows::{Batch, Call, CallOnce, Ready, Told};

/// Longer than any of these workflows takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a call may take. A test that waited for its end would fail first.
const CALL_LIMIT: Duration = Duration::from_secs(600);

/// A heartbeat, and with it word of a cancellation, comes within this time. A worker that is held up for
/// longer loses the attempt.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// That of a call whose worker is killed: what is waited for.
const KILLED_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a stopping worker waits for its activities.
const WORKER_GRACE: Duration = Duration::from_secs(20);
/// How long a stopping MCP server waits for its calls: less, so that activities can report theirs.
const SERVER_GRACE: Duration = Duration::from_millis(100);

/// The servers of these tests, which are one scripted server under three names.
const MUSIC: &str = "music";
/// Preflight is refused until the test lets it through.
const SOON: &str = "soon";
/// Preflight is always refused.
const NEVER: &str = "never";
/// Preflight takes a second, and is always refused.
const SLUGGISH: &str = "sluggish";

/// How long a refused preflight says to wait.
const ASK_AGAIN: Duration = Duration::from_millis(300);

// The macros make items without docs and `Debug`, and as visible as the workflow that must be `pub`
// for them.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub)]
mod workflows {
    use temporalio_macros::{workflow, workflow_methods};
    use temporalio_workflow::{WorkflowContext, WorkflowResult};
    use toolweir_workflow::{CallError, FailureDetails, Readiness, ToolClient, batch};

    use super::*;

    #[derive(Serialize, Deserialize)]
    pub struct Call {
        pub server: String,
        pub tool: String,
        pub arguments: Value,
        pub schedule_to_close_ms: u64,
        pub heartbeat_timeout: Duration,
        /// Whether a failure is told, or fails the workflow.
        pub tell: bool,
    }

    /// What a workflow learns of a call.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub enum Told {
        Answer(Value),
        Failed {
            kind: String,
            text: String,
            details: FailureDetails,
        },
    }

    impl Told {
        fn failed(error: &CallError) -> Self {
            Self::Failed {
                kind: error.kind().unwrap().to_string(),
                text: error.to_string(),
                details: error.details().unwrap(),
            }
        }
    }

    /// Calls one tool.
    #[workflow]
    #[derive(Default)]
    pub struct CallOnce;

    #[workflow_methods]
    impl CallOnce {
        #[run]
        pub async fn run(ctx: &mut WorkflowContext<Self>, input: Call) -> WorkflowResult<Told> {
            let client = ToolClient::new(input.server)
                .heartbeat_timeout(input.heartbeat_timeout)
                .start_to_close(CALL_LIMIT)
                .schedule_to_close(Duration::from_millis(input.schedule_to_close_ms));
            match client.call(ctx, &input.tool, input.arguments).await {
                Ok(answer) => Ok(Told::Answer(answer)),
                Err(error) if input.tell => Ok(Told::failed(&error)),
                Err(error) => Err(error.into()),
            }
        }
    }

    /// Waits until a server is ready; the preflight's reason if it is not in time.
    #[workflow]
    #[derive(Default)]
    pub struct Ready;

    #[workflow_methods]
    impl Ready {
        #[run]
        pub async fn run(
            ctx: &mut WorkflowContext<Self>,
            (server, patience_ms): (String, u64),
        ) -> WorkflowResult<Option<String>> {
            let client = ToolClient::new(server);
            let patience = Duration::from_millis(patience_ms);
            match client.wait_until_ready(ctx, patience).await? {
                Readiness::Ready => Ok(None),
                Readiness::Refused(report) => Ok(report.reason),
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// Echoes the numbers below `calls`, so many of them at once.
    #[workflow]
    #[derive(Default)]
    pub struct Batch;

    #[derive(Deserialize)]
    struct Echo {
        n: u64,
    }

    #[workflow_methods]
    impl Batch {
        #[run]
        pub async fn run(
            ctx: &mut WorkflowContext<Self>,
            (limit, calls): (usize, u64),
        ) -> WorkflowResult<Vec<u64>> {
            let ctx = &*ctx;
            let client = ToolClient::new(MUSIC);
            let calls = (0..calls).map(|n| client.call(ctx, "echo", json!({ "n": n })));
            let mut echoed = Vec::new();
            for answer in batch(limit, calls).await {
                let Echo { n } = answer?;
                echoed.push(n);
            }
            Ok(echoed)
        }
    }
}

/// Refuses until it lets calls through. It does not count: a question whose answer is lost is asked
/// again.
struct Refusing(Arc<AtomicBool>);

impl ReportState for Refusing {
    fn report(&self) -> StateReport {
        if self.0.load(Ordering::SeqCst) {
            return StateReport::ready("circuit-breaker");
        }
        let open = Rejection::new("circuit-breaker", Reason::CircuitOpen);
        StateReport::refusing(&open.with_retry_after(ASK_AGAIN))
    }
}

/// Needs a second to find out that a layer refuses.
struct Sluggish;

impl WarmUp for Sluggish {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async {
            sleep(Duration::from_secs(1)).await;
            let spent = Rejection::new("rate-limit", Reason::QuotaSpent);
            Err(spent.with_retry_after(ASK_AGAIN).into())
        })
    }
}

/// A Temporal server, an MCP server, and a worker's activities between them.
struct Stage {
    temporal: TemporalServer,
    client: Client,
    music: ScriptedServer,
    /// Whether [`SOON`] lets calls through.
    soon: Arc<AtomicBool>,
    /// The task queue's name, and the start of the workflows' ids: the server may be shared.
    name: String,
}

impl Stage {
    async fn set(test: &str) -> Self {
        let temporal = TemporalServer::start(Options::new()).await.unwrap();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        Self {
            client: temporal.client("default").await.unwrap(),
            temporal,
            music: ScriptedServer::new(),
            soon: Arc::default(),
            name: format!("{test}-{}-{now}", process::id()),
        }
    }

    fn entry(&self) -> Entry {
        let music = self.music.clone();
        let mcp = McpService::builder(MUSIC).transport(move || {
            let stream = music.connect();
            async move { Ok(stream) }
        });
        Entry::of(mcp.call_timeout(CALL_LIMIT).build().unwrap())
    }

    fn refusing(&self, until: Arc<AtomicBool>) -> Entry {
        self.entry().with_state(Refusing(until))
    }

    fn registry(&self) -> Arc<ServerRegistry> {
        let registry = ServerRegistry::builder()
            .server(MUSIC, self.entry())
            .server(SOON, self.refusing(self.soon.clone()))
            .server(SLUGGISH, self.entry().with_warm_up(Sluggish))
            .server(NEVER, self.refusing(Arc::default()));
        Arc::new(registry.build().unwrap())
    }

    fn worker(&self, registry: &Arc<ServerRegistry>) -> Worker {
        worker(&self.name, &self.client, registry)
    }

    /// A worker that can be killed: it is gone at once, with all that it has begun, and reports nothing.
    async fn doomed(&self) -> Doomed {
        let (kill, killed) = oneshot::channel();
        // A client knows the workers that it has, and nobody deregisters this one.
        let client = self.temporal.client("default").await.unwrap();
        let (registry, name) = (self.registry(), self.name.clone());
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut worker = worker(&name, &client, &registry);
                tokio::select! {
                    ended = worker.run() => panic!("nobody stops it: {ended:?}"),
                    _ = killed => {}
                }
            });
        });
        Doomed { kill, thread }
    }

    /// Runs a worker for as long as `scene` lasts, and no longer than [`LIMIT`]. The MCP server is
    /// shut down with it.
    async fn play<T>(self, scene: impl AsyncFnOnce(&Self) -> T) -> T {
        let registry = self.registry();
        let mut worker = self.worker(&registry);
        let stop = worker.shutdown_handle();
        let scene = async {
            let played = timeout(LIMIT, scene(&self)).await;
            stop();
            registry.shutdown(SERVER_GRACE).await;
            played
        };
        let (ended, played) = tokio::join!(worker.run(), scene);
        ended.unwrap();
        self.temporal.stop().await.unwrap();
        played.unwrap()
    }

    async fn start<W>(&self, workflow: W, input: W::Input) -> Run<W>
    where
        W: HasWorkflowDefinition<Input: Send>,
    {
        let options = WorkflowStartOptions::new(&self.name, &self.name)
            .execution_timeout(LIMIT)
            .build();
        let started = self.client.start_workflow(workflow, input, options);
        Run(started.await.unwrap())
    }
}

fn worker(task_queue: &str, client: &Client, registry: &Arc<ServerRegistry>) -> Worker {
    let options = WorkerOptions::new(task_queue)
        .register_workflow::<CallOnce>()
        .unwrap()
        .register_workflow::<Ready>()
        .unwrap()
        .register_workflow::<Batch>()
        .unwrap()
        .register_activities(ToolActivities::new(registry.clone()))
        .graceful_shutdown_period(WORKER_GRACE)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    Worker::new(&runtime, client.clone(), options).unwrap()
}

/// A worker with a runtime of its own, which nothing that it has begun outlives.
struct Doomed {
    kill: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Doomed {
    fn kill(self) {
        drop(self.kill);
        self.thread.join().unwrap();
    }
}

/// A workflow that was started.
struct Run<W>(WorkflowHandle<Client, W>);

impl<W: HasWorkflowDefinition> Run<W> {
    async fn result(&self) -> Result<W::Output, WorkflowGetResultError> {
        self.0.get_result(WorkflowGetResultOptions::default()).await
    }

    /// What happened to it.
    async fn history(&self) -> Vec<Attributes> {
        let history = self.0.fetch_history(WorkflowFetchHistoryOptions::default());
        let events = history.into_events().await.unwrap();
        Vec::from_iter(events.into_iter().filter_map(|event| event.attributes))
    }

    /// The attempts of its activities that counted.
    async fn attempts(&self) -> Vec<i32> {
        let history = self.history().await;
        let attempts = history.into_iter().filter_map(|event| match event {
            Attributes::ActivityTaskStartedEventAttributes(started) => Some(started.attempt),
            _ => None,
        });
        attempts.collect()
    }

    /// How many of its activities have answered.
    async fn answers(&self) -> usize {
        let completed = |event: &Attributes| {
            matches!(event, Attributes::ActivityTaskCompletedEventAttributes(_))
        };
        let history = self.history().await;
        history.iter().filter(|event| completed(event)).count()
    }

    /// How long each of its timers is.
    async fn timers(&self) -> Vec<Duration> {
        let history = self.history().await.into_iter();
        let timers = history.filter_map(|event| match event {
            Attributes::TimerStartedEventAttributes(timer) => timer.start_to_fire_timeout,
            _ => None,
        });
        Vec::from_iter(timers.map(|timer| Duration::try_from(timer).unwrap()))
    }

    /// How many of its activities were scheduled at once, and not over.
    async fn most_scheduled(&self) -> usize {
        let (mut open, mut most) = (0_usize, 0);
        for event in self.history().await {
            match event {
                Attributes::ActivityTaskScheduledEventAttributes(_) => open += 1,
                Attributes::ActivityTaskCompletedEventAttributes(_) => open -= 1,
                _ => {}
            }
            most = most.max(open);
        }
        most
    }
}

fn call(tool: &str, arguments: Value) -> Call {
    Call {
        server: MUSIC.to_owned(),
        tool: tool.to_owned(),
        arguments,
        schedule_to_close_ms: 600_000,
        heartbeat_timeout: HEARTBEAT_TIMEOUT,
        tell: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_call_is_repeated_by_temporal() {
    let stage = Stage::set("throttled").await;
    stage
        .play(async |stage| {
            let pause = Answer::Throttle {
                retry_after_ms: 100,
            };
            stage.music.script([pause]);
            let run = stage
                .start(CallOnce::run, call("add", json!({ "key": "joga" })))
                .await;
            let told = run.result().await;
            let added = json!({ "key": "joga", "applied": true });
            assert_eq!(told.unwrap(), Told::Answer(added));
            assert_eq!(run.attempts().await, [2]);
            let stats = stage.music.stats();
            assert_eq!((stats.calls_of("add"), stats.effects_of("joga")), (2, 1));
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_reports_its_end_is_followed_by_another_though_the_tool_may_do_harm() {
    let stage = Stage::set("settled").await;
    stage
        .play(async |stage| {
            let pause = Answer::Throttle {
                retry_after_ms: 100,
            };
            stage.music.script([pause.clone(), pause]);
            let run = stage
                .start(CallOnce::run, call("sleep", json!({ "ms": 0 })))
                .await;
            let told = run.result().await.unwrap();
            assert!(matches!(told, Told::Answer(_)), "{told:?}");
            assert_eq!(run.attempts().await, [3]);
            assert_eq!(stage.music.stats().calls_of("sleep"), 3);
        })
        .await;
}

/// Makes a call with a worker that is killed in the midst of it, and goes on with another.
async fn killed(test: &str, mut call: Call, then: impl AsyncFnOnce(&Stage, Told)) {
    let stage = Stage::set(test).await;
    let doomed = stage.doomed().await;
    call.heartbeat_timeout = KILLED_HEARTBEAT_TIMEOUT;
    call.tell = true;
    stage.music.script([Answer::Hang]);
    let run = stage.start(CallOnce::run, call).await;
    stage.music.wait_for(|stats| stats.calls > 0).await;
    doomed.kill();
    stage
        .play(async |stage| {
            let told = run.result().await.unwrap();
            // On a machine that is held up, the second may be lost, too.
            assert!(run.attempts().await.iter().all(|attempt| *attempt > 1));
            then(stage, told).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_call_is_not_made_again_where_that_may_do_harm() {
    let sleep = call("sleep", json!({ "ms": 0 }));
    killed("killed", sleep, async |stage, told| {
        let Told::Failed { kind, details, .. } = told else {
            panic!("it was answered");
        };
        assert_eq!(
            (&*kind, &*details.delivery, details.reason.as_deref()),
            ("OutcomeUnknown", "ambiguous", Some("not-repeatable"))
        );
        assert_eq!(stage.music.stats().calls_of("sleep"), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_call_is_made_again_where_that_does_no_harm() {
    let echo = call("echo", json!({ "n": 7 }));
    killed("killed-echo", echo, async |stage, told| {
        assert_eq!(told, Told::Answer(json!({ "n": 7 })));
        assert!(stage.music.stats().calls_of("echo") > 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_outlasts_the_call_is_told_at_once() {
    let stage = Stage::set("late").await;
    stage
        .play(async |stage| {
            let mut late = call("throttle", json!({ "retry_after_ms": 900_000 }));
            late.schedule_to_close_ms = 300_000;
            late.tell = true;
            let run = stage.start(CallOnce::run, late).await;
            let told = run.result().await;
            let Told::Failed {
                kind,
                text,
                details,
            } = told.unwrap()
            else {
                panic!("it was answered");
            };
            assert_eq!(
                (&*kind, &*details.delivery),
                ("ToolCallThrottled", "not-sent")
            );
            assert_eq!(details.retry_after_ms, Some(900_000));
            assert_eq!((&*details.server, &*details.tool), (MUSIC, "throttle"));
            assert!(text.contains("in 900s,"), "{text}");
            assert_eq!(run.attempts().await, [1]);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_ends_a_call_that_may_have_had_its_effect() {
    let stage = Stage::set("lost").await;
    stage
        .play(async |stage| {
            stage.music.script([Answer::DieAfter]);
            let mut lost = call("fail", json!({}));
            lost.tell = true;
            let run = stage.start(CallOnce::run, lost).await;
            let told = run.result().await;
            let Told::Failed { kind, details, .. } = told.unwrap() else {
                panic!("it was answered");
            };
            assert_eq!(
                (&*kind, &*details.delivery),
                ("OutcomeUnknown", "ambiguous")
            );
            assert_eq!(stage.music.stats().calls_of("fail"), 1);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_server_fails_the_workflow_and_lists_the_known() {
    let stage = Stage::set("unknown").await;
    stage
        .play(async |stage| {
            let mut unknown = call("search", json!({}));
            unknown.server = "SpotifyMCP".to_owned();
            let run = stage.start(CallOnce::run, unknown).await;
            let failed = run.result().await;
            let Err(WorkflowGetResultError::Failed(error)) = failed else {
                panic!("it did not fail: {failed:?}");
            };
            let mut failure = error.failure();
            while let Some(cause) = &failure.cause {
                failure = cause;
            }
            assert_eq!(
                failure.message,
                r#"no MCP server named "SpotifyMCP"; known: "music", "never", "sluggish", "soon""#
            );
            assert_eq!(run.attempts().await, [1]);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_workflow_cancels_the_call_at_the_server() {
    let stage = Stage::set("cancelled").await;
    stage
        .play(async |stage| {
            let run = stage.start(CallOnce::run, call("hang", json!({}))).await;
            stage
                .music
                .wait_for(|stats| stats.calls_of("hang") > 0)
                .await;
            run.0
                .cancel(WorkflowCancelOptions::default())
                .await
                .unwrap();
            let ended = run.result().await;
            assert!(
                matches!(ended, Err(WorkflowGetResultError::Cancelled { .. })),
                "{ended:?}"
            );
            // Its own deadline would end it long after this test.
            stage
                .music
                .wait_for(|stats| stats.cancelled_of("hang") == stats.calls_of("hang"))
                .await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_waits_on_timers_until_the_server_is_ready() {
    let stage = Stage::set("patience").await;
    stage
        .play(async |stage| {
            // More than the test can take, so that no pause is cut short by its end.
            let patience = Duration::from_secs(1800).as_millis().try_into().unwrap();
            let run = stage.start(Ready::run, (SOON.to_owned(), patience)).await;
            let longer = [400, 800].map(Duration::from_millis);
            let pauses = [ASK_AGAIN, ASK_AGAIN, longer[0], longer[1]];
            while run.timers().await.len() < pauses.len() {
                sleep(Duration::from_millis(50)).await;
            }
            stage.soon.store(true, Ordering::SeqCst);
            let reason = run.result().await;
            assert_eq!(reason.unwrap(), None);
            let timers = run.timers().await;
            assert!(timers.starts_with(&pauses), "{timers:?}");
            // Each was followed by a question, and that was all.
            assert_eq!(run.answers().await, timers.len() + 1);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_questions_take_is_taken_from_the_patience() {
    let stage = Stage::set("sluggish").await;
    stage
        .play(async |stage| {
            let run = stage.start(Ready::run, (SLUGGISH.to_owned(), 2000)).await;
            let reason = run.result().await.unwrap().unwrap();
            assert!(reason.contains("quota"), "{reason}");
            // Each takes a second, so that there is no time for a third.
            let answers = run.answers().await;
            assert!((1..=2).contains(&answers), "{answers}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_patience_is_told_the_reason_at_once() {
    let stage = Stage::set("impatience").await;
    stage
        .play(async |stage| {
            let input = (NEVER.to_owned(), 0);
            let run = stage.start(Ready::run, input).await;
            let reason = run.result().await;
            let reason = reason.unwrap().unwrap();
            assert!(reason.contains("the circuit is open"), "{reason}");
            assert_eq!(run.answers().await, 1);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_and_its_limit() {
    let stage = Stage::set("batch").await;
    stage
        .play(async |stage| {
            // Some take longer than others, so that they end out of order.
            let answers = (0..40).map(|n| Answer::Slow { ms: 1 + n % 3 * 20 });
            stage.music.script(answers);
            let run = stage.start(Batch::run, (4, 40)).await;
            let echoed = run.result().await;
            assert_eq!(echoed.unwrap(), Vec::from_iter(0..40));
            let stats = stage.music.stats();
            assert_eq!(stats.calls_of("echo"), 40);
            assert!(stats.max_concurrent <= 4, "{stats:?}");
            // How many of them run at once is for the machine to say.
            assert_eq!(run.most_scheduled().await, 4);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_a_shutdown_breaks_off_is_not_repeated() {
    let stage = Stage::set("shutdown").await;
    let registry = stage.registry();
    let mut worker = stage.worker(&registry);
    let stop = worker.shutdown_handle();
    let scene = async {
        let run = stage.start(CallOnce::run, call("hang", json!({}))).await;
        stage
            .music
            .wait_for(|stats| stats.calls_of("hang") > 0)
            .await;
        stop();
        registry.shutdown(SERVER_GRACE).await;
        run
    };
    let (ended, run) = tokio::join!(worker.run(), scene);
    ended.unwrap();
    let history = run.history().await;
    let failed = history.iter().find_map(|event| match event {
        Attributes::ActivityTaskFailedEventAttributes(failed) => failed.failure.as_ref(),
        _ => None,
    });
    // Where Temporal repeats an activity, its failure is not in the history.
    let failed = failed.unwrap_or_else(|| panic!("it would be repeated: {history:?}"));
    assert!(failed.message.contains("was lost"), "{failed:?}");
    stage.temporal.stop().await.unwrap();
}
