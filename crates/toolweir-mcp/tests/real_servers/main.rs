//! Servers of other makers, as npm and PyPI have them: list, call, cancel, kill, reconnect.
//!
//! | server | list | call | cancel | kill and reconnect |
//! |---|---|---|---|---|
//! | server-everything, stdio | passed | passed | passed | passed |
//! | server-filesystem, stdio | passed | passed | passed, stopped | passed, stopped |
//! | server-memory, stdio | passed | passed | passed, stopped | passed, stopped |
//! | mcp-server-time, stdio | passed | passed | passed, stopped | passed, stopped |
//! | fastmcp, stdio | passed | passed | passed | passed |
//! | server-everything, HTTP | passed | passed | passed | passed |
//! | fastmcp, HTTP | n/a: as over stdio | n/a: as over stdio | passed | passed |
//!
//! "Stopped": the server has no tool that takes long, so it is stopped (SIGSTOP) while the call is
//! under way.
//!
//! The servers are installed once, see `toolweir_testkit::installed`. Where Node or Python is missing
//! the tests say so and are skipped; where the environment's `CI` is set they fail.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod everything;
mod fastmcp;
mod filesystem;
#[cfg(feature = "http")]
mod http;
mod memory;
mod processes;
mod subject;
mod time;
mod wire;
mod wrappers;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// More than anything here takes on a busy machine. A test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// Looks until a condition is met.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = timeout(PATIENCE, async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(met.await.is_ok(), "not in {PATIENCE:?}: {what}");
}
