//! The activities, with a context that tests hold, over a server in memory and on a clock that
//! stands still unless somebody waits.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use temporalio_common::error::{ApplicationErrorCategory, ApplicationFailure};
use temporalio_sdk::{
    activities::{ActivityError, ActivityInfo},
    testing::{ActivityEnvironment, ActivityEnvironmentError, TestActivityInfoOptions},
};
use toolweir_mcp::{
    Entry, IDEMPOTENCY_KEY_META, McpService, McpServiceBuilder, PRINCIPAL_META, ServerRegistry,
    TextRules,
};
use toolweir_temporal::ToolActivities;
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use toolweir_workflow::{CallProgress, CallToolInput, CallToolOutput};

type Ran<T> = Result<T, ActivityEnvironmentError>;

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(9);

fn connecting(server: &ScriptedServer) -> McpServiceBuilder {
    let server = server.clone();
    McpService::builder("music").transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    })
}

fn entry(server: &ScriptedServer) -> Entry {
    Entry::of(connecting(server).build().unwrap())
}

/// The activities over this one connection, or these.
fn over(mcp: McpServiceBuilder) -> ToolActivities {
    let entry = Entry::of(mcp.build().unwrap());
    let registry = ServerRegistry::builder().server("music", entry);
    ToolActivities::new(Arc::new(registry.build().unwrap()))
}

fn activities(server: &ScriptedServer) -> ToolActivities {
    let registry = ServerRegistry::builder()
        .server("music", entry(server))
        .server("youtube", entry(server));
    ToolActivities::new(Arc::new(registry.build().unwrap()))
}

/// An attempt that was scheduled just now and has a minute.
fn info(attempt: u32) -> ActivityInfo {
    let now = SystemTime::now();
    TestActivityInfoOptions::builder()
        .namespace("default")
        .workflow_id(Some("sync:anna".to_owned()))
        .workflow_run_id(Some("4f1c".to_owned()))
        .activity_id("5")
        .attempt(attempt)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .scheduled_time(Some(now))
        .deadline(now.checked_add(Duration::from_secs(60)))
        .build()
}

fn environment(activities: &ToolActivities) -> ActivityEnvironment {
    ActivityEnvironment::builder()
        .register_activities(activities.clone())
        .info(info(1))
        .build()
}

/// An attempt after one that left these heartbeat details, or none.
fn after(activities: &ToolActivities, attempt: u32, details: Option<Value>) -> ActivityEnvironment {
    let builder = ActivityEnvironment::builder_with_default()
        .register_activities(activities.clone())
        .info(info(attempt));
    match details {
        Some(details) => builder.heartbeat_details(details).unwrap().build(),
        None => builder.build(),
    }
}

/// The environment, and how many heartbeats it saw.
fn beating(activities: &ToolActivities) -> (ActivityEnvironment, Arc<AtomicUsize>) {
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    let environment = ActivityEnvironment::builder()
        .register_activities(activities.clone())
        .on_heartbeat(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .info(info(1))
        .build();
    (environment, beats)
}

fn input(tool: &str, arguments: &Value) -> CallToolInput {
    let mut input = CallToolInput::new("music", tool);
    input.arguments = arguments.as_object().unwrap().clone();
    input
}

async fn run(environment: &ActivityEnvironment, input: CallToolInput) -> Ran<CallToolOutput> {
    environment.run(ToolActivities::call_tool, input).await
}

/// Calls a tool on a connection that others have used.
async fn call(activities: &ToolActivities, tool: &str) -> Ran<CallToolOutput> {
    run(&environment(activities), input(tool, &json!({}))).await
}

fn failure<T: std::fmt::Debug>(ran: Ran<T>) -> Box<ApplicationFailure> {
    match ran {
        Err(ActivityEnvironmentError::Activity(ActivityError::Application(failure))) => failure,
        other => panic!("not an application failure: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_keeps_its_structure() {
    let server = ScriptedServer::new();
    let environment = environment(&activities(&server));
    let arguments = json!({ "title": "Jóga", "year": 1997 });
    let output = run(&environment, input("echo", &arguments)).await.unwrap();
    assert_eq!(output.structured, Some(arguments));
    assert!(!output.is_error);
}

#[tokio::test(start_paused = true)]
async fn who_did_not_report_how_it_ended_is_not_followed_where_that_may_do_harm() {
    let server = ScriptedServer::new();
    let activities = activities(&server);
    let under_way = || Some(json!({ "done": 3.0, "total": 12.0 }));
    for (tool, environment, sent) in [
        ("fail", after(&activities, 1, None), true),
        ("fail", after(&activities, 2, None), false),
        ("fail", after(&activities, 2, under_way()), false),
        (
            "fail",
            after(&activities, 2, Some(json!({ "settled_attempt": 1 }))),
            true,
        ),
        // The one after that was killed.
        (
            "fail",
            after(&activities, 3, Some(json!({ "settled_attempt": 1 }))),
            false,
        ),
        (
            "fail",
            after(&activities, 3, Some(json!({ "settled_attempt": 2 }))),
            true,
        ),
        // An operator has reset it: what was before is not counted, and may have been executed.
        ("fail", after(&activities, 1, under_way()), false),
        ("fail", after(&activities, 1, Some(Value::Null)), false),
        (
            "fail",
            after(&activities, 1, Some(json!({ "settled_attempt": 7 }))),
            true,
        ),
        ("echo", after(&activities, 2, None), true),
    ] {
        let before = server.stats().calls_of(tool);
        let ran = run(&environment, input(tool, &json!({}))).await;
        assert_eq!(
            server.stats().calls_of(tool) - before,
            u64::from(sent),
            "{ran:?}"
        );
        if sent {
            ran.unwrap();
            continue;
        }
        let failure = failure(ran);
        assert_eq!(failure.type_name(), Some("OutcomeUnknown"));
        assert!(failure.is_non_retryable());
        assert!(failure.to_string().contains("did not report"), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_this_worker_does_not_have_may_have_been_another_workers() {
    let activities = activities(&ScriptedServer::new());
    for (attempt, name) in [(1, "UnknownMcpServer"), (2, "OutcomeUnknown")] {
        let environment = after(&activities, attempt, None);
        let call = CallToolInput::new("spotify", "add");
        let failure = failure(run(&environment, call).await);
        assert_eq!(failure.type_name(), Some(name));
        assert!(failure.is_non_retryable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_activity_is_repeated_by_the_worker_that_knows_how_it_ended() {
    let server = ScriptedServer::new();
    let mut info = info(2);
    info.is_local = true;
    let environment = ActivityEnvironment::builder()
        .register_activities(activities(&server))
        .info(info)
        .build();
    run(&environment, input("fail", &json!({}))).await.unwrap();
    assert_eq!(server.stats().calls_of("fail"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_to_be_repeated_says_that_it_reports_how_it_ended() {
    for (tool, answer, settles) in [
        // Throttled: it is to be repeated, and was not executed.
        (
            "fail",
            Answer::Throttle {
                retry_after_ms: 100,
            },
            true,
        ),
        // Whoever repeats it does no harm, whatever has become of it.
        (
            "echo",
            Answer::Throttle {
                retry_after_ms: 100,
            },
            false,
        ),
        // It is not repeated.
        ("fail", Answer::DieAfter, false),
        ("fail", Answer::Ok, false),
    ] {
        let server = ScriptedServer::new();
        server.script([answer.clone()]);
        let activities = activities(&server);
        let settled = Arc::new(AtomicUsize::new(0));
        let counted = settled.clone();
        let environment = ActivityEnvironment::builder()
            .register_activities(activities)
            .on_heartbeat(move |details| {
                // While it is under way and the tool says nothing, there are none.
                counted.fetch_add(usize::from(!(*details).is::<()>()), Ordering::SeqCst);
            })
            .info(info(1))
            .build();
        let _ = run(&environment, input(tool, &json!({}))).await;
        let settled = settled.load(Ordering::SeqCst);
        assert_eq!(settled, usize::from(settles), "{tool} {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_tools_own_is_an_answer() {
    let server = ScriptedServer::new();
    let output = call(&activities(&server), "fail").await.unwrap();
    assert!(output.is_error);
    assert_eq!(output.text, "the tool failed, as told");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_server_fails_for_good_and_lists_the_known() {
    let server = ScriptedServer::new();
    let environment = environment(&activities(&server));
    let failure = failure(run(&environment, CallToolInput::new("SpotifyMCP", "search")).await);
    assert_eq!(
        failure.to_string(),
        r#"no MCP server named "SpotifyMCP"; known: "music", "youtube""#
    );
    assert_eq!(failure.type_name(), Some("UnknownMcpServer"));
    assert!(failure.is_non_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_comes_back_when_the_server_said() {
    let server = ScriptedServer::new();
    let environment = environment(&activities(&server));
    let mut input = input("throttle", &json!({ "retry_after_ms": 7000 }));
    input.schedule_to_close_ms = Some(60_000);
    let failure = failure(run(&environment, input).await);
    assert_eq!(failure.type_name(), Some("ToolCallThrottled"));
    assert_eq!(failure.category(), ApplicationErrorCategory::Benign);
    assert_eq!(failure.next_retry_delay(), Some(Duration::from_secs(7)));
    assert!(!failure.is_non_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_outlasts_the_call_fails_it_now_and_says_when() {
    let server = ScriptedServer::new();
    let environment = environment(&activities(&server));
    let mut input = input("throttle", &json!({ "retry_after_ms": 7000 }));
    input.schedule_to_close_ms = Some(5000);
    let failure = failure(run(&environment, input).await);
    assert_eq!(failure.type_name(), Some("ToolCallThrottled"));
    assert!(failure.is_non_retryable());
    assert!(failure.to_string().contains("in 7s,"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_the_call_itself_took_is_no_longer_left() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(10));
    let environment = environment(&activities(&server));
    // Twelve seconds would do at the start, but not once the server has taken ten of them to start.
    let mut input = input("throttle", &json!({ "retry_after_ms": 7000 }));
    input.schedule_to_close_ms = Some(12_000);
    let failure = failure(run(&environment, input).await);
    assert!(failure.is_non_retryable(), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn it_beats_from_the_first_poll_to_the_result() {
    let server = ScriptedServer::new();
    let (environment, beats) = beating(&activities(&server));
    let output = run(&environment, input("sleep", &json!({ "ms": 10_000 }))).await;
    assert!(!output.unwrap().is_error);
    // A third of the timeout apart: at 0, 3, 6 and 9 seconds.
    assert_eq!(beats.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn it_beats_while_the_server_starts() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(7));
    let (environment, beats) = beating(&activities(&server));
    run(&environment, input("echo", &json!({}))).await.unwrap();
    assert_eq!(beats.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_carry_the_tools_last_word() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let environment = ActivityEnvironment::builder()
        .register_activities(activities(&ScriptedServer::new()))
        .on_heartbeat({
            let said = said.clone();
            move |details| {
                let details = details.downcast::<CallProgress>().ok();
                said.lock().unwrap().push(details.map(|details| *details));
            }
        })
        .info(info(1))
        .build();
    // At 3.5, 7 and 10.5 seconds.
    let steps = json!({ "steps": 3, "every_ms": 3500 });
    let output = run(&environment, input("progress", &steps)).await.unwrap();
    assert_eq!(output.structured.unwrap()["reported"], true);
    let said = said.lock().unwrap().clone();
    let at = |done| Some(CallProgress::new(done, Some(3.0), None));
    // A third of the timeout apart: at 0, 3, 6 and 9 seconds.
    assert_eq!(said, [None, None, at(1.0), at(2.0)]);
    let json = serde_json::to_value(said.last().unwrap()).unwrap();
    assert_eq!(json, json!({ "done": 2.0, "total": 3.0 }));
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_is_silent_for_too_long_is_given_up_and_one_that_reports_is_not() {
    let server = ScriptedServer::new();
    let activities = activities(&server);
    let mut silent = input("sleep", &json!({ "ms": 30_000 }));
    silent.idle_timeout_ms = Some(5000);
    let lost = failure(run(&environment(&activities), silent).await);
    assert_eq!(lost.type_name(), Some("OutcomeUnknown"), "{lost}");
    let steps = json!({ "steps": 5, "every_ms": 4000 });
    let mut reporting = input("progress", &steps);
    reporting.idle_timeout_ms = Some(5000);
    run(&environment(&activities), reporting).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_principals_call_goes_over_anothers_connection() {
    let (anna, ben) = (ScriptedServer::new(), ScriptedServer::new());
    let servers = (anna.clone(), ben.clone());
    let builder = McpService::builder("music").transport_per_principal(2, move |principal| {
        let stream = match principal {
            "anna" => Ok(servers.0.connect()),
            "ben" => Ok(servers.1.connect()),
            nobody => Err(format!("no user {nobody:?}").into()),
        };
        async { stream }
    });
    let activities = over(builder.send_principal(true));
    for (calls, principal) in ["anna", "ben", "ben", "anna", "ben"].iter().enumerate() {
        let mut input = input("meta", &json!({}));
        input.principal = Some((*principal).to_owned());
        let meta = run(&environment(&activities), input).await.unwrap();
        assert_eq!(meta.structured.unwrap()[PRINCIPAL_META], *principal);
        let (annas, bens) = (anna.stats(), ben.stats());
        assert_eq!(annas.calls + bens.calls, 1 + calls as u64);
    }
    let (annas, bens) = (anna.stats(), ben.stats());
    assert_eq!((annas.calls, bens.calls), (2, 3));
    assert_eq!((annas.connections, bens.connections), (1, 1));

    let nobodys = failure(call(&activities, "meta").await);
    assert_eq!(nobodys.type_name(), Some("InvalidToolCall"), "{nobodys}");
    assert!(nobodys.is_non_retryable());
    let text = nobodys.to_string();
    assert!(text.contains("names no principal"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_given_up_alerts_and_is_not_tried_again() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let activities = over(connecting(&server).restart_budget(1, Duration::from_secs(3600)));
    let last = loop {
        let failure = failure(call(&activities, "echo").await);
        assert_eq!(failure.type_name(), Some("McpServerUnavailable"));
        assert_eq!(failure.category(), ApplicationErrorCategory::Unspecified);
        match failure.next_retry_delay() {
            Some(wait) => tokio::time::sleep(wait).await,
            None => break failure,
        }
    };
    assert!(last.is_non_retryable(), "{last}");
    assert!(
        last.to_string().contains("given up until a reset"),
        "{last}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_activity_ends_at_once_and_the_server_is_told() {
    let server = ScriptedServer::new();
    let activities = activities(&server);
    let environment = environment(&activities);
    let mut hanging = pin!(run(&environment, input("hang", &json!({}))));
    tokio::select! {
        ended = &mut hanging => panic!("nothing ends it yet: {ended:?}"),
        _ = server.wait_for(|stats| stats.in_flight == 1) => {}
    }
    environment.cancel();
    let polled = poll_fn(|cx| Poll::Ready(hanging.as_mut().poll(cx))).await;
    let Poll::Ready(Err(ActivityEnvironmentError::Activity(error))) = polled else {
        panic!("one poll ends it: {polled:?}");
    };
    assert!(
        matches!(error, ActivityError::Cancelled { .. }),
        "{error:?}"
    );
    let stats = server
        .wait_for(|stats| stats.cancelled_of("hang") == 1)
        .await;
    assert_eq!(stats.cancelled, 1);

    call(&activities, "echo").await.unwrap();
    assert_eq!(
        server.stats().connections,
        1,
        "the connection is still of use"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() {
    for (tool, type_name, is_final) in [
        // No annotations: nobody knows.
        ("fail", "OutcomeUnknown", true),
        // Read-only, and idempotent.
        ("echo", "ToolCallFailed", false),
        ("add", "ToolCallFailed", false),
    ] {
        let server = ScriptedServer::new();
        server.script([Answer::DieAfter]);
        let environment = environment(&activities(&server));
        let failure = failure(run(&environment, input(tool, &json!({ "key": "a" }))).await);
        assert_eq!(failure.type_name(), Some(type_name), "{tool}: {failure}");
        assert_eq!(failure.is_non_retryable(), is_final, "{tool}: {failure}");
        assert_eq!(failure.category(), ApplicationErrorCategory::Unspecified);
    }
}

/// Words are no proof that nothing was done.
#[tokio::test(start_paused = true)]
async fn a_rate_limit_told_in_words_alone_is_no_leave_to_repeat_a_call() {
    for (tool, type_name, is_final) in [
        ("fail", "ToolCallFailedForGood", true),
        ("add", "ToolCallThrottled", false),
    ] {
        let server = ScriptedServer::new();
        server.script([Answer::TextThrottle]);
        let activities = over(connecting(&server).text_rules(TextRules::common()));
        let failure = failure(call(&activities, tool).await);
        assert_eq!(failure.type_name(), Some(type_name), "{tool}: {failure}");
        assert_eq!(failure.is_non_retryable(), is_final, "{tool}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_connections_is_tried_again() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let activities = activities(&server);
    let unavailable = failure(call(&activities, "fail").await);
    assert_eq!(unavailable.type_name(), Some("McpServerUnavailable"));
    assert!(!unavailable.is_non_retryable(), "nothing was sent");
    assert!(unavailable.next_retry_delay().is_some(), "{unavailable}");

    server.refuse_connections(false);
    tokio::time::sleep(unavailable.next_retry_delay().unwrap()).await;
    call(&activities, "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_key_is_the_callers_or_else_the_same_for_all_attempts() {
    let server = ScriptedServer::new();
    let activities = activities(&server);
    for (attempt, given, expected) in [
        (1, None, "default:sync:anna:4f1c:5"),
        (2, None, "default:sync:anna:4f1c:5"),
        (1, Some("anna/joga"), "anna/joga"),
    ] {
        let environment = ActivityEnvironment::builder()
            .register_activities(activities.clone())
            .info(info(attempt))
            .build();
        let mut input = input("meta", &json!({}));
        input.idempotency_key = given.map(str::to_owned);
        let meta = run(&environment, input).await.unwrap().structured.unwrap();
        assert_eq!(meta[IDEMPOTENCY_KEY_META], expected);
    }
}
