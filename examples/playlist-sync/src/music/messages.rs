//! What the tools take and what they answer.

use std::time::Duration;

use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::{Entry, Query};
use super::journal::{Added, JournalError};
use crate::playlist::{MAX_FIELD_BYTES, normalise_isrc};

/// The longest idempotency key or track id, in bytes.
pub const MAX_KEY_BYTES: usize = 4 * MAX_FIELD_BYTES;

/// Arguments of `search`: `query` alone, or `title` and `artist` and perhaps `isrc`, or `isrc`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchArguments {
    /// Words of artist, title and album, in any order.
    pub query: Option<String>,
    /// The name of the track.
    pub title: Option<String>,
    /// Who plays it.
    pub artist: Option<String>,
    /// Its ISRC, which counts before the names.
    pub isrc: Option<String>,
}

/// Arguments of `add_to_playlist`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddArguments {
    /// The playlist's name. It begins with its first track.
    pub playlist: String,
    /// The track's id, from `search`.
    pub track_id: String,
    /// Names the effect: a call with a key that was seen before has no effect and gets the
    /// original answer. May also come in `_meta`.
    pub idempotency_key: Option<String>,
}

/// Arguments of the tools that take none.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

/// Answer of `search`. A track that is not there is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Whether the catalogue has it.
    pub found: bool,
    /// Its id for `add_to_playlist`.
    pub track_id: Option<String>,
    /// Its name, as the catalogue has it.
    pub title: Option<String>,
    /// Who plays it.
    pub artist: Option<String>,
    /// Where it came out.
    pub album: Option<String>,
    /// Its ISRC.
    pub isrc: Option<String>,
}

/// Answer of `add_to_playlist`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddedToPlaylist {
    /// Whether the playlist grew.
    pub added: bool,
    /// Whether the track was there already; the opposite of `added`.
    pub already_there: bool,
    /// Whether this is the answer that an earlier call with the same idempotency key got.
    pub replayed: bool,
    /// When it was given first, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Answer of `user_profile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// Who calls, if the request says so.
    pub user: Option<String>,
    /// How many playlists there are.
    pub playlists: u64,
    /// How many tracks they have together.
    pub tracks: u64,
}

/// Answer of `token_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenStatus {
    /// Whether calls are taken with it.
    pub valid: bool,
    /// For how long, in milliseconds.
    pub expires_in_ms: u64,
    /// Which token it is.
    pub generation: u64,
}

/// Answer of `refresh_token`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refreshed {
    /// How long the new token is valid, in milliseconds.
    pub expires_in_ms: u64,
    /// Which token it is.
    pub generation: u64,
}

/// The structured content of an answer with `isError`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What HTTP would call it.
    pub status: u16,
    /// A word for programs: `bad_arguments`, `token_expired`, `unknown_tool`, `unknown_track`,
    /// `key_reused`, `rate_limited`, `journal_failed`, `journal_full`.
    pub error: String,
    /// A sentence for people; also the text content of the answer.
    pub message: String,
    /// In how many milliseconds a call will be taken; with status 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl SearchArguments {
    /// What is looked for.
    ///
    /// # Errors
    ///
    /// A refusal that names the argument, if they make no query.
    pub fn into_query(self) -> Result<Query, Refusal> {
        let Self {
            query,
            title,
            artist,
            isrc,
        } = self;
        let query = present("query", query)?;
        let title = present("title", title)?;
        let artist = present("artist", artist)?;
        let isrc = match present("isrc", isrc)? {
            Some(isrc) => Some(normalise_isrc(&isrc).ok_or_else(|| {
                Refusal::bad_arguments(&format!("the argument isrc is {isrc:?}, which is no ISRC"))
            })?),
            None => None,
        };
        match (query, title, artist, isrc) {
            (Some(words), None, None, None) if words.contains(char::is_alphanumeric) => {
                Ok(Query::Words(words))
            }
            (None, Some(title), Some(artist), isrc) => Ok(Query::Names {
                artist,
                title,
                isrc,
            }),
            (None, None, None, Some(isrc)) => Ok(Query::Isrc(isrc)),
            _ => Err(Refusal::bad_arguments(
                "give a query of words, or title and artist and perhaps isrc, or isrc",
            )),
        }
    }
}

/// An argument that is not blank; `None` if it is not given.
fn present(name: &str, value: Option<String>) -> Result<Option<String>, Refusal> {
    value
        .map(|value| bounded(name, value, MAX_FIELD_BYTES))
        .transpose()
}

/// A text that is neither blank nor longer than `limit`.
pub(super) fn bounded(name: &str, value: String, limit: usize) -> Result<String, Refusal> {
    if value.trim().is_empty() {
        return Err(Refusal::bad_arguments(&format!("{name} is blank")));
    }
    if value.len() > limit {
        let length = value.len();
        return Err(Refusal::bad_arguments(&format!(
            "{name} has {length} bytes, at most {limit} may be"
        )));
    }
    Ok(value)
}

impl From<Option<&Entry>> for Found {
    fn from(entry: Option<&Entry>) -> Self {
        let track = entry.map(|entry| &entry.track);
        Self {
            found: entry.is_some(),
            track_id: entry.map(|entry| entry.id.clone()),
            title: track.map(|track| track.title.clone()),
            artist: track.map(|track| track.artist.clone()),
            album: track.and_then(|track| track.album.clone()),
            isrc: track.and_then(|track| track.isrc.clone()),
        }
    }
}

impl From<Added> for AddedToPlaylist {
    fn from(
        Added {
            added,
            replayed,
            at_ms,
        }: Added,
    ) -> Self {
        Self {
            added,
            already_there: !added,
            replayed,
            at_ms,
        }
    }
}

impl Refusal {
    fn new(status: u16, error: &str, message: String) -> Self {
        Self {
            status,
            error: error.to_owned(),
            message,
            retry_after_ms: None,
        }
    }

    /// The caller's mistake.
    #[must_use]
    pub fn bad_arguments(what: &str) -> Self {
        Self::new(400, "bad_arguments", format!("400 Bad Request: {what}"))
    }

    /// The token has expired.
    #[must_use]
    pub fn token_expired() -> Self {
        let message = "401 Unauthorized: the token has expired, call refresh_token";
        Self::new(401, "token_expired", message.to_owned())
    }

    /// There is no such tool.
    #[must_use]
    pub fn unknown_tool(name: &str) -> Self {
        Self::new(
            404,
            "unknown_tool",
            format!("404 Not Found: there is no tool {name:?}"),
        )
    }

    /// The catalogue has no such track.
    #[must_use]
    pub fn unknown_track(id: &str) -> Self {
        Self::new(
            404,
            "unknown_track",
            format!("404 Not Found: there is no track {id:?}"),
        )
    }

    /// The quota is used up; `wait` later a call will be taken.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        // Rounded up: who comes back then must not be early.
        let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let message = format!("429 Too Many Requests: retry after {}s", seconds(wait_ms));
        Self {
            retry_after_ms: Some(wait_ms),
            ..Self::new(429, "rate_limited", message)
        }
    }

    pub(super) fn internal(what: &str) -> Self {
        Self::new(
            500,
            "journal_failed",
            format!("500 Internal Server Error: {what}"),
        )
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::KeyReused { .. } => {
                Self::new(409, "key_reused", format!("409 Conflict: {error}"))
            }
            JournalError::Full => Self::new(
                507,
                "journal_full",
                format!("507 Insufficient Storage: {error}"),
            ),
            error => Self::internal(&error.to_string()),
        }
    }
}

impl From<Refusal> for CallToolResult {
    fn from(refusal: Refusal) -> Self {
        let mut result = Self::error(vec![ContentBlock::text(refusal.message.clone())]);
        result.structured_content = serde_json::to_value(refusal).ok();
        result
    }
}

impl IntoCallToolResult for Refusal {
    fn into_call_tool_result(self) -> Result<CallToolResponse, rmcp::ErrorData> {
        Ok(CallToolResult::from(self).into())
    }
}

/// Milliseconds in decimal seconds, without zeros that say nothing.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_told_in_both_forms_and_never_early() {
        let refusal = Refusal::rate_limited(Duration::from_millis(500));
        assert_eq!(refusal.message, "429 Too Many Requests: retry after 0.5s");
        assert_eq!(refusal.retry_after_ms, Some(500));
        let refusal = Refusal::rate_limited(Duration::from_nanos(2_000_000_001));
        assert_eq!(refusal.retry_after_ms, Some(2001));
        assert_eq!(refusal.message, "429 Too Many Requests: retry after 2.001s");
        assert_eq!(seconds(3000), "3");
        assert_eq!(seconds(10), "0.01");
    }

    #[test]
    fn arguments_that_make_no_query_are_refused() {
        let text = |text: &str| Some(text.to_owned());
        let refused = [
            SearchArguments::default(),
            SearchArguments {
                title: text("Jóga"),
                ..Default::default()
            },
            SearchArguments {
                query: text(" - "),
                ..Default::default()
            },
            SearchArguments {
                query: text("a"),
                artist: text("b"),
                ..Default::default()
            },
            SearchArguments {
                isrc: text("none"),
                ..Default::default()
            },
            SearchArguments {
                query: text(&"x".repeat(MAX_FIELD_BYTES + 1)),
                ..Default::default()
            },
        ];
        for arguments in refused {
            let refusal = arguments.into_query().expect_err("no query");
            assert_eq!(
                (refusal.status, refusal.error.as_str()),
                (400, "bad_arguments")
            );
        }
    }
}
