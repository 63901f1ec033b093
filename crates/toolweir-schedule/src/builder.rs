//! Building a schedule.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use toolweir_core::ConfigError;

use crate::{
    Overlap, Preset, Schedule,
    times::{Times, check_seconds},
    workflow::{Workflow, check_name, json_payload},
};

/// The server takes less for this without a word.
const SHORTEST_CATCH_UP: Duration = Duration::from_secs(10);
const LONGEST_CATCH_UP: Duration = Duration::from_secs(365 * 24 * 3600);

/// Builds a [`Schedule`].
///
/// It needs a [workflow](Self::workflow) and at least one of [`every`](Self::every),
/// [`cron`](Self::cron) and [`daily_at`](Self::daily_at); with several, the schedule acts at the
/// times of all.
#[derive(Debug, Clone)]
#[must_use]
pub struct ScheduleBuilder {
    schedule: Schedule,
    /// The first argument that could not be taken. `build` says it.
    problem: Option<ConfigError>,
}

impl ScheduleBuilder {
    pub(crate) fn new(id: String) -> Self {
        Self {
            schedule: Schedule {
                id,
                times: Times::default(),
                workflow: Workflow::default(),
                overlap: Preset::Latest.overlap(),
                catch_up_window: Preset::Latest.catch_up_window(),
                pause_on_failure: false,
                paused: None,
                limited_actions: None,
            },
            problem: None,
        }
    }

    /// The workflow type to start, and the task queue its workers poll.
    pub fn workflow(
        mut self,
        workflow_type: impl Into<String>,
        task_queue: impl Into<String>,
    ) -> Self {
        self.schedule.workflow.workflow_type = workflow_type.into();
        self.schedule.workflow.task_queue = task_queue.into();
        self
    }

    /// What a run's workflow id begins with; the schedule's id by default. The server appends
    /// the action time in UTC to the second, as in `playlist-sync/anna-2026-11-22T06:00:00Z`.
    pub fn workflow_id(mut self, prefix: impl Into<String>) -> Self {
        self.schedule.workflow.id_prefix = Some(prefix.into());
        self
    }

    /// The workflow's argument, as plain JSON. Each call adds one, for workflows that take
    /// several. The client's payload codec applies when the schedule is created.
    pub fn input<T: Serialize + ?Sized>(mut self, argument: &T) -> Self {
        match json_payload("input", argument) {
            Ok(payload) => self.schedule.workflow.input.push(payload),
            Err(problem) => self.note(problem),
        }
        self
    }

    /// A memo value for every run, as plain JSON.
    pub fn memo<T: Serialize + ?Sized>(mut self, key: impl Into<String>, value: &T) -> Self {
        match json_payload("memo", value) {
            Ok(payload) => drop(self.schedule.workflow.memo.insert(key.into(), payload)),
            Err(problem) => self.note(problem),
        }
        self
    }

    /// How long a run may take, retries and continue-as-new included. Whole seconds.
    ///
    /// Worth setting: under [`Overlap::Skip`] and the buffering policies, a run that never ends
    /// is the schedule's last.
    pub const fn execution_timeout(mut self, limit: Duration) -> Self {
        self.schedule.workflow.execution_timeout = Some(limit);
        self
    }

    /// How long a single run may take, retries and continue-as-new not included. Whole seconds.
    pub const fn run_timeout(mut self, limit: Duration) -> Self {
        self.schedule.workflow.run_timeout = Some(limit);
        self
    }

    /// How urgent the runs' tasks are, from 1 (most) to 5. The server takes 3 by default.
    pub const fn priority_key(mut self, key: u8) -> Self {
        self.schedule.workflow.priority_key = Some(key);
        self
    }

    /// Whose tasks these are: a task queue serves its fairness keys in turn, so that one user's
    /// backlog does not hold up the others. 64 bytes at most.
    pub fn fairness_key(mut self, key: impl Into<String>) -> Self {
        self.schedule.workflow.fairness_key = Some(key.into());
        self
    }

    /// Acts every so often, counted from the Unix epoch: every hour means on the hour. Whole
    /// seconds.
    pub const fn every(mut self, interval: Duration) -> Self {
        self.schedule.times.every = Some(interval);
        self
    }

    /// Moves [`every`](Self::every) by this much: every hour with 19 minutes means at 19 minutes
    /// past. Whole seconds, below the interval.
    pub const fn offset(mut self, offset: Duration) -> Self {
        self.schedule.times.offset = Some(offset);
        self
    }

    /// Acts when this cron expression says: 5 to 7 fields, or `@daily` and the like. Each call
    /// adds one. The server parses it; unlike in some crons, day of month and day of week must
    /// both match.
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.schedule.times.cron.push(expression.into());
        self
    }

    /// Acts at this time every day. Each call adds one.
    ///
    /// Where clocks change, a time that a day leaves out does not come, and one that a day has
    /// twice comes twice. UTC, the default, has neither.
    pub fn daily_at(mut self, hour: u8, minute: u8) -> Self {
        self.schedule.times.daily.push((hour, minute));
        self
    }

    /// The IANA time zone of [`cron`](Self::cron) and [`daily_at`](Self::daily_at). UTC by
    /// default. The server has the rules; its error comes back if it does not know the name.
    pub fn time_zone(mut self, name: impl Into<String>) -> Self {
        self.schedule.times.time_zone = Some(name.into());
        self
    }

    /// No action before this time.
    pub const fn start_at(mut self, time: SystemTime) -> Self {
        self.schedule.times.start_at = Some(time);
        self
    }

    /// No action after this time. The server removes a schedule some days after its last action.
    pub const fn end_at(mut self, time: SystemTime) -> Self {
        self.schedule.times.end_at = Some(time);
        self
    }

    /// Moves each action by a random time up to this, and never past the next one. At most a day.
    pub const fn jitter(mut self, most: Duration) -> Self {
        self.schedule.times.jitter = Some(most);
        self
    }

    /// Gives the schedule a fixed place in a window of this length, computed from its id, by
    /// moving [`every`](Self::every) and [`daily_at`](Self::daily_at). See
    /// [`spread_offset`](crate::spread_offset). Whole seconds, no more than the interval or than
    /// what the day has left.
    pub const fn spread_over(mut self, window: Duration) -> Self {
        self.schedule.times.spread_over = Some(window);
        self
    }

    /// Sets overlap and catch-up window together. Later calls of either replace its part.
    pub const fn preset(mut self, preset: Preset) -> Self {
        self.schedule.overlap = preset.overlap();
        self.schedule.catch_up_window = preset.catch_up_window();
        self
    }

    /// What happens at an action time while an earlier run is open. [`Overlap::Skip`] by default.
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.schedule.overlap = overlap;
        self
    }

    /// How late an action may be taken that the *Temporal server* missed because it was down. 60 s
    /// by default, from 10 s to 365 days, which is the server's own default.
    ///
    /// It has nothing to do with workers: an action taken while no worker is up starts a run that
    /// waits. It has nothing to do with slow runs either; those are the overlap policy's. A long
    /// window makes a server that comes back after a weekend take the weekend's actions at once.
    pub const fn catch_up_window(mut self, window: Duration) -> Self {
        self.schedule.catch_up_window = window;
        self
    }

    /// Pauses the schedule when a run fails or times out, after its retries. Off by default.
    ///
    /// Backfilled and triggered runs that wait in the buffer go on being started all the same.
    pub const fn pause_on_failure(mut self, pause: bool) -> Self {
        self.schedule.pause_on_failure = pause;
        self
    }

    /// Creates the schedule paused, with a note that says why. It takes triggers and backfills.
    pub fn paused(mut self, note: impl Into<String>) -> Self {
        self.schedule.paused = Some(note.into());
        self
    }

    /// Takes only this many scheduled actions. Triggers, backfills and skipped times don't count.
    pub const fn limited_actions(mut self, count: u32) -> Self {
        self.schedule.limited_actions = Some(count);
        self
    }

    /// Checks everything that can be checked without the server.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field, its value, and what is allowed.
    pub fn build(self) -> Result<Schedule, ConfigError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let schedule = self.schedule;
        check_id(&schedule.id)?;
        schedule.workflow.check()?;
        if schedule.workflow.id_prefix.is_none() {
            check_name("workflow_id", &schedule.id)?;
        }
        schedule.times.check()?;
        check_seconds(
            "catch_up_window",
            schedule.catch_up_window,
            SHORTEST_CATCH_UP,
            LONGEST_CATCH_UP,
        )?;
        if schedule.limited_actions == Some(0) {
            return Err(ConfigError::new(
                "limited_actions",
                0,
                "at least 1; to take none, use `paused`",
            ));
        }
        Ok(schedule)
    }

    fn note(&mut self, problem: ConfigError) {
        self.problem.get_or_insert(problem);
    }
}

/// Quotes and backslashes are left out because the server's search for a schedule's runs does not
/// find them on every store.
pub(crate) fn check_id(id: &str) -> Result<(), ConfigError> {
    check_name("id", id)?;
    if id.contains(['"', '\'', '\\']) {
        return Err(ConfigError::new(
            "id",
            id,
            "without quotes and backslashes, or its runs cannot be searched for",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn builder(id: &str) -> ScheduleBuilder {
        Schedule::builder(id)
            .workflow("Sync", "sync")
            .every(Duration::from_secs(3600))
    }

    #[test]
    fn the_defaults_are_those_of_the_latest() {
        let schedule = builder("sync").build().unwrap();
        assert_eq!(schedule.overlap, Overlap::Skip);
        assert_eq!(schedule.catch_up_window, Duration::from_secs(60));
        assert!(!schedule.pause_on_failure);
    }

    #[test]
    fn what_comes_after_a_preset_replaces_its_part() {
        let schedule = builder("sync")
            .preset(Preset::EveryTime)
            .catch_up_window(Duration::from_secs(600))
            .build()
            .unwrap();
        assert_eq!(schedule.overlap, Overlap::BufferAll);
        assert_eq!(schedule.catch_up_window, Duration::from_secs(600));
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        // JSON has no keys that are lists.
        let unwritable = BTreeMap::from([(vec![1], 1)]);
        let cases = [
            ("id", builder("")),
            ("id", builder("it's")),
            ("id", builder("a\\b")),
            ("id", builder(&"x".repeat(201))),
            (
                "workflow",
                Schedule::builder("sync").every(Duration::from_secs(60)),
            ),
            ("every", Schedule::builder("sync").workflow("Sync", "sync")),
            (
                "catch_up_window",
                builder("sync").catch_up_window(Duration::from_secs(9)),
            ),
            (
                "catch_up_window",
                builder("sync").catch_up_window(LONGEST_CATCH_UP * 2),
            ),
            ("limited_actions", builder("sync").limited_actions(0)),
            ("input", builder("sync").input(&unwritable)),
            ("memo", builder("sync").memo("key", &unwritable)),
            // The first problem is the one that is said.
            (
                "input",
                builder("").input(&unwritable).memo("key", &unwritable),
            ),
        ];
        for (field, builder) in cases {
            let error = builder.build().unwrap_err();
            assert_eq!(error.field(), field, "{error}");
        }
    }
}
