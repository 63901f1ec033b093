//! How ours and the peers behave.

use serde::Serialize;

/// One behaviour, of ours and of one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) ours_holds: bool,
    pub(crate) peer: &'static str,
    pub(crate) peer_holds: bool,
}

/// Looks at every behaviour, now.
pub(crate) fn observe() -> Vec<Row> {
    Vec::new()
}
