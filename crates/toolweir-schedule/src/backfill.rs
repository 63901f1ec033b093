//! Running a schedule's past times.

use std::{
    collections::HashSet,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use temporalio_client::{NamespacedClient, grpc::WorkflowService, tonic::IntoRequest};
use temporalio_common::protos::temporal::api::{
    schedule::v1::{BackfillRequest as ProtoBackfill, SchedulePatch},
    workflowservice::v1::ListScheduleMatchingTimesRequest,
};
use toolweir_core::ConfigError;

use crate::{
    Overlap, Run, RunFilter, ScheduleError, Schedules,
    time::{check_range, just_before},
};

const DEFAULT_MAX_RUNS: usize = 1000;
const LARGEST_MAX_RUNS: usize = 10_000;
/// Runs that a range may hold from before. More would make the check afterwards a guess.
const KNOWN_RUNS: usize = 2 * LARGEST_MAX_RUNS;
/// How many workflow ids an error names.
const NAMED: usize = 5;

/// What to backfill.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use toolweir_schedule::{BackfillRequest, Overlap};
///
/// let day = Duration::from_secs(24 * 3600);
/// let first = UNIX_EPOCH + 20_000 * day;
/// let request = BackfillRequest::new(first..=first + 16 * day)
///     .overlap(Overlap::BufferAll)
///     .max_runs(31);
/// # drop(request);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct BackfillRequest {
    range: RangeInclusive<SystemTime>,
    overlap: Overlap,
    max_runs: usize,
    allow_open_runs: bool,
}

impl BackfillRequest {
    /// All action times in this range, both ends included, one after the other
    /// ([`Overlap::BufferAll`]), if they are at most 1000.
    ///
    /// With jitter, a time is in the range if it is no earlier than the start before jitter, and
    /// no later than the end after it. Times in the future run now, and again when they come.
    pub const fn new(range: RangeInclusive<SystemTime>) -> Self {
        Self {
            range,
            overlap: Overlap::BufferAll,
            max_runs: DEFAULT_MAX_RUNS,
            allow_open_runs: false,
        }
    }

    /// By another policy than [`Overlap::BufferAll`]. [`Overlap::AllowAll`] starts ten runs a
    /// second, beside each other. Those that drop times drop times: see [`Overlap`].
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Refuses a range with more action times than this, before anything is sent. From 1 to
    /// 10 000; 1000 by default.
    pub const fn max_runs(mut self, most: usize) -> Self {
        self.max_runs = most;
        self
    }

    /// Goes ahead although runs for some of the times are open. See
    /// [`Schedules::backfill`] for what then happens to those times.
    pub const fn allow_open_runs(mut self) -> Self {
        self.allow_open_runs = true;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_range("range", &self.range)?;
        if (1..=LARGEST_MAX_RUNS).contains(&self.max_runs) {
            return Ok(());
        }
        let allowed = format!("from 1 to {LARGEST_MAX_RUNS}");
        Err(ConfigError::new("max_runs", self.max_runs, allowed))
    }
}

/// A backfill that the server has taken on, and what it should come to.
#[derive(Debug, Clone)]
pub struct Backfill {
    pub(crate) schedule_id: String,
    pub(crate) range: RangeInclusive<SystemTime>,
    pub(crate) jitter: Duration,
    /// In ascending order.
    pub(crate) times: Vec<SystemTime>,
    /// Runs for times in the range from before this backfill.
    pub(crate) known: HashSet<String>,
}

impl Backfill {
    /// The schedule.
    #[must_use]
    pub fn schedule_id(&self) -> &str {
        &self.schedule_id
    }

    /// How many runs it should start, by the server's own reckoning. The overlap policies that
    /// drop times start fewer.
    #[must_use]
    pub fn expected_runs(&self) -> usize {
        self.times.len()
    }

    /// The first action time, jitter included.
    #[must_use]
    pub fn first(&self) -> Option<SystemTime> {
        self.times.first().copied()
    }

    /// The last action time, jitter included.
    #[must_use]
    pub fn last(&self) -> Option<SystemTime> {
        self.times.last().copied()
    }

    /// All action times in order, jitter included.
    #[must_use]
    pub fn times(&self) -> &[SystemTime] {
        &self.times
    }
}

impl Schedules {
    /// The times at which a schedule acts in a range, both ends included, as the server reckons
    /// them, jitter included.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::TooMany`] if there are more than `most`; [`ScheduleError::NotFound`] if
    /// there is no such schedule.
    pub async fn action_times(
        &self,
        id: &str,
        range: RangeInclusive<SystemTime>,
        most: usize,
    ) -> Result<Vec<SystemTime>, ScheduleError> {
        check_range("range", &range)?;
        let mut times: Vec<SystemTime> = Vec::new();
        let mut after = just_before(*range.start());
        // The server answers with the first thousand, so ask again behind the last.
        loop {
            let page = self.times_after(id, after, *range.end()).await?;
            let Some(last) = page.last().copied() else {
                return Ok(times);
            };
            if last <= after {
                return Err(ScheduleError::Malformed {
                    schedule_id: id.to_owned(),
                    reason: "its action times do not ascend",
                });
            }
            times.extend(page);
            if times.len() > most {
                return Err(ScheduleError::TooMany {
                    schedule_id: id.to_owned(),
                    limit: most,
                });
            }
            after = last;
        }
    }

    async fn times_after(
        &self,
        id: &str,
        after: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<SystemTime>, ScheduleError> {
        let request = ListScheduleMatchingTimesRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
            start_time: Some(after.into()),
            end_time: Some(until.into()),
        };
        let mut service = self.service();
        let call = service.list_schedule_matching_times(request.into_request());
        let answer = self.answer(id, "list the times of", call).await?;
        Ok(answer
            .start_time
            .into_iter()
            .filter_map(|time| time.try_into().ok())
            .collect())
    }

    /// Runs a schedule's times in a range as if they passed now, also on a paused schedule. How
    /// many runs that is is reckoned before anything is sent; with none, nothing is sent.
    ///
    /// Two runs for one time share a workflow id, so a time whose run is open is refused here
    /// ([`ScheduleError::RunsInTheWay`]). What would happen to it: under
    /// [`Overlap::AllowAll`] the server starts nothing for it, and says so nowhere; under
    /// [`Overlap::BufferAll`] it waits until that run has ended, and then runs a second time. The
    /// check sees what the server's search sees, which lags a little: do not ask for two backfills
    /// of the same times one right after the other.
    ///
    /// [`backfill_progress`](Self::backfill_progress) compares what ran with what should.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Config`] for a request out of range, [`ScheduleError::NotFound`],
    /// [`ScheduleError::TooMany`], [`ScheduleError::RunsInTheWay`]: in these cases nothing was
    /// started.
    pub async fn backfill(
        &self,
        id: &str,
        request: BackfillRequest,
    ) -> Result<Backfill, ScheduleError> {
        request.check()?;
        let jitter = self.describe(id).await?.jitter;
        let times = self
            .action_times(id, request.range.clone(), request.max_runs)
            .await?;
        let known = self.known_runs(id, &request.range).await?;
        if !request.allow_open_runs {
            refuse_open(id, &times, jitter, &known)?;
        }
        if !times.is_empty() {
            let patch = SchedulePatch {
                backfill_request: vec![ProtoBackfill {
                    start_time: Some(just_before(*request.range.start()).into()),
                    end_time: Some((*request.range.end()).into()),
                    overlap_policy: request.overlap.to_proto(),
                }],
                ..Default::default()
            };
            self.patch(id, "backfill", patch).await?;
        }
        tracing::debug!(schedule_id = id, runs = times.len(), "backfill");
        Ok(Backfill {
            schedule_id: id.to_owned(),
            range: request.range,
            jitter,
            times,
            known: known.into_iter().map(|run| run.run_id).collect(),
        })
    }

    /// The runs for times in a range, all of them.
    pub(crate) async fn known_runs(
        &self,
        id: &str,
        range: &RangeInclusive<SystemTime>,
    ) -> Result<Vec<Run>, ScheduleError> {
        let filter = RunFilter::new()
            .scheduled_in(range.clone())
            .limit(KNOWN_RUNS);
        let found = self.runs(id, &filter).await?;
        if found.more {
            return Err(ScheduleError::TooMany {
                schedule_id: id.to_owned(),
                limit: KNOWN_RUNS,
            });
        }
        Ok(found.runs)
    }
}

/// Refuses open runs that are due at one of `times`. Others in the range, such as those of a
/// trigger, have workflow ids of their own.
fn refuse_open(
    id: &str,
    times: &[SystemTime],
    jitter: Duration,
    runs: &[Run],
) -> Result<(), ScheduleError> {
    let in_the_way: Vec<&Run> = runs
        .iter()
        .filter(|run| run.is_open())
        .filter(|run| {
            run.scheduled_at
                .is_some_and(|due| position(times, due, jitter).is_some())
        })
        .collect();
    if in_the_way.is_empty() {
        return Ok(());
    }
    Err(ScheduleError::RunsInTheWay {
        schedule_id: id.to_owned(),
        count: in_the_way.len(),
        workflow_ids: in_the_way
            .iter()
            .take(NAMED)
            .map(|run| run.workflow_id.clone())
            .collect(),
    })
}

/// Which of `times` is `due` with its jitter. Jitter never moves a time past the next one, so the
/// first time that is no earlier is the one, if it is near enough.
pub(crate) fn position(times: &[SystemTime], due: SystemTime, jitter: Duration) -> Option<usize> {
    let index = times.partition_point(|time| *time < due);
    let time = times.get(index)?;
    let moved = time.duration_since(due).unwrap_or_default();
    (moved <= jitter).then_some(index)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use temporalio_client::WorkflowExecutionStatus;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn run(due: u64, status: WorkflowExecutionStatus) -> Run {
        Run {
            workflow_id: format!("sync-{due}"),
            run_id: format!("run-{due}"),
            status,
            scheduled_at: Some(at(due)),
            started_at: None,
            closed_at: None,
        }
    }

    #[test]
    fn a_due_time_is_found_with_its_jitter_and_no_other() {
        let times = [at(100), at(203), at(300)];
        let jitter = Duration::from_secs(5);
        assert_eq!(position(&times, at(100), jitter), Some(0));
        assert_eq!(position(&times, at(200), jitter), Some(1));
        assert_eq!(position(&times, at(300), jitter), Some(2));
        assert_eq!(position(&times, at(150), jitter), None);
        assert_eq!(position(&times, at(301), jitter), None);
        assert_eq!(position(&times, at(200), Duration::ZERO), None);
    }

    #[test]
    fn only_open_runs_at_the_same_time_are_in_the_way() {
        let times = [at(100), at(200)];
        let refuse = |runs: &[Run]| refuse_open("sync", &times, Duration::ZERO, runs);
        refuse(&[]).unwrap();
        refuse(&[run(100, WorkflowExecutionStatus::Completed)]).unwrap();
        refuse(&[run(150, WorkflowExecutionStatus::Running)]).unwrap();
        let error = refuse(&[
            run(100, WorkflowExecutionStatus::Running),
            run(200, WorkflowExecutionStatus::Paused),
        ])
        .unwrap_err();
        let ScheduleError::RunsInTheWay {
            count,
            workflow_ids,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(count, 2);
        assert_eq!(workflow_ids, ["sync-100", "sync-200"]);
    }

    #[test]
    fn a_request_is_checked() {
        BackfillRequest::new(at(1)..=at(1)).check().unwrap();
        let backwards = BackfillRequest::new(at(2)..=at(1));
        assert_eq!(backwards.check().unwrap_err().field(), "range");
        for most in [0, LARGEST_MAX_RUNS + 1] {
            let request = BackfillRequest::new(at(1)..=at(2)).max_runs(most);
            assert_eq!(request.check().unwrap_err().field(), "max_runs");
        }
    }
}
