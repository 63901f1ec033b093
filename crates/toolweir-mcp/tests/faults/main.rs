//! The table of faults: what breaks, when, and how the calls end. `docs/faults.md` is made of it.

#![cfg(all(unix, feature = "http"))]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod cell;
mod http;
mod http_server;
mod page;
mod stdio;
mod streams;
mod subject;
