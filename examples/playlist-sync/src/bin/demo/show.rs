//! The load: three schedules, a trigger and two backfills.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use playlist_sync::{
    music::journal,
    sync::{SyncInput, WORKFLOW_TYPE},
};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowHandle, WorkflowTerminateOptions,
    errors::WorkflowInteractionError,
};
use tokio::time::{Instant, sleep};
use toolweir::schedule::{
    Backfill, BackfillRequest, Overlap, Run, RunFilter, Schedule, ScheduleBuilder, Schedules,
};

use crate::{arguments::Arguments, progress::Progress};

/// The schedule that comes round all the time, and skips when a run is under way.
pub(crate) const OFTEN: &str = "sync-every-five-seconds";
/// The schedule whose backfill goes run by run.
pub(crate) const ONE_BY_ONE: &str = "sync-daily-one-by-one";
/// The schedule whose backfill goes all at once.
pub(crate) const ALL_AT_ONCE: &str = "sync-daily-all-at-once";
/// All of them.
pub(crate) const ALL: [&str; 3] = [OFTEN, ONE_BY_ONE, ALL_AT_ONCE];

const EVERY: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A backfill has time: it waits out what ends within two minutes.
const BACKFILL_PATIENCE: Duration = Duration::from_secs(120);
/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The token is meant to expire this often, at least.
const EXPIRIES: u64 = 2;
/// Without layers every call is tried this often.
const UNPROTECTED_ATTEMPTS: u32 = 3;

/// The backfills under way, and how each schedule's own counts stood at the end.
#[derive(Debug)]
pub(crate) struct Show {
    schedules: Schedules,
    backfills: [Backfill; 2],
}

impl Show {
    /// Creates the schedules and starts everything at once.
    pub(crate) async fn start(
        schedules: Schedules,
        arguments: &Arguments,
        exports: &[PathBuf],
        task_queue: &str,
    ) -> Result<Self> {
        let input = |patience: Duration| input(arguments, exports, patience);
        let often = builder(OFTEN, task_queue, &input(Duration::ZERO)?).every(EVERY);
        schedules
            .create(&often.overlap(Overlap::Skip).build()?)
            .await?;
        schedules.trigger(OFTEN, None).await?;
        let past = SystemTime::now();
        let days = past - DAY * u32::from(arguments.days)..=past;
        let mut backfills = Vec::new();
        for (id, overlap) in [
            (ONE_BY_ONE, Overlap::BufferAll),
            (ALL_AT_ONCE, Overlap::AllowAll),
        ] {
            let daily = builder(id, task_queue, &input(BACKFILL_PATIENCE)?).daily_at(2, 0);
            schedules.create(&daily.overlap(overlap).build()?).await?;
            let request = BackfillRequest::new(days.clone()).overlap(overlap);
            backfills.push(schedules.backfill(id, request).await?);
        }
        let backfills = backfills
            .try_into()
            .ok()
            .context("there are two backfills")?;
        Ok(Self {
            schedules,
            backfills,
        })
    }

    /// How many runs both backfills should start.
    pub(crate) fn expected_runs(&self) -> usize {
        self.backfills.iter().map(Backfill::expected_runs).sum()
    }

    /// Waits until both backfills are done and the token has expired often enough.
    pub(crate) async fn watch(
        &self,
        arguments: &Arguments,
        journal: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let give_up = Instant::now() + arguments.give_up_after();
        loop {
            let mut finished = true;
            let mut ended = 0;
            for backfill in &self.backfills {
                let so_far = self.schedules.backfill_progress(backfill).await?;
                ended += so_far.runs.len() - so_far.open();
                finished &= so_far.is_finished();
            }
            let counts = journal::read(journal)?.counts;
            progress.so_far(ended, &counts);
            let expired = arguments.unprotected || counts.token_refreshes >= EXPIRIES;
            if finished && expired {
                return Ok(());
            }
            if Instant::now() >= give_up {
                progress.say("some runs have not ended in time; the figures are what there is");
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Deletes the schedules, so that no more runs start, and waits for those under way. What is
    /// still open after `patience` is terminated, and so counts as failed. Returns how many times
    /// the schedule that skips has skipped.
    pub(crate) async fn wind_down(&self, client: &Client, patience: Duration) -> Result<u64> {
        let overlap_skipped = self.schedules.describe(OFTEN).await?.overlap_skipped;
        for id in ALL {
            self.schedules.delete(id).await?;
        }
        let give_up = Instant::now() + patience;
        loop {
            let open = self.open_runs().await?;
            if open.is_empty() {
                return Ok(overlap_skipped);
            }
            if Instant::now() >= give_up {
                for run in open {
                    terminate(client, run).await?;
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn open_runs(&self) -> Result<Vec<Run>> {
        let mut open = Vec::new();
        for id in ALL {
            let found = self.schedules.runs(id, &RunFilter::new().open()).await?;
            open.extend(found.runs);
        }
        Ok(open)
    }
}

/// Ends a run that will not end by itself. One that has just ended is no error.
async fn terminate(client: &Client, run: Run) -> Result<()> {
    let mut info = client
        .get_workflow_handle::<UntypedWorkflow>(run.workflow_id)
        .info()
        .clone();
    info.run_id = Some(run.run_id);
    let handle = WorkflowHandle::<_, UntypedWorkflow>::new(client.clone(), info);
    let ended = handle.terminate(WorkflowTerminateOptions::default()).await;
    match ended {
        Ok(()) | Err(WorkflowInteractionError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn builder(id: &str, task_queue: &str, input: &SyncInput) -> ScheduleBuilder {
    Schedule::builder(id)
        .workflow(WORKFLOW_TYPE, task_queue)
        .input(input)
        .execution_timeout(Duration::from_secs(15 * 60))
}

fn input(arguments: &Arguments, exports: &[PathBuf], patience: Duration) -> Result<SyncInput> {
    let exports = exports
        .iter()
        .map(|path| {
            let text = path.to_str();
            let text = text.with_context(|| format!("{} is not UTF-8", path.display()))?;
            Ok(text.to_owned())
        })
        .collect::<Result<_>>()?;
    Ok(SyncInput {
        in_flight: arguments.in_flight.get(),
        patience_ms: u64::try_from(patience.as_millis())?,
        preflight: !arguments.unprotected,
        attempts: arguments.unprotected.then_some(UNPROTECTED_ATTEMPTS),
        ..SyncInput::new(exports)
    })
}
