//! What an export held, and how it is put together row by row.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::track::{Fields, Track};
use super::{MAX_ROWS, Unreadable};

/// A playlist as it was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The name of the playlist: the file's stem.
    pub name: String,
    /// The tracks in the order of the file, each once.
    pub tracks: Vec<Track>,
    /// The rows that could not be used.
    pub malformed: Vec<MalformedRow>,
    /// What was set aside without losing a row: an invalid ISRC, a second row of one track.
    pub warnings: Vec<RowWarning>,
}

/// A row that could not be used. Shown as `exports/anna.csv:7: the title is empty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MalformedRow {
    /// The file as it was named.
    pub file: String,
    /// The line the row begins on, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Something worth a look in a row that was used. Shown like a [`MalformedRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowWarning {
    /// The file as it was named.
    pub file: String,
    /// The line the row begins on, counted from 1.
    pub line: usize,
    /// What is odd about it.
    pub reason: String,
}

impl fmt::Display for MalformedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

impl fmt::Display for RowWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// Collects rows into an [`Export`].
#[derive(Debug)]
pub(super) struct Builder {
    file: String,
    export: Export,
    /// The line each track was first seen on, by its key.
    first_seen: HashMap<String, usize>,
    rows: usize,
}

impl Builder {
    pub(super) fn new(path: &Path) -> Self {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            file: path.display().to_string(),
            export: Export {
                name,
                tracks: vec![],
                malformed: vec![],
                warnings: vec![],
            },
            first_seen: HashMap::new(),
            rows: 0,
        }
    }

    /// Adds one row: its fields, or why it has none.
    pub(super) fn row(
        &mut self,
        line: usize,
        fields: Result<Fields<'_>, String>,
    ) -> Result<(), Unreadable> {
        self.rows += 1;
        if self.rows > MAX_ROWS {
            return Err(Unreadable::TooManyRows);
        }
        match fields.and_then(Fields::into_track) {
            Ok((track, warning)) => {
                if let Some(reason) = warning {
                    self.warn(line, reason);
                }
                self.track(line, track);
            }
            Err(reason) => {
                self.export.malformed.push(MalformedRow {
                    file: self.file.clone(),
                    line,
                    reason,
                });
            }
        }
        Ok(())
    }

    fn track(&mut self, line: usize, track: Track) {
        match self.first_seen.entry(track.key()) {
            Entry::Vacant(vacant) => {
                vacant.insert(line);
                self.export.tracks.push(track);
            }
            Entry::Occupied(first) => {
                let first = *first.get();
                self.warn(
                    line,
                    format!("is the track of line {first} again, and is left out"),
                );
            }
        }
    }

    fn warn(&mut self, line: usize, reason: String) {
        self.export.warnings.push(RowWarning {
            file: self.file.clone(),
            line,
            reason,
        });
    }

    pub(super) fn finish(self) -> Export {
        self.export
    }
}
