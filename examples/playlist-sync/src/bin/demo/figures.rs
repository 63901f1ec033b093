//! What happened, from the service's journal and from Temporal's history: the worker's own counters
//! are not asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use playlist_sync::{
    music::{
        DEFAULT_MISSING,
        catalogue::{Catalogue, Query},
        journal::{self, Summary},
    },
    playlist,
    sync::SyncReport,
};
use serde::Serialize;
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowExecutionStatus, WorkflowFetchHistoryOptions,
};
use temporalio_common::protos::temporal::api::history::v1::{
    HistoryEvent, history_event::Attributes,
};
use toolweir::{
    schedule::{Run, RunFilter, Schedules},
    temporal::CALL_TOOL,
};

use crate::show::{ALL, OFTEN};

/// The figures of a demo.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) runs_started: usize,
    pub(crate) runs_completed: usize,
    pub(crate) runs_skipped: usize,
    pub(crate) overlap_skipped: u64,
    pub(crate) runs_failed: usize,
    pub(crate) backfill_completed: usize,
    pub(crate) tool_calls: u64,
    pub(crate) server_throttled: u64,
    pub(crate) token_refreshes: u64,
    pub(crate) server_starts: u64,
    pub(crate) first_call_ms: Option<u64>,
    pub(crate) median_call_ms: Option<u64>,
    pub(crate) tracks_expected: usize,
    pub(crate) tracks_present: usize,
    pub(crate) tracks_duplicated: usize,
    pub(crate) seconds: f64,
}

/// The tracks that should stand in each playlist.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    tracks: BTreeMap<String, BTreeSet<String>>,
    /// Exports that cannot be read, each with one sentence.
    pub(crate) unreadable: Vec<String>,
    /// Rows that cannot be read, by file and line.
    pub(crate) malformed: Vec<String>,
}

impl Expected {
    /// Reads the exports and looks their tracks up, as the service will.
    pub(crate) fn read(exports: &[PathBuf]) -> Self {
        let mut expected = Self::default();
        let mut read = Vec::new();
        for path in exports {
            match playlist::read(path) {
                Ok(export) => {
                    let rows = export.malformed.iter().map(ToString::to_string);
                    expected.malformed.extend(rows);
                    read.push(export);
                }
                Err(error) => expected.unreadable.push(error.to_string()),
            }
        }
        let all = read.iter().flat_map(|export| export.tracks.iter().cloned());
        let (catalogue, _) = Catalogue::build(all.collect(), &[DEFAULT_MISSING.to_owned()]);
        for export in read {
            let ids = export.tracks.into_iter().filter_map(|track| {
                let query = Query::Names {
                    artist: track.artist,
                    title: track.title,
                    isrc: track.isrc,
                };
                catalogue.search(&query).map(|entry| entry.id.clone())
            });
            expected
                .tracks
                .entry(export.name.clone())
                .or_default()
                .extend(ids);
        }
        expected
    }

    fn count(&self) -> usize {
        self.tracks.values().map(BTreeSet::len).sum()
    }

    /// How many of them stand in their playlist.
    fn present(&self, summary: &Summary) -> usize {
        self.tracks
            .iter()
            .map(|(playlist, expected)| {
                let there: BTreeSet<&str> = summary
                    .playlists
                    .get(playlist)
                    .into_iter()
                    .flatten()
                    .map(|entry| entry.track_id.as_str())
                    .collect();
                expected
                    .iter()
                    .filter(|id| there.contains(id.as_str()))
                    .count()
            })
            .sum()
    }
}

impl Figures {
    /// Reads them all, once everything has ended.
    pub(crate) async fn read(
        client: &Client,
        journal: &Path,
        expected: &Expected,
        overlap_skipped: u64,
        took: Duration,
    ) -> Result<Self> {
        let summary = journal::read(journal)?;
        let mut figures = Self {
            overlap_skipped,
            tool_calls: summary.counts.tool_calls,
            server_throttled: summary.counts.throttled,
            token_refreshes: summary.counts.token_refreshes,
            server_starts: summary.counts.server_starts,
            tracks_expected: expected.count(),
            tracks_present: expected.present(&summary),
            tracks_duplicated: summary.duplicates().len(),
            seconds: took.as_secs_f64(),
            ..Self::default()
        };
        let schedules = Schedules::new(client.clone());
        let mut calls = Vec::new();
        for id in ALL {
            let runs = schedules.runs(id, &RunFilter::new()).await?.runs;
            for run in &runs {
                let history = History::read(client, run).await?;
                figures.count(run, &history, id != OFTEN);
                calls.extend(history.calls);
            }
        }
        calls.sort_unstable_by_key(|call| call.started_ms);
        figures.first_call_ms = calls.first().map(|call| call.took_ms);
        calls.sort_unstable_by_key(|call| call.took_ms);
        figures.median_call_ms = calls.get(calls.len() / 2).map(|call| call.took_ms);
        Ok(figures)
    }

    fn count(&mut self, run: &Run, history: &History, backfilled: bool) {
        self.runs_started += 1;
        match (run.status, &history.report) {
            (WorkflowExecutionStatus::Completed, Some(report)) if report.skipped.is_some() => {
                self.runs_skipped += 1;
            }
            (WorkflowExecutionStatus::Completed, _) => {
                self.runs_completed += 1;
                self.backfill_completed += usize::from(backfilled);
            }
            _ => self.runs_failed += 1,
        }
    }
}

/// A tool call as the history has it: the last attempt.
#[derive(Debug)]
struct Call {
    started_ms: u64,
    took_ms: u64,
}

/// What a run's history says.
#[derive(Debug, Default)]
struct History {
    calls: Vec<Call>,
    report: Option<SyncReport>,
}

impl History {
    async fn read(client: &Client, run: &Run) -> Result<Self> {
        let handle = client.get_workflow_handle::<UntypedWorkflow>(run.workflow_id.as_str());
        let mut info = handle.info().clone();
        info.run_id = Some(run.run_id.clone());
        let handle =
            temporalio_client::WorkflowHandle::<_, UntypedWorkflow>::new(client.clone(), info);
        let events = handle
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .into_events()
            .await
            .with_context(|| format!("cannot read the history of {}", run.workflow_id))?;
        Ok(Self::of(events))
    }

    fn of(events: Vec<HistoryEvent>) -> Self {
        let mut history = Self::default();
        // The tool calls under way, by the event that scheduled each, and when they were started.
        let mut under_way = HashMap::new();
        for event in events {
            let at = event.event_time.and_then(|at| millis(at.seconds, at.nanos));
            match event.attributes {
                Some(Attributes::ActivityTaskScheduledEventAttributes(call))
                    if call
                        .activity_type
                        .as_ref()
                        .is_some_and(|kind| kind.name == CALL_TOOL) =>
                {
                    under_way.insert(event.event_id, None);
                }
                Some(Attributes::ActivityTaskStartedEventAttributes(start)) => {
                    if let Some(started) = under_way.get_mut(&start.scheduled_event_id) {
                        *started = at;
                    }
                }
                Some(Attributes::ActivityTaskCompletedEventAttributes(end)) => {
                    let started = under_way.remove(&end.scheduled_event_id).flatten();
                    history.calls.extend(Call::between(started, at));
                }
                Some(Attributes::WorkflowExecutionCompletedEventAttributes(end)) => {
                    history.report = end
                        .result
                        .and_then(|result| result.payloads.into_iter().next())
                        .and_then(|payload| serde_json::from_slice(&payload.data).ok());
                }
                _ => {}
            }
        }
        history
    }
}

impl Call {
    fn between(started: Option<u64>, ended: Option<u64>) -> Option<Self> {
        let started_ms = started?;
        Some(Self {
            started_ms,
            took_ms: ended?.saturating_sub(started_ms),
        })
    }
}

fn millis(seconds: i64, nanos: i32) -> Option<u64> {
    let millis = seconds.checked_mul(1000)? + i64::from(nanos) / 1_000_000;
    u64::try_from(millis).ok()
}
