//! `music-server`: a music service behind MCP tools, small and honest enough to test a sync
//! against.
//!
//! It has what a real service has: a catalogue that lacks some tracks, a quota, tokens that
//! expire, a slow start. Its playlists live in a [`journal`] on disk: what it has answered for is
//! there after a `kill -9`, once. The same file tells afterwards what was asked of the server, so
//! a report about a run can take its figures from there.
//!
//! # Tools
//!
//! | tool | arguments | answer |
//! |---|---|---|
//! | `search` | `query`, or `title` and `artist` and perhaps `isrc`, or `isrc` | [`Found`] |
//! | `add_to_playlist` | `playlist`, `track_id`, perhaps `idempotency_key` | [`AddedToPlaylist`] |
//! | `user_profile` | none | [`Profile`] |
//! | `token_status` | none | [`TokenStatus`] |
//! | `refresh_token` | none | [`Refreshed`] |
//!
//! Answers are structured content. So are refusals, with `isError` and the shape
//! [`Refusal`]: status 400, 401, 404, 409, 429, 500 or 507. The two token tools cost no
//! quota and work with an expired token.
//!
//! # Idempotency
//!
//! `add_to_playlist` takes its key from the request's `_meta` under [`IDEMPOTENCY_KEY_META`], or
//! from the argument `idempotency_key`. A key that was seen before gets the original answer with
//! `replayed: true`, and `at_ms`, the time of the original: a caller that counts what it added
//! counts a replay of its own retry and not one of last week.

pub mod args;
pub mod catalogue;
pub mod clock;
pub mod journal;
pub mod messages;
pub mod process;
pub mod quota;
pub mod server;
pub mod token;

pub use messages::{AddedToPlaylist, Found, Profile, Refreshed, Refusal, TokenStatus};

/// The key in a request's `_meta` that names the effect meant.
pub const IDEMPOTENCY_KEY_META: &str = "toolweir/idempotency-key";
/// The key in a request's `_meta` that names who calls, if the client says so.
pub const PRINCIPAL_META: &str = "toolweir/principal";
/// The tracks the catalogue lacks unless told otherwise.
pub const DEFAULT_MISSING: &str = "King Crimson - 21st Century Schizoid Man";
