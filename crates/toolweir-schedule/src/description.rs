//! What the server says about a schedule.

use std::time::{Duration, SystemTime};

use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    schedule::v1::{ScheduleActionResult, ScheduleInfo, ScheduleState},
    workflowservice::v1::DescribeScheduleResponse,
};

use crate::{Overlap, ScheduleError};

/// A schedule as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// Its id.
    pub schedule_id: String,
    /// Whether it takes no actions by itself.
    pub paused: bool,
    /// Why it is paused, or what was last said of it. The server writes here when it pauses a
    /// schedule after a failure.
    pub note: String,
    /// Its overlap policy; `None` for one that this crate does not know.
    pub overlap: Option<Overlap>,
    /// How late it makes good what a server that was down missed.
    pub catch_up_window: Duration,
    /// Whether a failed run pauses it.
    pub pause_on_failure: bool,
    /// The jitter of its actions.
    pub jitter: Duration,
    /// How many scheduled actions it still takes, if they are limited.
    pub remaining_actions: Option<u64>,
    /// How many runs it has started.
    pub actions_taken: u64,
    /// How many times it dropped by its overlap policy.
    pub overlap_skipped: u64,
    /// How many times it missed because the server was down for longer than the catch-up window.
    pub missed_catch_up: u64,
    /// How many times wait for an open run to end. A backfill hands its times over in steps of
    /// ten; those it still holds are not counted here.
    pub buffered: u64,
    /// How many times were dropped because a thousand waited.
    pub buffer_dropped: u64,
    /// The open runs, those started beside each other by [`Overlap::AllowAll`] excepted: the
    /// server does not follow them. [`Schedules::runs`](crate::Schedules::runs) finds all.
    pub running: Vec<RunRef>,
    /// The last ten actions taken, oldest first.
    pub recent_actions: Vec<Action>,
    /// The next ten action times, jitter included.
    pub next_actions: Vec<SystemTime>,
    /// When it was created.
    pub created_at: Option<SystemTime>,
    /// When it was last updated. Pausing is no update.
    pub updated_at: Option<SystemTime>,
}

/// A run, by its ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RunRef {
    /// The workflow id.
    pub workflow_id: String,
    /// The run id that the schedule started it with. After a retry or a continue-as-new it has
    /// another one.
    pub run_id: String,
}

/// An action that a schedule took.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Action {
    /// The time it was due, jitter included.
    pub due_at: Option<SystemTime>,
    /// The time it was taken.
    pub taken_at: Option<SystemTime>,
    /// The run it started.
    pub run: Option<RunRef>,
}

impl Description {
    pub(crate) fn read(
        id: &str,
        response: DescribeScheduleResponse,
    ) -> Result<Self, ScheduleError> {
        let schedule = response.schedule.ok_or_else(|| ScheduleError::Malformed {
            schedule_id: id.to_owned(),
            reason: "it lacks the schedule",
        })?;
        let state = schedule.state.unwrap_or_default();
        let policies = schedule.policies.unwrap_or_default();
        let info = response.info.unwrap_or_default();
        let jitter = schedule.spec.and_then(|spec| spec.jitter);
        Ok(Self {
            schedule_id: id.to_owned(),
            overlap: Overlap::from_proto(policies.overlap_policy),
            catch_up_window: policies
                .catchup_window
                .and_then(|window| window.try_into().ok())
                .unwrap_or_default(),
            pause_on_failure: policies.pause_on_failure,
            jitter: jitter.and_then(|d| d.try_into().ok()).unwrap_or_default(),
            remaining_actions: remaining(&state),
            paused: state.paused,
            note: state.notes,
            actions_taken: count(info.action_count),
            overlap_skipped: count(info.overlap_skipped),
            missed_catch_up: count(info.missed_catchup_window),
            buffered: count(info.buffer_size),
            buffer_dropped: count(info.buffer_dropped),
            next_actions: next_actions(&info),
            created_at: info.create_time.and_then(|time| time.try_into().ok()),
            updated_at: info.update_time.and_then(|time| time.try_into().ok()),
            running: info.running_workflows.into_iter().map(Into::into).collect(),
            recent_actions: info.recent_actions.into_iter().map(Into::into).collect(),
        })
    }
}

fn remaining(state: &ScheduleState) -> Option<u64> {
    state
        .limited_actions
        .then(|| count(state.remaining_actions))
}

fn next_actions(info: &ScheduleInfo) -> Vec<SystemTime> {
    info.future_action_times
        .iter()
        .filter_map(|time| (*time).try_into().ok())
        .collect()
}

/// The protocol counts with signed numbers.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl From<WorkflowExecution> for RunRef {
    fn from(execution: WorkflowExecution) -> Self {
        Self {
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
        }
    }
}

impl From<ScheduleActionResult> for Action {
    fn from(result: ScheduleActionResult) -> Self {
        Self {
            due_at: result.schedule_time.and_then(|time| time.try_into().ok()),
            taken_at: result.actual_time.and_then(|time| time.try_into().ok()),
            run: result.start_workflow_result.map(Into::into),
        }
    }
}
