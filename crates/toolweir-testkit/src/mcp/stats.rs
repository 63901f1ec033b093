//! What a server counts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// What a scripted server saw, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// The server's process.
    pub pid: u32,
    /// The `sleep` it started, if it was told to.
    pub grandchild_pid: Option<u32>,
    /// Connections accepted.
    pub connections: u64,
    /// Of these, the ones that stand.
    pub open_connections: u64,
    /// Connections that were dropped as they came.
    pub refused_connections: u64,
    /// `initialize` requests, answered or not.
    pub initializes: u64,
    /// `server/discover` requests, answered or not.
    pub discovers: u64,
    /// `tools/list` requests.
    pub list_tools: u64,
    /// `ping` requests, answered or not.
    pub pings: u64,
    /// Tool calls of any kind but `stats`.
    pub calls: u64,
    /// The same by the tool's name.
    pub calls_by_tool: BTreeMap<String, u64>,
    /// Calls that have no answer yet.
    pub in_flight: u64,
    /// The most calls that were in flight at once.
    pub max_concurrent: u64,
    /// `notifications/cancelled` that came.
    pub cancelled: u64,
    /// Calls that ended by one, by the tool's name.
    pub cancelled_by_tool: BTreeMap<String, u64>,
    /// Calls refused with a rate limit, structured or as text.
    pub throttled: u64,
    /// Calls refused for the token.
    pub unauthorised: u64,
    /// Calls of `token_status`.
    pub token_status_calls: u64,
    /// Refreshes of the token that were granted.
    pub refreshes: u64,
    /// Refreshes that were answered with `invalid_grant`.
    pub rejected_refreshes: u64,
    /// How often `add` took effect, by the `key` argument.
    pub effects: BTreeMap<String, u64>,
    /// How many calls of `add` carried an idempotency key, by that key.
    pub idempotency_keys: BTreeMap<String, u64>,
}

impl Stats {
    /// How many calls of this tool came.
    #[must_use]
    pub fn calls_of(&self, tool: &str) -> u64 {
        self.calls_by_tool.get(tool).copied().unwrap_or(0)
    }

    /// How many calls of this tool ended by cancellation.
    #[must_use]
    pub fn cancelled_of(&self, tool: &str) -> u64 {
        self.cancelled_by_tool.get(tool).copied().unwrap_or(0)
    }

    /// How often `add` took effect for this `key` argument.
    #[must_use]
    pub fn effects_of(&self, key: &str) -> u64 {
        self.effects.get(key).copied().unwrap_or(0)
    }

    /// Reads what a server process wrote with `--stats-file`.
    ///
    /// # Errors
    ///
    /// If there is no such file or it holds something else.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Reads that file again and again until the stats meet a condition, and returns them. There
    /// is no limit to it.
    ///
    /// A process in another state than running cannot be asked, and files tell nobody that they
    /// changed, so this looks every few milliseconds. For an in-memory server there is
    /// [`wait_for`](super::ScriptedServer::wait_for), which does not.
    pub async fn read_until(
        path: impl AsRef<Path>,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Self {
        loop {
            // The file comes with the first change.
            if let Ok(stats) = Self::read(&path)
                && condition(&stats)
            {
                return stats;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Where a process writes its stats after every change.
#[derive(Debug)]
pub(super) struct StatsFile {
    path: PathBuf,
    draft: PathBuf,
}

impl StatsFile {
    /// A `{pid}` in the path stands for the process id.
    pub(super) fn new(path: &Path) -> Self {
        let pid = std::process::id();
        let path = path.to_string_lossy().replace("{pid}", &pid.to_string());
        let draft = format!("{path}.{pid}.tmp");
        Self {
            path: path.into(),
            draft: draft.into(),
        }
    }

    /// A reader sees the old stats or the new, never a part.
    pub(super) fn write(&self, stats: &Stats) -> io::Result<()> {
        fs::write(&self.draft, serde_json::to_vec(stats)?)?;
        fs::rename(&self.draft, &self.path)
    }
}
