//! Reads a journal for a report: what the playlists hold, and what was asked of the servers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use super::record::{CallOutcome, Record, StopReason};
use super::{JournalError, scan};

/// What a journal holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The entries of every playlist, in their order.
    pub playlists: BTreeMap<String, Vec<PlaylistEntry>>,
    /// The servers that have run on the journal.
    pub starts: Vec<ServerStart>,
    /// The tool calls, in the order they came in.
    pub calls: Vec<Call>,
    /// Servers that had the journal at once. There should be none.
    pub overlaps: Vec<Overlap>,
    /// How many of what.
    pub counts: Counts,
    /// How many calls each tool got.
    pub calls_by_tool: BTreeMap<String, u64>,
    /// The bytes of a last record that is not finished: being written, or torn.
    pub torn_bytes: u64,
}

/// A track in a playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaylistEntry {
    /// The track.
    pub track_id: String,
    /// The idempotency key it came under.
    pub key: Option<String>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A server's time with the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStart {
    /// Its process.
    pub pid: u32,
    /// When the process started, in milliseconds since 1970.
    pub at_ms: u64,
    /// When its first call came in.
    pub first_call_at_ms: Option<u64>,
    /// When and why it ended; `None` if it runs or was killed.
    pub stopped: Option<(u64, StopReason)>,
}

/// Two servers that had the journal at once: one began before the other had stopped. It is read from
/// the order of the records, so no clock can hide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// The process that began first.
    pub earlier: u32,
    /// The process that began before that had stopped.
    pub later: u32,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which of [`Summary::starts`] got it.
    pub server: usize,
    /// The tool.
    pub tool: String,
    /// Who asked, if the request said so.
    pub principal: Option<String>,
    /// When it came in, in milliseconds since 1970.
    pub at_ms: u64,
    /// How it ended; `None` if the server was killed over it, or is at it.
    pub outcome: Option<CallOutcome>,
    /// How long the server took.
    pub duration: Option<Duration>,
    /// Whether the answer was that of an earlier call with the same key.
    pub replayed: bool,
}

/// Totals over all servers of a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Servers that took over the journal.
    pub server_starts: u64,
    /// Tool calls of every kind and outcome.
    pub tool_calls: u64,
    /// Calls refused with status 429.
    pub throttled: u64,
    /// Calls refused with status 401.
    pub unauthorised: u64,
    /// Calls refused with another status.
    pub errors: u64,
    /// Calls the client gave up.
    pub cancelled: u64,
    /// Calls without an answer.
    pub unanswered: u64,
    /// Tokens renewed by `refresh_token`.
    pub token_refreshes: u64,
    /// Calls of `token_status`.
    pub token_status_calls: u64,
    /// Playlist entries made.
    pub adds: u64,
    /// Calls of `add_to_playlist` under a new key that found the track there.
    pub already_there: u64,
    /// Calls of `add_to_playlist` that got the answer of an earlier one.
    pub replays: u64,
}

/// A track that is in a playlist more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The playlist.
    pub playlist: String,
    /// The track.
    pub track_id: String,
    /// How often.
    pub times: usize,
}

/// Reads the journal at `path`, without its lock and without changing it. A last record that is
/// not finished is left out.
///
/// # Errors
///
/// When the file cannot be read, or a whole line of it is damaged.
pub fn read(path: &Path) -> Result<Summary, JournalError> {
    let file = File::open(path).map_err(|error| JournalError::io(path, "opened", error))?;
    summarise(path, BufReader::new(file))
}

/// Reads a journal from bytes; `path` is for messages.
///
/// # Errors
///
/// As [`read`].
pub fn summarise(path: &Path, mut reader: impl BufRead) -> Result<Summary, JournalError> {
    let mut report = Report::default();
    let scan = scan::scan(path, &mut reader, |record| report.take(record))?;
    report.summary.torn_bytes = scan.torn_bytes;
    Ok(report.finish())
}

impl Summary {
    /// The tracks that are in one playlist more than once. It is counted from the records, so it
    /// would see what the server should not have done.
    #[must_use]
    pub fn duplicates(&self) -> Vec<Duplicate> {
        let mut duplicates = Vec::new();
        for (playlist, entries) in &self.playlists {
            let mut times: BTreeMap<&str, usize> = BTreeMap::new();
            for entry in entries {
                *times.entry(&entry.track_id).or_default() += 1;
            }
            duplicates.extend(times.into_iter().filter(|&(_, times)| times > 1).map(
                |(track_id, times)| Duplicate {
                    playlist: playlist.clone(),
                    track_id: track_id.to_owned(),
                    times,
                },
            ));
        }
        duplicates
    }

    /// How long the first call took that came in and ended well.
    #[must_use]
    pub fn first_call(&self) -> Option<Duration> {
        self.successes().next()
    }

    /// How long half of the calls that ended well took at most.
    #[must_use]
    pub fn median_call(&self) -> Option<Duration> {
        let mut durations: Vec<Duration> = self.successes().collect();
        durations.sort_unstable();
        durations
            .get(durations.len().saturating_sub(1) / 2)
            .copied()
    }

    /// How many entries all playlists have together.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.playlists.values().map(Vec::len).sum()
    }

    fn successes(&self) -> impl Iterator<Item = Duration> + '_ {
        let ok = |call: &&Call| call.outcome == Some(CallOutcome::Ok);
        self.calls
            .iter()
            .filter(ok)
            .filter_map(|call| call.duration)
    }
}

/// A summary in the making.
#[derive(Debug, Default)]
struct Report {
    summary: Summary,
    /// Where the unanswered calls of the present server are, by id.
    open: HashMap<u64, usize>,
}

impl Report {
    fn take(&mut self, record: Record) {
        let counts = &mut self.summary.counts;
        match record {
            Record::Start { pid, at_ms, .. } => {
                counts.server_starts += 1;
                // Its calls are numbered anew; what is open now stays unanswered.
                self.open.clear();
                let start = ServerStart {
                    pid,
                    at_ms,
                    first_call_at_ms: None,
                    stopped: None,
                };
                self.summary.starts.push(start);
            }
            Record::Call {
                id,
                tool,
                principal,
                at_ms,
            } => self.call(id, tool, principal, at_ms),
            Record::Answer {
                id,
                outcome,
                duration_us,
                replayed,
            } => {
                self.answer(id, outcome, Duration::from_micros(duration_us), replayed);
            }
            Record::Add { added: false, .. } => counts.already_there += 1,
            Record::Add {
                playlist,
                track_id,
                key,
                at_ms,
                ..
            } => {
                counts.adds += 1;
                let entry = PlaylistEntry {
                    track_id,
                    key,
                    at_ms,
                };
                self.summary
                    .playlists
                    .entry(playlist)
                    .or_default()
                    .push(entry);
            }
            Record::Refresh { .. } => counts.token_refreshes += 1,
            Record::Stop { pid, at_ms, reason } => self.stop(pid, at_ms, reason),
        }
    }

    fn stop(&mut self, pid: Option<u32>, at_ms: u64, reason: StopReason) {
        let Summary {
            starts, overlaps, ..
        } = &mut self.summary;
        let is_its = |start: &ServerStart| pid.is_none_or(|pid| start.pid == pid);
        let Some(at) = starts.iter().rposition(is_its) else {
            return;
        };
        let earlier = starts[at].pid;
        let later = starts[at + 1..].iter().map(|start| start.pid);
        overlaps.extend(later.map(|later| Overlap { earlier, later }));
        starts[at].stopped = Some((at_ms, reason));
    }

    fn call(&mut self, id: u64, tool: String, principal: Option<String>, at_ms: u64) {
        let summary = &mut self.summary;
        summary.counts.tool_calls += 1;
        if tool == "token_status" {
            summary.counts.token_status_calls += 1;
        }
        *summary.calls_by_tool.entry(tool.clone()).or_default() += 1;
        if let Some(start) = summary.starts.last_mut() {
            start.first_call_at_ms.get_or_insert(at_ms);
        }
        let server = summary.starts.len().saturating_sub(1);
        self.open.insert(id, summary.calls.len());
        let (outcome, duration, replayed) = (None, None, false);
        summary.calls.push(Call {
            server,
            tool,
            principal,
            at_ms,
            outcome,
            duration,
            replayed,
        });
    }

    fn answer(&mut self, id: u64, outcome: CallOutcome, duration: Duration, replayed: bool) {
        let counts = &mut self.summary.counts;
        match outcome {
            CallOutcome::Ok => {}
            CallOutcome::Throttled => counts.throttled += 1,
            CallOutcome::Unauthorised => counts.unauthorised += 1,
            CallOutcome::Error => counts.errors += 1,
            CallOutcome::Cancelled => counts.cancelled += 1,
        }
        counts.replays += u64::from(replayed);
        if let Some(call) = self
            .open
            .remove(&id)
            .and_then(|at| self.summary.calls.get_mut(at))
        {
            call.outcome = Some(outcome);
            call.duration = Some(duration);
            call.replayed = replayed;
        }
    }

    fn finish(mut self) -> Summary {
        let unanswered = self
            .summary
            .calls
            .iter()
            .filter(|call| call.outcome.is_none())
            .count();
        self.summary.counts.unanswered = u64::try_from(unanswered).unwrap_or(u64::MAX);
        self.summary
    }
}
