//! Against a real server. No worker polls, so runs stay open until a test ends them.
#![cfg(unix)]

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use temporalio_client::{
    Client, UntypedWorkflow, WorkflowTerminateOptions,
    grpc::WorkflowService,
    tonic::{Code, IntoRequest},
};
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeScheduleRequest, UpdateScheduleRequest,
};
use tokio::time::{Instant, sleep};
use toolweir_schedule::{
    Applied, Backfill, BackfillProgress, BackfillRequest, Description, Overlap, Preset, Run,
    RunFilter, Schedule, ScheduleBuilder, ScheduleError, Schedules,
};
use toolweir_testkit::temporal::{Options, TemporalServer};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// 2026-01-01 at 6 in the morning, UTC.
fn first_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_247_200)
}

struct World {
    server: TemporalServer,
    client: Client,
    schedules: Schedules,
    /// Makes ids unique on a server that others use as well.
    name: String,
}

impl World {
    async fn new(test: &str) -> Self {
        let server = TemporalServer::start(Options::new())
            .await
            .expect("a server");
        let client = server.client("default").await.expect("a client");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let name = format!("{test}-{}", now.expect("it is past 1970").as_nanos());
        Self {
            schedules: Schedules::new(client.clone()),
            server,
            client,
            name,
        }
    }

    /// Daily at six, and paused, so that a test which runs at six is like any other.
    fn daily(&self) -> ScheduleBuilder {
        Schedule::builder(&self.name)
            .workflow("Nobody", "nobody-polls-this")
            .daily_at(6, 0)
            .paused("only what the test asks for")
    }

    async fn create(&self, schedule: ScheduleBuilder) {
        let schedule = schedule.build().expect("it is right");
        self.schedules.create(&schedule).await.expect("it is new");
    }

    async fn describe(&self) -> Description {
        self.schedules
            .describe(&self.name)
            .await
            .expect("it is there")
    }

    async fn runs(&self) -> Vec<Run> {
        let found = self.schedules.runs(&self.name, &RunFilter::new()).await;
        let found = found.expect("the server searches");
        assert!(!found.more);
        found.runs
    }

    async fn progress(&self, backfill: &Backfill) -> BackfillProgress {
        let progress = self.schedules.backfill_progress(backfill).await;
        progress.expect("the server searches")
    }

    async fn end(&self, run: &Run) {
        let handle = self
            .client
            .get_workflow_handle::<UntypedWorkflow>(&run.workflow_id);
        // The search lags: the run may have ended already.
        drop(handle.terminate(WorkflowTerminateOptions::default()).await);
    }

    async fn stop(self) {
        self.server.stop().await.expect("it ends");
    }
}

/// Asks until the answer is `Some`, for as long as another process may need.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// `days` days from the first, both ends at exactly an action time.
fn days(days: u32) -> BackfillRequest {
    BackfillRequest::new(first_day()..=first_day() + DAY * (days - 1))
}

#[tokio::test]
async fn a_schedule_is_what_it_was_created_as() {
    let world = World::new("lifecycle").await;
    let id = world.name.clone();
    let schedule = world
        .daily()
        .time_zone("Europe/Berlin")
        .preset(Preset::EveryTime)
        .jitter(Duration::from_secs(300))
        .pause_on_failure(true)
        .limited_actions(12)
        .input(&["anna"])
        .memo("user", "anna")
        .execution_timeout(DAY)
        .priority_key(2)
        .fairness_key("anna")
        .build()
        .unwrap();
    world.schedules.create(&schedule).await.unwrap();

    let there = world.describe().await;
    assert_eq!(there.overlap, Some(Overlap::BufferAll));
    assert_eq!(there.catch_up_window, 7 * DAY);
    assert_eq!(there.jitter, Duration::from_secs(300));
    assert!(there.pause_on_failure && there.paused);
    assert_eq!(there.note, "only what the test asks for");
    assert_eq!(there.remaining_actions, Some(12));
    assert_eq!(there.next_actions.len(), 10);
    assert!(there.created_at.is_some() && there.updated_at.is_none());
    assert_eq!((there.actions_taken, there.running.len()), (0, 0));

    let again = world.schedules.create(&schedule).await.unwrap_err();
    assert!(
        matches!(again, ScheduleError::AlreadyExists { .. }),
        "{again}"
    );

    world.schedules.unpause(&id, "").await.unwrap();
    let there = world.describe().await;
    assert_eq!((there.paused, there.note.as_str()), (false, "unpaused"));
    world.schedules.pause(&id, "for a test").await.unwrap();
    let there = world.describe().await;
    assert_eq!((there.paused, there.note.as_str()), (true, "for a test"));

    world.schedules.delete(&id).await.unwrap();
    let gone = [
        world.schedules.describe(&id).await.map(drop).unwrap_err(),
        world.schedules.trigger(&id, None).await.unwrap_err(),
        world.schedules.pause(&id, "").await.unwrap_err(),
        world.schedules.delete(&id).await.unwrap_err(),
        world
            .schedules
            .backfill(&id, days(2))
            .await
            .map(drop)
            .unwrap_err(),
        world
            .schedules
            .trigger("never-was", None)
            .await
            .unwrap_err(),
    ];
    for error in gone {
        assert!(matches!(error, ScheduleError::NotFound { .. }), "{error}");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_server_has_the_last_word() {
    let world = World::new("refused").await;
    for (wrong, said) in [
        (world.daily().time_zone("Nowhere/Land"), "Nowhere/Land"),
        (world.daily().cron("99 * * * *"), "Minute"),
    ] {
        let wrong = wrong.build().unwrap();
        let error = world.schedules.create(&wrong).await.unwrap_err();
        assert!(matches!(error, ScheduleError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }

    let elsewhere = world.server.client("no-such-namespace").await.unwrap();
    let error = Schedules::new(elsewhere).describe("x").await.unwrap_err();
    assert!(matches!(error, ScheduleError::Rpc { .. }), "{error}");
    world.stop().await;
}

#[tokio::test]
async fn a_trigger_follows_the_policy_or_names_another_and_runs_outlive_the_schedule() {
    let world = World::new("trigger").await;
    let id = world.name.clone();
    world
        .create(world.daily().workflow_id("made-by-hand"))
        .await;
    world.schedules.trigger(&id, None).await.unwrap();
    let first = eventually("a run", async || world.runs().await.pop()).await;
    assert!(first.is_open());
    assert!(first.workflow_id.starts_with("made-by-hand-"));
    assert_eq!(world.describe().await.running.len(), 1);

    // Skip: nothing, and only a counter says so.
    world.schedules.trigger(&id, None).await.unwrap();
    eventually("a skipped trigger", async || {
        (world.describe().await.overlap_skipped == 1).then_some(())
    })
    .await;

    // Beside it. Repeated, because the workflow id has the time to the second, and within the
    // second of the first trigger there would be nothing to start.
    let runs = eventually("a second run", async || {
        let runs = world.runs().await;
        if runs.len() > 1 {
            return Some(runs);
        }
        let all = Some(Overlap::AllowAll);
        world.schedules.trigger(&id, all).await.unwrap();
        None
    })
    .await;

    world.schedules.delete(&id).await.unwrap();
    let open = RunFilter::new().open();
    let after = world.schedules.runs(&id, &open).await.unwrap().runs;
    assert!(after.len() >= runs.len(), "they go on without it");
    world.stop().await;
}

#[tokio::test]
async fn buffer_all_backfills_17_days_one_after_the_other() {
    let world = World::new("sequential").await;
    world.create(world.daily()).await;
    let backfill = world
        .schedules
        .backfill(&world.name, days(17))
        .await
        .unwrap();
    assert_eq!(backfill.expected_runs(), 17);
    assert_eq!(backfill.first(), Some(first_day()), "the start is included");
    assert_eq!(backfill.last(), Some(first_day() + 16 * DAY), "and the end");

    // One runs. Nine wait in the buffer, and the backfill holds the other seven.
    let there = eventually("a full step", async || {
        Some(world.describe().await).filter(|there| there.buffered == 9)
    })
    .await;
    assert_eq!((there.running.len(), there.actions_taken), (1, 1));

    let mut seen = HashSet::new();
    let progress = eventually("the end of all", async || {
        let progress = world.progress(&backfill).await;
        for run in progress.runs.iter().filter(|run| run.is_open()) {
            if seen.insert(run.run_id.clone()) {
                world.end(run).await;
            }
        }
        progress.is_finished().then_some(progress)
    })
    .await;
    assert_eq!((progress.runs.len(), progress.not_started.len()), (17, 0));
    let due: Vec<_> = progress
        .runs
        .iter()
        .filter_map(|run| run.scheduled_at)
        .collect();
    assert_eq!(due, backfill.times());
    for pair in progress.runs.windows(2) {
        let (earlier, later) = (pair[0].closed_at.unwrap(), pair[1].started_at.unwrap());
        assert!(earlier <= later, "never two at a time");
    }
    let there = world.describe().await;
    assert_eq!((there.actions_taken, there.overlap_skipped), (17, 0));
    world.stop().await;
}

#[tokio::test]
async fn buffer_one_drops_what_buffer_all_keeps() {
    let world = World::new("buffer-one").await;
    world.create(world.daily()).await;
    let request = days(17).overlap(Overlap::BufferOne);
    let backfill = world
        .schedules
        .backfill(&world.name, request)
        .await
        .unwrap();
    assert_eq!(backfill.expected_runs(), 17);

    eventually("14 dropped times and no open run", async || {
        let progress = world.progress(&backfill).await;
        for run in progress.runs.iter().filter(|run| run.is_open()) {
            world.end(run).await;
        }
        let there = world.describe().await;
        (there.overlap_skipped == 14 && progress.open() == 0 && progress.runs.len() == 3)
            .then_some(())
    })
    .await;
    let progress = world.progress(&backfill).await;
    assert_eq!((progress.runs.len(), progress.not_started.len()), (3, 14));
    world.stop().await;
}

#[tokio::test]
async fn allow_all_starts_17_at_once_and_a_second_backfill_would_start_none() {
    let world = World::new("parallel").await;
    let id = world.name.clone();
    world.create(world.daily()).await;
    let request = days(17).overlap(Overlap::AllowAll);
    let backfill = world
        .schedules
        .backfill(&id, request.clone())
        .await
        .unwrap();
    eventually("17 open runs", async || {
        let progress = world.progress(&backfill).await;
        (progress.open() == 17).then_some(())
    })
    .await;

    let error = world
        .schedules
        .backfill(&id, request.clone())
        .await
        .unwrap_err();
    let ScheduleError::RunsInTheWay { count, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(count, 17);

    // What it protects from: the server takes it on, and starts nothing. One more day shows that
    // it has got to the end.
    let request = days(18).overlap(Overlap::AllowAll).allow_open_runs();
    let second = world.schedules.backfill(&id, request).await.unwrap();
    assert_eq!(second.expected_runs(), 18);
    let progress = eventually("the eighteenth run", async || {
        let progress = world.progress(&second).await;
        (!progress.runs.is_empty()).then_some(progress)
    })
    .await;
    assert_eq!((progress.runs.len(), progress.not_started.len()), (1, 17));
    assert_eq!(world.describe().await.actions_taken, 18);

    // A part of the range, by its due times.
    let part = first_day() + DAY..=first_day() + 3 * DAY;
    let filter = RunFilter::new().scheduled_in(part);
    assert_eq!(
        world.schedules.runs(&id, &filter).await.unwrap().runs.len(),
        3
    );
    let filter = RunFilter::new().limit(5);
    let some = world.schedules.runs(&id, &filter).await.unwrap();
    assert_eq!((some.runs.len(), some.more), (5, true));
    world.stop().await;
}

#[tokio::test]
async fn jittered_runs_are_matched_with_their_times() {
    let world = World::new("jitter").await;
    world
        .create(world.daily().jitter(Duration::from_secs(3600)))
        .await;
    let range = first_day()..=first_day() + 4 * DAY + Duration::from_secs(3600);
    let request = BackfillRequest::new(range).overlap(Overlap::AllowAll);
    let backfill = world
        .schedules
        .backfill(&world.name, request)
        .await
        .unwrap();
    assert_eq!(backfill.expected_runs(), 5);
    let whole_days = |time: &SystemTime| {
        let since = time.duration_since(first_day()).expect("later");
        since.as_secs().is_multiple_of(DAY.as_secs()) && since.subsec_nanos() == 0
    };
    assert!(!backfill.times().iter().all(whole_days), "they are moved");
    eventually("5 runs", async || {
        let progress = world.progress(&backfill).await;
        (progress.runs.len() == 5 && progress.not_started.is_empty()).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_range_without_times_sends_nothing() {
    let world = World::new("empty").await;
    world.create(world.daily()).await;
    let between = first_day() + Duration::from_secs(1)..=first_day() + DAY / 2;
    let request = BackfillRequest::new(between);
    let backfill = world
        .schedules
        .backfill(&world.name, request)
        .await
        .unwrap();
    assert_eq!((backfill.expected_runs(), backfill.first()), (0, None));
    assert!(world.progress(&backfill).await.is_finished());
    world.stop().await;
}

#[tokio::test]
async fn action_times_are_the_server_s_own() {
    let world = World::new("times").await;
    let id = world.name.clone();
    // More than the server lists at once.
    world
        .create(
            Schedule::builder(&id)
                .workflow("Nobody", "nobody-polls-this")
                .every(Duration::from_secs(60))
                .paused("no runs wanted"),
        )
        .await;
    let two_days = first_day()..=first_day() + 2 * DAY;
    let times = world
        .schedules
        .action_times(&id, two_days.clone(), 5000)
        .await
        .unwrap();
    assert_eq!(times.len(), 2 * 24 * 60 + 1);
    assert_eq!(times.first(), Some(&first_day()));
    assert!(times.is_sorted());
    let error = world
        .schedules
        .backfill(&id, BackfillRequest::new(two_days))
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, ScheduleError::TooMany { limit: 1000, .. }),
        "{error}"
    );
    assert!(world.runs().await.is_empty());

    // Six o'clock in Berlin, over the day that the clocks go forward (2026-03-29).
    let berlin = Schedule::builder(format!("{id}/berlin"))
        .workflow("Nobody", "nobody-polls-this")
        .daily_at(6, 0)
        .time_zone("Europe/Berlin")
        .paused("no runs wanted")
        .build()
        .unwrap();
    world.schedules.create(&berlin).await.unwrap();
    let saturday = UNIX_EPOCH + Duration::from_secs(1_774_656_000);
    let weekend = saturday..=saturday + 2 * DAY;
    let times = world
        .schedules
        .action_times(berlin.id(), weekend, 10)
        .await
        .unwrap();
    let hours: Vec<u64> = times
        .iter()
        .map(|time| time.duration_since(saturday).unwrap().as_secs() / 3600)
        .collect();
    assert_eq!(hours, [5, 24 + 4]);
    world.stop().await;
}

#[tokio::test]
async fn an_update_changes_the_schedule_and_not_what_operators_set() {
    let world = World::new("update").await;
    let id = world.name.clone();
    let schedule = |hour| {
        Schedule::builder(&id)
            .workflow("Nobody", "nobody-polls-this")
            .daily_at(hour, 0)
    };
    let six = schedule(6).build().unwrap();
    let applied = world.schedules.create_or_update(&six).await.unwrap();
    assert_eq!(applied, Applied::Created);
    world.schedules.pause(&id, "on holiday").await.unwrap();

    let seven = schedule(7).overlap(Overlap::AllowAll).build().unwrap();
    let applied = world.schedules.create_or_update(&seven).await.unwrap();
    assert_eq!(applied, Applied::Updated);
    let there = world.describe().await;
    assert_eq!(there.overlap, Some(Overlap::AllowAll));
    assert!(there.paused);
    assert_eq!(there.note, "on holiday");
    assert!(there.updated_at.is_some());
    let times = world
        .schedules
        .action_times(&id, first_day()..=first_day() + DAY, 10)
        .await
        .unwrap();
    assert_eq!(times, [first_day() + Duration::from_secs(3600)]);

    // Many at once end with what all wanted.
    let updates = (0..4).map(|_| world.schedules.create_or_update(&six));
    for applied in futures_util::future::join_all(updates).await {
        assert_eq!(applied.unwrap(), Applied::Updated);
    }
    assert_eq!(world.describe().await.overlap, Some(Overlap::Skip));
    world.stop().await;
}

/// The assumption that `create_or_update` stands on.
#[tokio::test]
async fn an_update_for_an_old_version_has_no_effect() {
    let world = World::new("stale").await;
    world.create(world.daily()).await;
    let mut service = world.client.connection().clone();
    let request = DescribeScheduleRequest {
        namespace: "default".into(),
        schedule_id: world.name.clone(),
    };
    let old = service.describe_schedule(request.into_request()).await;
    let old = old.unwrap().into_inner();
    world
        .schedules
        .unpause(&world.name, "since then")
        .await
        .unwrap();
    let unpaused = world.describe().await;

    let update = UpdateScheduleRequest {
        namespace: "default".into(),
        schedule_id: world.name.clone(),
        schedule: old.schedule,
        conflict_token: old.conflict_token,
        ..Default::default()
    };
    if let Err(status) = service.update_schedule(update.into_request()).await {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    // A change that is sure to be taken, to know that the update has been looked at before it.
    world
        .schedules
        .pause(&world.name, "after it")
        .await
        .unwrap();
    let there = world.describe().await;
    assert_eq!(there.note, "after it");
    assert_eq!(there.updated_at, unpaused.updated_at);
    world.stop().await;
}
