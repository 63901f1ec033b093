//! A connection that was made.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rmcp::{Peer, RoleClient, model::PaginatedRequestParams};
use tokio::time::{Instant, timeout};

use super::{connector::Client, process::Process};
use crate::ToolHints;

/// A server with more pages of tools than this does not end.
const MOST_PAGES: usize = 100;
/// A server with more tools than this is not listed whole.
const MOST_TOOLS: usize = 10_000;

/// One connection: its client, its process, and what the server says of its tools.
pub(crate) struct Link {
    peer: Peer<RoleClient>,
    // Taken at the end. Dropping the client closes the connection under all its peers.
    owned: Mutex<Option<Owned>>,
    process_id: Option<u32>,
    pub(crate) hints: HashMap<String, ToolHints>,
    pub(crate) since: Instant,
    /// Which of the connections it is, counted from one.
    pub(crate) generation: u64,
}

/// Dropped in this order: the input ends before the process is killed.
struct Owned {
    client: Client,
    process: Option<Process>,
}

impl Link {
    pub(crate) fn new(client: Client, process: Option<Process>, generation: u64) -> Self {
        Self {
            peer: client.peer().clone(),
            process_id: process.as_ref().and_then(Process::id),
            owned: Mutex::new(Some(Owned { client, process })),
            hints: HashMap::new(),
            since: Instant::now(),
            generation,
        }
    }

    pub(crate) const fn peer(&self) -> &Peer<RoleClient> {
        &self.peer
    }

    pub(crate) const fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.peer.is_transport_closed()
    }

    /// Reads what the server says of its tools. One that does not answer has said nothing.
    pub(crate) async fn read_hints(&mut self) {
        let has_tools = self
            .peer
            .peer_info()
            .is_some_and(|info| info.capabilities.tools.is_some());
        if !has_tools {
            return;
        }
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let Ok(page) = self.peer.list_tools(Some(page)).await else {
                return;
            };
            for tool in page.tools {
                if self.hints.len() >= MOST_TOOLS {
                    return;
                }
                let hints = tool.annotations.as_ref().map(ToolHints::from);
                self.hints
                    .insert(tool.name.into_owned(), hints.unwrap_or_default());
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return;
            }
        }
    }

    /// Ends the connection: input closed, then asked, then killed. A second call does nothing.
    pub(crate) async fn close(&self, grace: Duration) {
        let owned = self
            .owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Owned {
            mut client,
            process,
        }) = owned
        else {
            return;
        };
        let _ = timeout(grace, client.close()).await;
        drop(client);
        if let Some(process) = process {
            process.stop(grace).await;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("generation", &self.generation)
            .field("process_id", &self.process_id)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
