//! What is sent to the server, and what is made of its answers, without a server.

mod stand_in;

use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use stand_in::{connect, message, silence, status};
use temporalio_client::tonic::Status;
use temporalio_common::protos::temporal::api::{
    enums::v1::ScheduleOverlapPolicy,
    schedule::v1::{
        Schedule as ProtoSchedule, ScheduleInfo, ScheduleState, schedule_action::Action,
    },
    workflowservice::v1::{
        CreateScheduleRequest, CreateScheduleResponse, DescribeScheduleResponse,
        ListScheduleMatchingTimesRequest, ListScheduleMatchingTimesResponse,
        ListWorkflowExecutionsRequest, ListWorkflowExecutionsResponse, PatchScheduleRequest,
        PatchScheduleResponse, UpdateScheduleRequest, UpdateScheduleResponse,
    },
};
use toolweir_schedule::{
    Applied, BackfillRequest, Overlap, RunFilter, Schedule, ScheduleBuilder, ScheduleError,
};

const HOUR: Duration = Duration::from_secs(3600);

fn builder() -> ScheduleBuilder {
    Schedule::builder("sync/anna")
        .workflow("Sync", "sync")
        .every(HOUR)
}

fn hourly() -> Schedule {
    builder().build().expect("it is right")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A description of a schedule in this version, last updated at this second.
fn described(version: u8, updated: u64, state: ScheduleState) -> DescribeScheduleResponse {
    let info = ScheduleInfo {
        update_time: Some(at(updated).into()),
        ..Default::default()
    };
    DescribeScheduleResponse {
        schedule: Some(ProtoSchedule {
            state: Some(state),
            ..Default::default()
        }),
        info: Some(info),
        conflict_token: vec![version],
        ..Default::default()
    }
}

fn times(seconds: &[u64]) -> ListScheduleMatchingTimesResponse {
    ListScheduleMatchingTimesResponse {
        start_time: seconds.iter().map(|second| at(*second).into()).collect(),
    }
}

#[tokio::test]
async fn a_schedule_is_created_in_one_request_with_all_its_policies() {
    let (schedules, requests) = connect(|_, _| message(&CreateScheduleResponse::default())).await;
    let schedule = builder()
        .offset(Duration::from_secs(60))
        .start_at(at(1000))
        .end_at(at(2000))
        .jitter(Duration::from_millis(1500))
        .overlap(Overlap::BufferAll)
        .catch_up_window(Duration::from_secs(90))
        .pause_on_failure(true)
        .limited_actions(7)
        .paused("not yet")
        .workflow_id("sync-anna")
        .execution_timeout(HOUR)
        .run_timeout(HOUR / 2)
        .build()
        .unwrap();
    schedules.create(&schedule).await.unwrap();

    assert_eq!(requests.names(), ["CreateSchedule"]);
    let sent: CreateScheduleRequest = requests.of("CreateSchedule").remove(0);
    assert_eq!(sent.namespace, "default");
    assert_eq!(sent.schedule_id, "sync/anna");
    assert_eq!(sent.request_id.len(), 32);
    let sent = sent.schedule.unwrap();

    let policies = sent.policies.unwrap();
    assert_eq!(policies.overlap_policy(), ScheduleOverlapPolicy::BufferAll);
    assert_eq!(policies.catchup_window.unwrap().seconds, 90);
    assert!(policies.pause_on_failure);
    let state = sent.state.unwrap();
    assert!(state.paused && state.limited_actions);
    assert_eq!(
        (state.notes.as_str(), state.remaining_actions),
        ("not yet", 7)
    );
    let spec = sent.spec.unwrap();
    assert_eq!(spec.interval[0].interval.unwrap().seconds, 3600);
    assert_eq!(spec.interval[0].phase.unwrap().seconds, 60);
    assert_eq!(spec.jitter.unwrap().nanos, 500_000_000);
    assert_eq!(spec.start_time.unwrap().seconds, 1000);
    assert_eq!(spec.end_time.unwrap().seconds, 2000);
    let Some(Action::StartWorkflow(start)) = sent.action.unwrap().action else {
        panic!("no workflow");
    };
    assert_eq!(start.workflow_id, "sync-anna");
    assert_eq!(start.workflow_execution_timeout.unwrap().seconds, 3600);
    assert_eq!(start.workflow_run_timeout.unwrap().seconds, 1800);
}

#[tokio::test]
async fn answers_become_typed_errors() {
    let (schedules, _) = connect(|call, _| {
        status(match call {
            "CreateSchedule" => Status::already_exists("there is one"),
            "DescribeSchedule" => Status::not_found("workflow not found for ID: x"),
            "DeleteSchedule" => Status::not_found("Namespace default is not found."),
            "PatchSchedule" => Status::invalid_argument("bad\u{1b}[31m news"),
            _ => Status::permission_denied("no"),
        })
    })
    .await;

    let error = schedules.create(&hourly()).await.unwrap_err();
    assert!(
        matches!(error, ScheduleError::AlreadyExists { .. }),
        "{error}"
    );
    assert_eq!(error.schedule_id(), Some("sync/anna"));

    let error = schedules.describe("x").await.unwrap_err();
    assert!(matches!(error, ScheduleError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("\"x\""), "{error}");

    // The namespace is what is missing, which is another mistake.
    let error = schedules.delete("x").await.unwrap_err();
    assert!(matches!(error, ScheduleError::Rpc { .. }), "{error}");
    let source = error.source().unwrap().to_string();
    assert!(source.contains("Namespace default"), "{source}");

    // What a server says is shown with its control characters escaped.
    let error = schedules.trigger("x", None).await.unwrap_err();
    assert!(matches!(error, ScheduleError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let (schedules, _) = connect(|_, _| silence()).await;
    let error = schedules
        .with_timeout(Duration::from_secs(3))
        .create(&hourly())
        .await
        .unwrap_err();
    let ScheduleError::TimedOut { waited, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(waited, Duration::from_secs(3));
}

#[tokio::test]
async fn an_answer_without_a_schedule_makes_no_sense() {
    let (schedules, _) = connect(|_, _| message(&DescribeScheduleResponse::default())).await;
    let error = schedules.describe("x").await.unwrap_err();
    assert!(matches!(error, ScheduleError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn an_update_that_the_server_dropped_is_sent_again_for_the_new_version() {
    let state = ScheduleState {
        paused: true,
        notes: "on holiday".into(),
        limited_actions: true,
        remaining_actions: 2,
    };
    let (schedules, requests) = connect(move |call, earlier| match (call, earlier) {
        ("CreateSchedule", _) => status(Status::already_exists("there is one")),
        ("UpdateSchedule", _) => message(&UpdateScheduleResponse::default()),
        ("DescribeSchedule", 0) => message(&described(1, 10, ScheduleState::default())),
        // Somebody paused it between the first look and the first update, which changes the
        // version and not the time of the last update.
        ("DescribeSchedule", 1) => message(&described(2, 10, state.clone())),
        ("DescribeSchedule", _) => message(&described(3, 20, state.clone())),
        _ => panic!("{call}"),
    })
    .await;
    let schedule = builder().limited_actions(9).build().unwrap();
    let applied = schedules.create_or_update(&schedule).await.unwrap();
    assert_eq!(applied, Applied::Updated);

    let mut updates: Vec<UpdateScheduleRequest> = requests.of("UpdateSchedule");
    let versions: Vec<&[u8]> = updates
        .iter()
        .map(|u| u.conflict_token.as_slice())
        .collect();
    assert_eq!(versions, [[1], [2]]);
    let state = updates.remove(1).schedule.unwrap().state.unwrap();
    assert!(state.paused, "what operators set stays");
    assert_eq!(state.notes, "on holiday");
    assert_eq!(state.remaining_actions, 2);
}

#[tokio::test]
async fn an_update_that_always_comes_too_late_is_a_conflict() {
    let (schedules, requests) = connect(|call, _| match call {
        "CreateSchedule" => status(Status::already_exists("there is one")),
        "UpdateSchedule" => status(Status::failed_precondition("mismatched conflict token")),
        _ => message(&described(1, 10, ScheduleState::default())),
    })
    .await;
    let error = schedules.create_or_update(&hourly()).await.unwrap_err();
    assert!(matches!(error, ScheduleError::Conflict { .. }), "{error}");
    assert_eq!(
        requests.of::<UpdateScheduleRequest>("UpdateSchedule").len(),
        5
    );
}

#[tokio::test]
async fn the_times_of_a_backfill_are_asked_for_until_there_are_no_more() {
    let (schedules, requests) = connect(|call, earlier| match (call, earlier) {
        ("DescribeSchedule", _) => message(&described(1, 0, ScheduleState::default())),
        ("ListScheduleMatchingTimes", 0) => message(&times(&[3600, 7200])),
        ("ListScheduleMatchingTimes", 1) => message(&times(&[10_800])),
        ("ListScheduleMatchingTimes", _) => message(&times(&[])),
        ("ListWorkflowExecutions", _) => message(&ListWorkflowExecutionsResponse::default()),
        ("PatchSchedule", _) => message(&PatchScheduleResponse::default()),
        _ => panic!("{call}"),
    })
    .await;
    let request = BackfillRequest::new(at(3600)..=at(10_800));
    let backfill = schedules.backfill("sync", request.clone()).await.unwrap();
    assert_eq!(backfill.expected_runs(), 3);
    assert_eq!(backfill.first(), Some(at(3600)));
    assert_eq!(backfill.last(), Some(at(10_800)));

    let asked: Vec<ListScheduleMatchingTimesRequest> = requests.of("ListScheduleMatchingTimes");
    let after = |index: usize| asked[index].start_time.unwrap();
    assert_eq!((after(0).seconds, after(0).nanos), (3599, 999_000_000));
    assert_eq!((after(1).seconds, after(2).seconds), (7200, 10_800));

    // Both ends included, by the reading of every server.
    let sent: PatchScheduleRequest = requests.of("PatchSchedule").remove(0);
    let sent = sent.patch.unwrap().backfill_request.remove(0);
    assert_eq!(sent.start_time.unwrap().seconds, 3599);
    assert_eq!(sent.end_time.unwrap().seconds, 10_800);
    assert_eq!(sent.overlap_policy(), ScheduleOverlapPolicy::BufferAll);

    // One more than allowed: nothing is sent.
    let patches = requests.of::<PatchScheduleRequest>("PatchSchedule").len();
    let (schedules, requests) = connect(|call, _| match call {
        "ListScheduleMatchingTimes" => message(&times(&[3600, 7200, 10_800])),
        _ => message(&described(1, 0, ScheduleState::default())),
    })
    .await;
    let error = schedules
        .backfill("sync", request.max_runs(2))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ScheduleError::TooMany { limit: 2, .. }),
        "{error}"
    );
    assert_eq!(patches, 1);
    assert!(!requests.names().contains(&"PatchSchedule".to_owned()));
}

#[tokio::test]
async fn times_that_do_not_ascend_end_the_asking() {
    let (schedules, _) = connect(|_, _| message(&times(&[3600]))).await;
    let error = schedules
        .action_times("sync", at(0)..=at(7200), 10_000)
        .await
        .unwrap_err();
    assert!(matches!(error, ScheduleError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn a_search_is_bounded_and_takes_no_id_that_could_change_it() {
    let (schedules, requests) = connect(|_, _| {
        message(&ListWorkflowExecutionsResponse {
            executions: vec![Default::default(); 2],
            next_page_token: b"more".to_vec(),
        })
    })
    .await;
    let filter = RunFilter::new().open().limit(3);
    let found = schedules.runs("sync", &filter).await.unwrap();
    assert_eq!((found.runs.len(), found.more), (3, true));

    let asked: Vec<ListWorkflowExecutionsRequest> = requests.of("ListWorkflowExecutions");
    assert_eq!(asked.len(), 2);
    assert_eq!(
        asked[0].query,
        "TemporalScheduledById = 'sync' AND ExecutionStatus = 'Running'"
    );
    assert_eq!((asked[0].page_size, asked[1].page_size), (3, 1));
    assert_eq!(asked[1].next_page_token, b"more");

    let error = schedules.runs("x' OR '1'='1", &filter).await.unwrap_err();
    assert!(matches!(error, ScheduleError::Config(_)), "{error}");
    assert_eq!(requests.names().len(), 2, "and it was not sent");
}
