//! A worker's servers, by name.

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc, time::Duration};

use toolweir_core::{BoxError, CheckHealth, EnsureFresh, ReportState, WarmUp};
use tower::util::BoxCloneSyncService;

use crate::{McpHandle, McpService, ToolCall, ToolError, ToolHints, ToolResponse};

/// A tool service whatever it is made of: a bare connection, or one behind layers.
pub type ToolService = BoxCloneSyncService<ToolCall, ToolResponse, ToolError>;

/// One server: its service, and what stands beside it.
#[derive(Clone)]
pub struct Entry {
    service: ToolService,
    states: Vec<Arc<dyn ReportState>>,
    health: Option<Arc<dyn CheckHealth>>,
    token: Option<Arc<dyn EnsureFresh>>,
    warm_up: Option<Arc<dyn WarmUp>>,
    mcp: McpHandle,
}

impl Entry {
    /// A server behind nothing: the bare connection.
    #[must_use]
    pub fn of(mcp: McpService) -> Self {
        let handle = mcp.handle();
        Self::new(ToolService::new(mcp), handle)
    }

    /// `service`, which stands over the connection of `mcp`.
    #[must_use]
    pub fn new(service: ToolService, mcp: McpHandle) -> Self {
        Self {
            service,
            states: vec![Arc::new(mcp.clone())],
            health: None,
            token: None,
            warm_up: None,
            mcp,
        }
    }

    /// Adds a layer's state to what preflight reads.
    #[must_use]
    pub fn with_state(mut self, state: impl ReportState + 'static) -> Self {
        self.states.push(Arc::new(state));
        self
    }

    /// Adds the health check that preflight asks.
    #[must_use]
    pub fn with_health(mut self, health: impl CheckHealth + 'static) -> Self {
        self.health = Some(Arc::new(health));
        self
    }

    /// Adds the token that preflight keeps fresh.
    #[must_use]
    pub fn with_token(mut self, token: impl EnsureFresh + 'static) -> Self {
        self.token = Some(Arc::new(token));
        self
    }

    /// Adds the warm-up, for preflight and for [`ServerRegistry::warm_up`].
    #[must_use]
    pub fn with_warm_up(mut self, warm_up: impl WarmUp + 'static) -> Self {
        self.warm_up = Some(Arc::new(warm_up));
        self
    }

    /// The service, to be cloned for each call.
    #[must_use]
    pub fn service(&self) -> ToolService {
        self.service.clone()
    }

    /// The layers that report their state.
    pub fn states(&self) -> impl Iterator<Item = &dyn ReportState> {
        self.states.iter().map(AsRef::as_ref)
    }

    /// The health check, where there is one.
    #[must_use]
    pub fn health(&self) -> Option<&dyn CheckHealth> {
        self.health.as_deref()
    }

    /// The token, where there is one.
    #[must_use]
    pub fn token(&self) -> Option<&dyn EnsureFresh> {
        self.token.as_deref()
    }

    /// The warm-up, where there is one.
    #[must_use]
    pub fn warm_up(&self) -> Option<&dyn WarmUp> {
        self.warm_up.as_deref()
    }

    /// What is known of a tool's effects. Where each principal has a connection of its own this is the
    /// least repeatable of what their servers say; [`hints_for`](Self::hints_for) knows more.
    #[must_use]
    pub fn hints(&self, tool: &str) -> ToolHints {
        self.mcp.hints(tool)
    }

    /// What is known of the effects of a tool that is called for `principal`. Whether that call may be
    /// repeated is for the principal's own server to say, and for no other's.
    #[must_use]
    pub fn hints_for(&self, principal: Option<&str>, tool: &str) -> ToolHints {
        match principal {
            Some(principal) => self.mcp.for_principal(principal).hints(tool),
            None => self.mcp.hints(tool),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("states", &self.states.len())
            .field("health", &self.health.is_some())
            .field("token", &self.token.is_some())
            .field("warm_up", &self.warm_up.is_some())
            .finish_non_exhaustive()
    }
}

/// The servers that a worker can call, by name.
#[derive(Debug)]
pub struct ServerRegistry {
    servers: BTreeMap<Arc<str>, Entry>,
}

impl ServerRegistry {
    /// Builds a registry.
    pub const fn builder() -> ServerRegistryBuilder {
        ServerRegistryBuilder {
            servers: Vec::new(),
        }
    }

    /// The server of that name.
    ///
    /// # Errors
    ///
    /// There is none. The error lists those there are.
    pub fn get(&self, name: &str) -> Result<&Entry, UnknownServer> {
        self.servers.get(name).ok_or_else(|| UnknownServer {
            name: name.to_owned(),
            known: self.servers.keys().cloned().collect(),
        })
    }

    /// The servers' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(AsRef::as_ref)
    }

    /// Warms up every server that has a warm-up, one after the other: before the worker polls.
    ///
    /// # Errors
    ///
    /// The first that cannot be warmed up.
    pub async fn warm_up(&self) -> Result<(), BoxError> {
        for entry in self.servers.values() {
            if let Some(warm_up) = entry.warm_up() {
                warm_up.warm_up().await?;
            }
        }
        Ok(())
    }

    /// Ends every connection, all at once, and returns when their processes are gone.
    pub async fn shutdown(&self, grace: Duration) {
        let mut ends = tokio::task::JoinSet::new();
        for entry in self.servers.values() {
            let mcp = entry.mcp.clone();
            // Of an entry for one principal, too: the connections are shared.
            ends.spawn(async move { mcp.pool.shut_down(grace).await });
        }
        ends.join_all().await;
    }
}

/// Builds a [`ServerRegistry`].
#[derive(Debug)]
#[must_use]
pub struct ServerRegistryBuilder {
    servers: Vec<(Arc<str>, Entry)>,
}

impl ServerRegistryBuilder {
    /// Adds a server.
    pub fn server(mut self, name: impl Into<Arc<str>>, entry: Entry) -> Self {
        self.servers.push((name.into(), entry));
        self
    }

    /// The registry.
    ///
    /// # Errors
    ///
    /// Two servers have one name.
    pub fn build(self) -> Result<ServerRegistry, RegistryError> {
        let mut servers = BTreeMap::new();
        for (name, entry) in self.servers {
            if servers.insert(name.clone(), entry).is_some() {
                return Err(RegistryError { name });
            }
        }
        Ok(ServerRegistry { servers })
    }
}

/// Two servers of a registry have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryError {
    name: Arc<str>,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "two MCP servers are named {:?}; names must differ",
            self.name
        )
    }
}

impl Error for RegistryError {}

/// There is no server of that name.
///
/// ```
/// use toolweir_mcp::ServerRegistry;
///
/// let registry = ServerRegistry::builder().build()?;
/// let error = registry.get("music").unwrap_err();
/// assert_eq!(error.to_string(), r#"no MCP server named "music"; known: none"#);
/// # Ok::<(), toolweir_mcp::RegistryError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownServer {
    name: String,
    known: Vec<Arc<str>>,
}

impl UnknownServer {
    /// The name that nobody has.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for UnknownServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no MCP server named {:?}; known: ", self.name)?;
        if self.known.is_empty() {
            return f.write_str("none");
        }
        for (at, name) in self.known.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name:?}")?;
        }
        Ok(())
    }
}

impl Error for UnknownServer {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StdioServer;

    fn entry(name: &'static str) -> Entry {
        let mcp = McpService::builder(name).stdio(StdioServer::new("server"));
        Entry::of(mcp.build().unwrap())
    }

    #[test]
    fn a_miss_lists_the_names_there_are() {
        let registry = ServerRegistry::builder()
            .server("youtube", entry("youtube"))
            .server("music", entry("music"))
            .build()
            .unwrap();
        assert_eq!(
            registry.get("SpotifyMCP").unwrap_err().to_string(),
            r#"no MCP server named "SpotifyMCP"; known: "music", "youtube""#
        );
    }

    #[test]
    fn two_servers_of_one_name_are_refused() {
        let error = ServerRegistry::builder()
            .server("music", entry("music"))
            .server("music", entry("music"))
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"two MCP servers are named "music"; names must differ"#
        );
    }
}
