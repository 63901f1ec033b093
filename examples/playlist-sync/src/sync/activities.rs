//! Reading an export, on the worker's machine.

use std::path::Path;

use serde::{Deserialize, Serialize};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};

use crate::playlist::{self, Export};

/// What reading an export gave. That it cannot be read is an answer, not a failure: a repetition
/// would find the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadExport {
    /// Its tracks.
    Read(Export),
    /// Why it cannot be read, in one sentence.
    Unreadable(String),
}

/// The activity that reads exports.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportActivities;

#[activities]
impl ExportActivities {
    /// Reads an export.
    ///
    /// # Errors
    ///
    /// Only if the worker itself is in trouble: a file that cannot be read is an answer.
    #[activity(name = "playlist_sync.read_export")]
    pub async fn read_export(
        _context: ActivityContext,
        path: String,
    ) -> Result<ReadExport, ActivityError> {
        let read = tokio::task::spawn_blocking(move || match playlist::read(Path::new(&path)) {
            Ok(export) => {
                for row in &export.malformed {
                    tracing::warn!("{row}");
                }
                ReadExport::Read(export)
            }
            Err(unreadable) => {
                tracing::warn!("{unreadable}");
                ReadExport::Unreadable(unreadable.to_string())
            }
        });
        Ok(read.await?)
    }
}
