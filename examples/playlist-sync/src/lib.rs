//! Syncs playlists.
