//! MCP servers of other makers, as npm and PyPI have them.
//!
//! ```no_run
//! use toolweir_testkit::installed::{Server, or_skip};
//!
//! # async fn test() {
//! let Some(everything) = or_skip(Server::Everything.installed().await) else {
//!     return;
//! };
//! let mut command = tokio::process::Command::new(everything.program);
//! command.args(everything.args).arg("stdio");
//! # }
//! ```
//!
//! They are installed into `mcp-servers/` of the target directory, once, by whichever process comes
//! first: from npm with `npm ci` and without running anybody's install scripts, from PyPI with pip
//! into a virtual environment. All that is installed is pinned, down to what the servers bring. A
//! change of the pins is a new directory. Started, they need no network.
//!
//! What this needs of the machine is `node` and `npm` of Node 20 or later, and `python3` of Python
//! 3.11 or later with its `venv`. Where one is missing, [`or_skip`] skips a test, but not in CI.

mod error;
mod npm;
mod python;
mod skip;

use std::{
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use crate::install::{once, target_directory};

pub use error::Error;
pub use skip::or_skip;

/// It takes ten seconds each where the network is near.
const INSTALLED_WITHIN: Duration = Duration::from_secs(600);

/// A server of somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// npm's `@modelcontextprotocol/server-everything`. Its argument is `stdio`, or `streamableHttp`
    /// with the environment's `PORT`.
    Everything,
    /// npm's `@modelcontextprotocol/server-filesystem`. Its arguments are the directories it serves.
    Filesystem,
    /// npm's `@modelcontextprotocol/server-memory`. The environment's `MEMORY_FILE_PATH` is its file.
    Memory,
    /// PyPI's `mcp-server-time`.
    Time,
    /// A script of our own on PyPI's `fastmcp`. Without an argument it speaks over stdio; with a port
    /// for an argument, over HTTP on the loopback address.
    FastMcp,
}

/// How an installed server is started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Program {
    /// The program, with its directory.
    pub program: PathBuf,
    /// The arguments that come before the server's own.
    pub args: Vec<OsString>,
}

impl Server {
    /// The server, installed if it was not.
    ///
    /// # Errors
    ///
    /// See [`Error`]: the machine lacks what the server runs on, or the installation failed.
    pub async fn installed(self) -> Result<Program, Error> {
        let directory = target_directory().join("mcp-servers");
        match self {
            Self::Everything => npm::installed(&directory, "server-everything").await,
            Self::Filesystem => npm::installed(&directory, "server-filesystem").await,
            Self::Memory => npm::installed(&directory, "server-memory").await,
            Self::Time => python::installed(&directory, ["-m", "mcp_server_time"]).await,
            Self::FastMcp => python::installed(&directory, [python::FASTMCP_SERVER]).await,
        }
    }
}

/// npm's `@modelcontextprotocol/server-everything` behind the launcher `npx`, which starts a shell, which
/// starts the server. It is installed before, so that `npx` asks no network.
///
/// # Errors
///
/// As [`Server::installed`].
pub async fn everything_behind_npx() -> Result<Program, Error> {
    let directory = target_directory().join("mcp-servers");
    npm::behind_npx(&directory, "server-everything", "mcp-server-everything").await
}

/// A directory's name, which changes with what is installed into it.
fn name(what: &str, pins: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    pins.hash(&mut hasher);
    format!("{what}-{:016x}", hasher.finish())
}

/// Installs into `destination` unless `sign` is there, a file in it.
async fn install(
    what: &'static str,
    destination: &Path,
    sign: &str,
    make: impl AsyncFnOnce(PathBuf) -> Result<PathBuf, Error>,
) -> Result<(), Error> {
    let is_there = |path: &Path| path.join(sign).is_file();
    let installs = once(destination, is_there, async |scratch: PathBuf| {
        // Whoever waits at a terminal is told for what. If stderr is gone nobody does.
        let into = destination.display();
        let _ = writeln!(
            std::io::stderr(),
            "installing MCP servers from {what} into {into}, once"
        );
        make(scratch).await
    });
    let waited = INSTALLED_WITHIN;
    let installed = timeout(waited, installs).await;
    installed.map_err(|_| Error::TimedOut { what, waited })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pins_are_another_directory() {
        assert_eq!(name("npm", "1.0"), name("npm", "1.0"));
        assert_ne!(name("npm", "1.0"), name("npm", "1.1"));
    }
}
