//! Syncs playlists that people have exported into a music service, through an MCP server, from a
//! scheduled Temporal worker.
//!
//! [`playlist`] reads the exports. [`music`] is the MCP server the example talks to, with a
//! journal on disk that outlives it. [`sync`] is the workflow that brings the one to the other.

pub mod music;
pub mod playlist;
pub mod stop;
pub mod sync;
pub mod temporal;

/// The worker in the workspace's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[derive(Debug)]
pub struct Readme;
