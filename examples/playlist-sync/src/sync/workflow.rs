//! The workflow: read the exports, find each track, add it.

use std::time::Duration;

use serde::Serialize;
use temporalio_common::{
    RetryPolicy,
    error::{ApplicationErrorCategory, ApplicationFailure},
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{ActivityOptions, WorkflowContext, WorkflowResult};
use toolweir::workflow::{CallError, Readiness, ToolClient, batch};

use super::{
    ExportActivities, MUSIC, PlaylistReport, ReadExport, SyncInput, SyncReport,
    report::TrackOutcome,
};
use crate::{
    music::{AddedToPlaylist, Found},
    playlist::{Export, Track},
};

/// How long the worker may take to read one file.
const TO_READ: Duration = Duration::from_secs(30);
/// What lies between attempts where they are few, doubling.
const FEW_ATTEMPTS_APART: Duration = Duration::from_millis(500);
/// On whose behalf the example calls the service.
const PRINCIPAL: &str = "playlist-sync";

/// Brings playlist exports into the music service.
///
/// Each track has its own idempotency key, made of playlist and track, so that runs may overlap,
/// fail half-way and be repeated, and a track still stands in its playlist once.
#[workflow]
#[derive(Debug, Default)]
pub struct PlaylistSync;

#[workflow_methods]
impl PlaylistSync {
    /// Syncs all tracks of all exports.
    ///
    /// # Errors
    ///
    /// Tracks could not be synced; the details are the whole report.
    #[run(name = "PlaylistSync")]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        input: SyncInput,
    ) -> WorkflowResult<SyncReport> {
        let client = client(&input);
        if input.preflight {
            let patience = Duration::from_millis(input.patience_ms);
            if let Readiness::Refused(report) = client.wait_until_ready(ctx, patience).await? {
                let reason = report.reason.unwrap_or_else(|| "not ready".to_owned());
                return Ok(SyncReport::skipped(reason));
            }
        }
        let report = sync(ctx, &client, &input).await?;
        match report.failed() {
            0 => Ok(report),
            failed => Err(incomplete(failed, report).into()),
        }
    }
}

fn client(input: &SyncInput) -> ToolClient {
    let client = ToolClient::new(MUSIC).principal(PRINCIPAL);
    let Some(attempts) = input.attempts else {
        return client;
    };
    let retry = RetryPolicy::builder()
        .initial_interval(FEW_ATTEMPTS_APART)
        .maximum_attempts(attempts);
    client.retry_policy(retry.build())
}

/// Syncs all tracks of all exports, some of them at once.
async fn sync(
    ctx: &WorkflowContext<PlaylistSync>,
    client: &ToolClient,
    input: &SyncInput,
) -> WorkflowResult<SyncReport> {
    let reads = input.exports.iter().map(|path| read_export(ctx, path));
    let mut exports = Vec::new();
    for read in batch(input.in_flight, reads).await {
        exports.push(read?);
    }
    let tracks = exports.iter().enumerate().flat_map(|(at, (_, export))| {
        let export = export.as_ref();
        export.into_iter().flat_map(move |export| {
            let playlist = export.name.as_str();
            export.tracks.iter().map(move |track| async move {
                (at, sync_track(ctx, client, playlist, track).await)
            })
        })
    });
    let mut outcomes = Vec::new();
    for (at, outcome) in batch(input.in_flight, tracks).await {
        outcomes.push((at, outcome?));
    }
    let mut playlists: Vec<PlaylistReport> =
        exports.into_iter().map(|(report, _)| report).collect();
    for (at, outcome) in outcomes {
        if let Some(playlist) = playlists.get_mut(at) {
            playlist.count(outcome);
        }
    }
    Ok(SyncReport {
        skipped: None,
        playlists,
    })
}

/// The report that an export begins with, and its tracks if it can be read.
async fn read_export(
    ctx: &WorkflowContext<PlaylistSync>,
    path: &str,
) -> WorkflowResult<(PlaylistReport, Option<Export>)> {
    let options = ActivityOptions::start_to_close_timeout(TO_READ);
    let read = ctx.execute_activity(ExportActivities::read_export, path.to_owned(), options);
    Ok(match read.await? {
        ReadExport::Unreadable(why) => (PlaylistReport::unreadable(path, why), None),
        ReadExport::Read(export) => {
            let mut report = PlaylistReport::new(&*export.name);
            for row in &export.malformed {
                report.problem(row.to_string());
            }
            for warning in &export.warnings {
                report.problem(warning.to_string());
            }
            (report, Some(export))
        }
    })
}

#[derive(Serialize)]
struct Search<'a> {
    title: &'a str,
    artist: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    isrc: Option<&'a str>,
}

#[derive(Serialize)]
struct Add<'a> {
    playlist: &'a str,
    track_id: &'a str,
}

/// Finds one track and adds it. A call that fails for good is the track's outcome; only a
/// cancellation ends the run.
async fn sync_track(
    ctx: &WorkflowContext<PlaylistSync>,
    client: &ToolClient,
    playlist: &str,
    track: &Track,
) -> WorkflowResult<TrackOutcome> {
    match find_and_add(ctx, client, playlist, track).await {
        Ok(outcome) => Ok(outcome),
        Err(CallError::Cancelled) => Err(CallError::Cancelled.into()),
        Err(error) => Ok(TrackOutcome::Failed(format!(
            "{} - {}: {error}",
            track.artist, track.title
        ))),
    }
}

async fn find_and_add(
    ctx: &WorkflowContext<PlaylistSync>,
    client: &ToolClient,
    playlist: &str,
    track: &Track,
) -> Result<TrackOutcome, CallError> {
    let search = Search {
        title: &track.title,
        artist: &track.artist,
        isrc: track.isrc.as_deref(),
    };
    let found: Found = client.call(ctx, "search", search).await?;
    let Some(track_id) = found.track_id.filter(|_| found.found) else {
        return Ok(TrackOutcome::NotFound);
    };
    let add = Add {
        playlist,
        track_id: &track_id,
    };
    let added: AddedToPlaylist = client
        .request("add_to_playlist")
        .arguments(add)
        .idempotency_key(format!("{playlist}/{}", track.key()))
        .send(ctx)
        .await?;
    Ok(if added.added && !added.replayed {
        TrackOutcome::Added
    } else {
        TrackOutcome::AlreadyThere
    })
}

fn incomplete(failed: usize, report: SyncReport) -> ApplicationFailure {
    let first = report
        .playlists
        .iter()
        .flat_map(|playlist| &playlist.problems)
        .next();
    let first = first
        .map(|problem| format!(", first: {problem}"))
        .unwrap_or_default();
    ApplicationFailure::builder(format!("{failed} tracks could not be synced{first}"))
        .type_name("SyncIncomplete".to_owned())
        .category(ApplicationErrorCategory::Unspecified)
        .non_retryable(true)
        .details(report)
        .build()
}
