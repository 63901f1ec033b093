//! What the records add up to: which tracks are in which playlists, and which keys were seen.

use std::collections::{HashMap, HashSet};

use super::JournalError;
use super::record::Record;

/// The most playlists a journal takes.
pub const MAX_PLAYLISTS: usize = 10_000;
/// The most idempotency keys a journal takes.
pub const MAX_KEYS: usize = 1_000_000;

/// A track that should be in a playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddRequest {
    /// The playlist; it begins with its first track.
    pub playlist: String,
    /// The track.
    pub track_id: String,
    /// What the caller calls this effect.
    pub key: Option<String>,
}

/// What came of an [`AddRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Whether the playlist grew; if not, the track was there.
    pub added: bool,
    /// Whether this is the answer an earlier call with the same key got.
    pub replayed: bool,
    /// When that was, or else now; in milliseconds since 1970.
    pub at_ms: u64,
}

/// What is to be done about an [`AddRequest`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key was seen: answer this.
    Known(Added),
    /// The track is there and there is no key to remember.
    Nothing,
    /// Write it down first.
    Record { added: bool },
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    playlists: HashMap<String, HashSet<String>>,
    keys: HashMap<String, Effect>,
    generation: u64,
}

/// What a key stands for.
#[derive(Debug)]
struct Effect {
    playlist: String,
    track_id: String,
    added: bool,
    at_ms: u64,
}

impl Ledger {
    pub(super) fn decide(&self, request: &AddRequest) -> Result<Verdict, JournalError> {
        if let Some(effect) = request.key.as_ref().and_then(|key| self.keys.get(key)) {
            return effect.replay(request);
        }
        let tracks = self.playlists.get(&request.playlist);
        let there = tracks.is_some_and(|tracks| tracks.contains(&request.track_id));
        if there && request.key.is_none() {
            return Ok(Verdict::Nothing);
        }
        let one_more = tracks.is_none() && self.playlists.len() >= MAX_PLAYLISTS;
        if one_more || (request.key.is_some() && self.keys.len() >= MAX_KEYS) {
            return Err(JournalError::Full);
        }
        Ok(Verdict::Record { added: !there })
    }

    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Add {
                playlist,
                track_id,
                key,
                added,
                at_ms,
            } => {
                if *added {
                    self.playlists
                        .entry(playlist.clone())
                        .or_default()
                        .insert(track_id.clone());
                }
                if let Some(key) = key {
                    let (playlist, track_id) = (playlist.clone(), track_id.clone());
                    let effect = Effect {
                        playlist,
                        track_id,
                        added: *added,
                        at_ms: *at_ms,
                    };
                    self.keys.insert(key.clone(), effect);
                }
            }
            Record::Start { generation, .. } | Record::Refresh { generation, .. } => {
                self.generation = self.generation.max(*generation);
            }
            Record::Call { .. } | Record::Answer { .. } | Record::Stop { .. } => {}
        }
    }

    /// The last token that was issued.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Playlists, and entries in all of them.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (
            self.playlists.len(),
            self.playlists.values().map(HashSet::len).sum(),
        )
    }
}

impl Effect {
    fn replay(&self, request: &AddRequest) -> Result<Verdict, JournalError> {
        if self.playlist != request.playlist || self.track_id != request.track_id {
            let (playlist, track_id) = (self.playlist.clone(), self.track_id.clone());
            return Err(JournalError::KeyReused { playlist, track_id });
        }
        let Self { added, at_ms, .. } = *self;
        Ok(Verdict::Known(Added {
            added,
            replayed: true,
            at_ms,
        }))
    }
}
