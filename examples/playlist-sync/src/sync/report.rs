//! What a run has to say at its end.

use serde::{Deserialize, Serialize};

/// The most problems that a playlist's report lists. The counts are always whole.
const MAX_PROBLEMS: usize = 20;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncReport {
    /// Why nothing was done: what preflight said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What became of each export.
    #[serde(default)]
    pub playlists: Vec<PlaylistReport>,
}

/// What became of one export.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlaylistReport {
    /// The playlist's name, or the export's path where it could not be read.
    pub playlist: String,
    /// Tracks that were added.
    pub added: usize,
    /// Tracks that were in the playlist before.
    pub already_there: usize,
    /// Tracks that the catalogue does not have.
    pub not_found: usize,
    /// Tracks whose calls failed for good.
    pub failed: usize,
    /// Rows of the export that could not be read, warnings, and why calls failed; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Why the export could not be read at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// What became of one track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TrackOutcome {
    Added,
    AlreadyThere,
    NotFound,
    Failed(String),
}

impl SyncReport {
    /// A run that did nothing, and why.
    #[must_use]
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self {
            skipped: Some(reason.into()),
            ..Self::default()
        }
    }

    /// How many tracks failed, over all playlists.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.playlists.iter().map(|playlist| playlist.failed).sum()
    }
}

impl PlaylistReport {
    pub(super) fn new(playlist: impl Into<String>) -> Self {
        Self {
            playlist: playlist.into(),
            ..Self::default()
        }
    }

    pub(super) fn unreadable(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            unreadable: Some(why.into()),
            ..Self::new(path)
        }
    }

    pub(super) fn problem(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    pub(super) fn count(&mut self, outcome: TrackOutcome) {
        match outcome {
            TrackOutcome::Added => self.added += 1,
            TrackOutcome::AlreadyThere => self.already_there += 1,
            TrackOutcome::NotFound => self.not_found += 1,
            TrackOutcome::Failed(why) => {
                self.failed += 1;
                self.problem(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_where_problems_are_bounded() {
        let mut report = PlaylistReport::new("anna");
        for number in 0..50 {
            report.count(TrackOutcome::Failed(format!("track {number}")));
        }
        assert_eq!((report.failed, report.problems.len()), (50, MAX_PROBLEMS));
    }
}
