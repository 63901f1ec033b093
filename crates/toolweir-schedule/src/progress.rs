//! Whether a backfill did what it should.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::SystemTime,
};

use temporalio_client::WorkflowExecutionStatus;

use crate::{Backfill, Run, ScheduleError, Schedules, backfill::position};

/// What has become of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillProgress {
    /// How many runs it should start.
    pub expected: usize,
    /// The runs it has started, in the order of their times. Of a run that was retried or
    /// continued as new, the latest.
    pub runs: Vec<Run>,
    /// The times that have no run. They may still be waiting: as long as a run is open under
    /// [`Overlap::BufferAll`](crate::Overlap::BufferAll), or for the first seconds under
    /// [`Overlap::AllowAll`](crate::Overlap::AllowAll), which starts ten a second. After that,
    /// they were dropped or lost.
    pub not_started: Vec<SystemTime>,
}

impl BackfillProgress {
    /// How many runs are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.runs.iter().filter(|run| run.is_open()).count()
    }

    /// How many runs completed.
    #[must_use]
    pub fn completed(&self) -> usize {
        let completed = |run: &&Run| run.status == WorkflowExecutionStatus::Completed;
        self.runs.iter().filter(completed).count()
    }

    /// Whether every time has had its run, and every run has ended, well or not.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.not_started.is_empty() && self.open() == 0
    }
}

impl Schedules {
    /// Compares what a backfill has started with what it should. Runs of the same times from
    /// before it don't count.
    ///
    /// # Errors
    ///
    /// As [`Schedules::runs`].
    pub async fn backfill_progress(
        &self,
        backfill: &Backfill,
    ) -> Result<BackfillProgress, ScheduleError> {
        let runs = self
            .known_runs(&backfill.schedule_id, &backfill.range)
            .await?;
        Ok(compare(backfill, runs))
    }
}

fn compare(backfill: &Backfill, runs: Vec<Run>) -> BackfillProgress {
    let mut latest: HashMap<usize, Run> = HashMap::new();
    for run in runs {
        if backfill.known.contains(&run.run_id) {
            continue;
        }
        let Some(due) = run.scheduled_at else {
            continue;
        };
        let Some(index) = position(&backfill.times, due, backfill.jitter) else {
            continue;
        };
        match latest.entry(index) {
            Entry::Vacant(vacant) => drop(vacant.insert(run)),
            Entry::Occupied(mut other) if other.get().started_at < run.started_at => {
                drop(other.insert(run));
            }
            Entry::Occupied(_) => {}
        }
    }
    let mut progress = BackfillProgress {
        expected: backfill.expected_runs(),
        runs: Vec::new(),
        not_started: Vec::new(),
    };
    for (index, time) in backfill.times.iter().enumerate() {
        match latest.remove(&index) {
            Some(run) => progress.runs.push(run),
            None => progress.not_started.push(*time),
        }
    }
    progress
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn run(due: u64, id: &str, started: u64, status: WorkflowExecutionStatus) -> Run {
        Run {
            workflow_id: format!("sync-{due}"),
            run_id: id.to_owned(),
            status,
            scheduled_at: Some(at(due)),
            started_at: Some(at(started)),
            closed_at: None,
        }
    }

    #[test]
    fn new_runs_are_matched_with_their_times() {
        let backfill = Backfill {
            schedule_id: "sync".to_owned(),
            range: at(100)..=at(400),
            jitter: Duration::from_secs(5),
            times: vec![at(101), at(204), at(300), at(400)],
            known: ["before".to_owned()].into(),
        };
        let progress = compare(
            &backfill,
            vec![
                run(100, "a", 1000, WorkflowExecutionStatus::ContinuedAsNew),
                run(100, "a2", 1001, WorkflowExecutionStatus::Completed),
                run(200, "b", 1000, WorkflowExecutionStatus::Running),
                run(300, "before", 900, WorkflowExecutionStatus::Completed),
                // A trigger's.
                run(250, "t", 1000, WorkflowExecutionStatus::Running),
            ],
        );
        let ids: Vec<&str> = progress.runs.iter().map(|r| r.run_id.as_str()).collect();
        assert_eq!(ids, ["a2", "b"]);
        assert_eq!(progress.not_started, [at(300), at(400)]);
        assert_eq!(
            (progress.expected, progress.open(), progress.completed()),
            (4, 1, 1)
        );
        assert!(!progress.is_finished());

        let done = compare(
            &Backfill {
                times: vec![at(101)],
                ..backfill
            },
            vec![run(100, "a", 1, WorkflowExecutionStatus::Failed)],
        );
        assert!(done.is_finished());
    }
}
