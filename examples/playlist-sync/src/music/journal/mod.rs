//! The server's memory: an append-only file of records, one a line, each with a checksum.
//!
//! An effect is one record: the playlist's entry and the idempotency key it came under, together.
//! It is on the disk (`sync_data`) before the caller hears of it, and whether to write it is
//! decided under the same lock that writes it. So a killed server has lost nothing it answered
//! for, and a repeated call finds its first.
//!
//! One process at a time owns the file, by an advisory lock that dies with the process; a
//! successor waits for it. A last line without its end, which nobody was answered for, is cut off
//! when the next server starts. A whole line that is damaged stops it: somebody may have been
//! answered for it, so that is for a person to look at.
//!
//! Beside effects the file holds what a report wants to know: starts, calls with their outcomes
//! and durations, refreshes, stops. These are written at once and not synced. A killed process
//! loses none of them; a machine without power may lose the last.
//!
//! [`read`] reads a journal without the lock, while a server writes it or after.
//!
//! # A line
//!
//! ```json
//! {"crc32":"5d1f0a3c","record":{"kind":"add","playlist":"anna","track_id":"isrc:…","key":"…","added":true,"at_ms":1}}
//! ```
//!
//! The checksum is CRC-32 (IEEE) of the bytes of the record.

mod error;
mod ledger;
mod log;
mod reader;
mod record;
mod scan;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use error::JournalError;
pub use ledger::{AddRequest, Added, MAX_KEYS, MAX_PLAYLISTS};
pub use reader::{
    Call, Counts, Duplicate, Overlap, PlaylistEntry, ServerStart, Summary, read, summarise,
};
pub use record::{CallOutcome, FORMAT, MAX_RECORD_BYTES, Record, StopReason};

use ledger::{Ledger, Verdict};
use log::Log;

/// What a server logs when another has the journal.
pub const WAITS_FOR_JOURNAL: &str = "another server has the journal: waits for it";

/// How often a successor looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// An open journal, locked by this process.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// `None` once closed.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    log: Log<File>,
    ledger: Ledger,
    /// The process that has recorded its start.
    pid: Option<u32>,
}

impl Journal {
    /// Opens or creates the journal at `path`, waiting up to `wait` for another process to let go
    /// of it, and reads it in.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, is still locked after `wait`, or is damaged.
    pub async fn open(path: &Path, wait: Duration) -> Result<Self, JournalError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| JournalError::io(path, "opened", error))?;
        lock(path, &file, wait).await?;
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || load(&owned, file)).await;
        let open = opened.map_err(|_| JournalError::Closed {
            path: path.to_owned(),
        })??;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(Some(open)),
        })
    }

    /// Records the start of a server and gives the generation of its first token: one that no
    /// server on this journal has used.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn start(&self, pid: u32, at_ms: u64) -> Result<u64, JournalError> {
        self.with(|open| {
            let generation = open.ledger.generation().saturating_add(1);
            let record = Record::Start {
                format: FORMAT,
                pid,
                at_ms,
                generation,
            };
            open.write(&record, true)?;
            open.pid = Some(pid);
            Ok(generation)
        })
    }

    /// Adds a track to a playlist, once. Returns when the effect is on the disk; blocks.
    ///
    /// # Errors
    ///
    /// When the key belongs to another effect, a bound is reached, or the record cannot be
    /// written. In the last case it is unknown whether the effect is on the disk, and the journal
    /// takes nothing more until it is opened anew.
    pub fn add(&self, request: AddRequest, at_ms: u64) -> Result<Added, JournalError> {
        self.with(|open| match open.ledger.decide(&request)? {
            Verdict::Known(added) => Ok(added),
            Verdict::Nothing => Ok(Added {
                added: false,
                replayed: false,
                at_ms,
            }),
            Verdict::Record { added } => {
                let AddRequest {
                    playlist,
                    track_id,
                    key,
                } = request;
                open.write(
                    &Record::Add {
                        playlist,
                        track_id,
                        key,
                        added,
                        at_ms,
                    },
                    true,
                )?;
                Ok(Added {
                    added,
                    replayed: false,
                    at_ms,
                })
            }
        })
    }

    /// Records something that is no effect. In the file when it returns, not synced.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn note(&self, record: &Record) -> Result<(), JournalError> {
        self.with(|open| open.write(record, false))
    }

    /// How many playlists there are, and how many entries they have together.
    ///
    /// # Errors
    ///
    /// When the journal is closed.
    pub fn sizes(&self) -> Result<(usize, usize), JournalError> {
        self.with(|open| Ok(open.ledger.sizes()))
    }

    /// Records the stop and gives up the lock. Nothing can be written afterwards.
    ///
    /// # Errors
    ///
    /// When the record cannot be written; the lock is given up all the same.
    pub fn close(&self, reason: StopReason, at_ms: u64) -> Result<(), JournalError> {
        let written = self.with(|open| {
            let pid = open.pid;
            open.write(&Record::Stop { pid, at_ms, reason }, false)
        });
        // Closing the file unlocks it.
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        written
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, JournalError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_mut() else {
            return Err(JournalError::Closed {
                path: self.path.clone(),
            });
        };
        act(open).map_err(|failure| match failure {
            Failure::Write(error) => JournalError::io(&self.path, "written", error),
            Failure::Refused(error) => error,
        })
    }
}

/// Why something under the lock did not happen.
enum Failure {
    Write(std::io::Error),
    Refused(JournalError),
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::Refused(error)
    }
}

impl Open {
    fn write(&mut self, record: &Record, durable: bool) -> Result<(), Failure> {
        let line = record::encode(record).map_err(Failure::Write)?;
        self.log.append(&line, durable).map_err(Failure::Write)?;
        // Only what is written counts, so that a failed write leaves no ghost behind.
        self.ledger.apply(record);
        Ok(())
    }
}

async fn lock(path: &Path, file: &File, wait: Duration) -> Result<(), JournalError> {
    let started = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(JournalError::io(path, "locked", error));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !told {
            told = true;
            tracing::info!(journal = %path.display(), "{WAITS_FOR_JOURNAL}");
        }
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(JournalError::Locked {
                path: path.to_owned(),
                waited: wait,
            });
        }
        sleep(left.min(LOCK_POLL)).await;
    }
}

/// Reads the records of a locked file and cuts off a torn one at its end.
fn load(path: &Path, file: File) -> Result<Open, JournalError> {
    let mut ledger = Ledger::default();
    let take = |record| ledger.apply(&record);
    let scan = scan::scan(path, &mut BufReader::new(&file), take)?;
    let io = |error| JournalError::io(path, "repaired", error);
    if scan.torn_bytes > 0 {
        tracing::warn!(
            journal = %path.display(),
            bytes = scan.torn_bytes,
            "cut off a record that was not finished"
        );
        file.set_len(scan.good_bytes).map_err(io)?;
        file.sync_data().map_err(io)?;
    }
    if scan.good_bytes == 0 {
        sync_directory_of(path).map_err(io)?;
    }
    Ok(Open {
        log: Log::new(file, scan.good_bytes),
        ledger,
        pid: None,
    })
}

/// Makes a new file's name durable, where the platform can.
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let parent = fs::canonicalize(path)?;
    match parent.parent() {
        Some(directory) if cfg!(unix) => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}
