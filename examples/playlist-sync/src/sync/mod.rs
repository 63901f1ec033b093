//! The sync itself: a workflow that brings playlist exports into the music service.

// The SDK's macros make items without docs and `Debug`.
#[allow(missing_docs, missing_debug_implementations)]
mod activities;
mod report;
#[allow(missing_docs, missing_debug_implementations)]
mod workflow;

use serde::{Deserialize, Serialize};

pub use activities::{ExportActivities, ReadExport};
pub use report::{PlaylistReport, SyncReport};
pub use workflow::PlaylistSync;

/// The MCP server's name, for the worker's registry and the workflow's client.
pub const MUSIC: &str = "music";

/// The task queue that worker and schedules use unless told otherwise.
pub const TASK_QUEUE: &str = "playlist-sync";

/// The workflow's type.
pub const WORKFLOW_TYPE: &str = "PlaylistSync";

/// The input of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncInput {
    /// The playlist exports, as paths on the worker's machine. Each becomes a playlist of the
    /// file's name.
    pub exports: Vec<String>,
    /// How many tracks are under way at once.
    pub in_flight: usize,
    /// How long the run waits for a server that says when it will take calls. A run with none is
    /// skipped at once, as is right for a schedule that comes round again soon.
    pub patience_ms: u64,
    /// Whether to ask the worker's layers before the first call.
    pub preflight: bool,
    /// How often a call is tried; without a limit it is tried for as long as the client's
    /// schedule-to-close time lasts.
    pub attempts: Option<u32>,
}

impl SyncInput {
    /// A sync of `exports` with four tracks under way at once, no patience, and preflight.
    #[must_use]
    pub fn new(exports: Vec<String>) -> Self {
        Self {
            exports,
            in_flight: 4,
            patience_ms: 0,
            preflight: true,
            attempts: None,
        }
    }
}
