//! Syncs playlists that people have exported into a music service, through an MCP server, from a
//! scheduled Temporal worker.
//!
//! [`playlist`] reads the exports. [`music`] is the MCP server the example talks to, with a
//! journal on disk that outlives it.

pub mod music;
pub mod playlist;
