//! A server's list of tools, as it was last read, and for how long that holds.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use rmcp::{
    Peer, RoleClient, ServiceError,
    model::{PaginatedRequestParams, Tool},
};
use tokio::{sync::watch, time::Instant};
use toolweir_core::time::saturating_add;

use crate::ToolHints;

/// A server with more pages of tools than this does not end.
const MOST_PAGES: usize = 100;
/// A server with more tools than this is not listed whole.
const MOST_TOOLS: usize = 10_000;
/// What a list may have as a whole, written as JSON. Each page has a limit of its own, as an answer.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// A list is not held for longer than this, whatever its server says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of each tool.
pub(crate) type Hints = HashMap<String, ToolHints>;

/// One reading of the list.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    pub(crate) tools: Arc<Vec<Tool>>,
    /// Until when the server says that it holds; `None` where it does not say.
    pub(crate) until: Option<Instant>,
    begun: Instant,
    /// Sees the changes since the reading began.
    changes: watch::Receiver<()>,
}

impl Catalogue {
    /// Reads the list, page by page, as far as its length is within bounds. It no longer holds when
    /// there are `changes` from now on.
    pub(crate) async fn read(
        peer: &Peer<RoleClient>,
        mut changes: watch::Receiver<()>,
    ) -> Result<Self, ServiceError> {
        let begun = Instant::now();
        changes.borrow_and_update();
        let mut tools = Bounded::default();
        let mut lives = Vec::new();
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let page = peer.list_tools(Some(page)).await?;
            lives.push(page.ttl_ms);
            let took_all = page.tools.into_iter().all(|tool| tools.take(tool));
            cursor = page.next_cursor;
            if cursor.is_none() || !took_all {
                break;
            }
        }
        Ok(Self {
            tools: Arc::new(tools.tools),
            until: life_of(&lives).map(|life| saturating_add(Instant::now(), life)),
            begun,
            changes,
        })
    }

    /// Whether it still holds, by the server's own word.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let unchanged = matches!(self.changes.has_changed(), Ok(false));
        unchanged && self.until.is_some_and(|until| now < until)
    }

    /// Whether its reading began later than that of the other.
    pub(crate) fn is_newer(&self, other: &Self) -> bool {
        self.begun > other.begun
    }

    pub(crate) fn hints(&self) -> Hints {
        let hints = |tool: &Tool| {
            let hints = tool.annotations.as_ref().map(ToolHints::from);
            (tool.name.to_string(), hints.unwrap_or_default())
        };
        self.tools.iter().map(hints).collect()
    }
}

/// The tools of a list, as far as they are within bounds.
#[derive(Default)]
struct Bounded {
    tools: Vec<Tool>,
    bytes: Bytes,
}

impl Bounded {
    /// Takes one more, if there is room for it.
    fn take(&mut self, tool: Tool) -> bool {
        let counted = serde_json::to_writer(&mut self.bytes, &tool).is_ok();
        let has_room = self.tools.len() < MOST_TOOLS && self.bytes.0 <= MOST_BYTES;
        if counted && has_room {
            self.tools.push(tool);
        }
        counted && has_room
    }
}

/// Counts what is written.
#[derive(Default)]
struct Bytes(usize);

impl io::Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A list holds as long as the page that ends first. One page without a word, and nothing is known.
fn life_of(pages: &[Option<u64>]) -> Option<Duration> {
    let shortest = pages.iter().copied().collect::<Option<Vec<u64>>>()?;
    let shortest = Duration::from_millis(shortest.into_iter().min()?);
    (!shortest.is_zero()).then(|| shortest.min(LONGEST_LIFE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(description: &str) -> Tool {
        let tool = json!({ "name": "play", "description": description, "inputSchema": {} });
        serde_json::from_value(tool).unwrap()
    }

    #[test]
    fn a_list_is_bounded_by_number_and_by_size() {
        let mut many = Bounded::default();
        assert!((0..MOST_TOOLS).all(|_| many.take(tool(""))));
        assert!(!many.take(tool("")));
        assert_eq!(many.tools.len(), MOST_TOOLS);

        let mut large = Bounded::default();
        let half = "x".repeat(MOST_BYTES / 2);
        assert!(large.take(tool(&half)));
        assert!(
            !large.take(tool(&half)),
            "with what is around it, it is more than half"
        );
        assert_eq!(large.tools.len(), 1);
    }

    #[test]
    fn a_list_lives_as_long_as_its_first_page_to_end() {
        assert_eq!(
            life_of(&[Some(500), Some(200)]),
            Some(Duration::from_millis(200))
        );
        assert_eq!(life_of(&[Some(500), None]), None);
        assert_eq!(life_of(&[Some(0)]), None);
        assert_eq!(life_of(&[]), None);
        assert_eq!(life_of(&[Some(u64::MAX)]), Some(LONGEST_LIFE));
    }
}
