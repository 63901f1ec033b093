//! A server's list of tools, as it was last read, and for how long that holds.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
        let mut tools = Vec::new();
        let mut lives = Vec::new();
        let mut cursor = None;
        for _ in 0..MOST_PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let page = peer.list_tools(Some(page)).await?;
            lives.push(page.ttl_ms);
            tools.extend(page.tools.into_iter().take(MOST_TOOLS - tools.len()));
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() == MOST_TOOLS {
                break;
            }
        }
        Ok(Self {
            tools: Arc::new(tools),
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

/// A list holds as long as the page that ends first. One page without a word, and nothing is known.
fn life_of(pages: &[Option<u64>]) -> Option<Duration> {
    let shortest = pages.iter().copied().collect::<Option<Vec<u64>>>()?;
    let shortest = Duration::from_millis(shortest.into_iter().min()?);
    (!shortest.is_zero()).then(|| shortest.min(LONGEST_LIFE))
}

#[cfg(test)]
mod tests {
    use super::*;

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
