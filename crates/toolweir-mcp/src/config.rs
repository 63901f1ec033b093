//! How a server is reached, and how long it may take.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rmcp::{RoleClient, transport::IntoTransport};
use toolweir_core::{BoxError, ConfigError};

use crate::{
    McpService, TextRules, ToolHints,
    connection::{Connector, Factory, Manager},
    service::Limits,
};

/// A fast machine starts a slow server in a second or two; a busy one takes its time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A tool that takes longer than this is told so by its caller.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// An MCP server that is a program, spoken to over its stdin and stdout.
///
/// It is started in a process group of its own: Ctrl-C at a terminal does not reach it, and what it
/// starts ends with it. Its end is the connection's end, also where something it has started holds its
/// pipes: a launcher must wait for the server, or become it.
///
/// ```
/// use toolweir_mcp::StdioServer;
///
/// let server = StdioServer::new("npx")
///     .args(["-y", "@modelcontextprotocol/server-everything"])
///     .env("LOG_LEVEL", "warn");
/// ```
#[derive(Clone)]
pub struct StdioServer {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) current_dir: Option<PathBuf>,
}

impl StdioServer {
    /// The program of that name on the PATH, or at that path.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment that the program inherits.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Where the program is started. By default where this process is.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(directory.into());
        self
    }
}

/// Arguments and environment may hold secrets: only the program is shown.
impl std::fmt::Debug for StdioServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdioServer")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .finish_non_exhaustive()
    }
}

/// Builds a [`McpService`].
#[must_use]
pub struct McpServiceBuilder {
    name: Arc<str>,
    connector: Option<Connector>,
    connect_timeout: Duration,
    call_timeout: Duration,
    text_rules: TextRules,
    hints: HashMap<String, ToolHints>,
}

impl McpServiceBuilder {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            connector: None,
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
            text_rules: TextRules::none(),
            hints: HashMap::new(),
        }
    }

    /// Speaks to a program over its stdin and stdout.
    pub fn stdio(mut self, server: StdioServer) -> Self {
        self.connector = Some(Connector::Stdio(server));
        self
    }

    /// Speaks over any transport of rmcp's, made anew for each connection.
    ///
    /// ```
    /// # use toolweir_mcp::McpService;
    /// let service = McpService::builder("memory").transport(|| async {
    ///     let (here, there) = tokio::io::duplex(4096);
    ///     # drop(there);
    ///     // serve `there` …
    ///     Ok(here)
    /// });
    /// ```
    pub fn transport<M, Fut, T, E, A>(mut self, make: M) -> Self
    where
        M: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: IntoTransport<RoleClient, E, A> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        A: 'static,
    {
        self.connector = Some(Connector::Factory(Factory::new(make)));
        self
    }

    /// How long a server may take from its start to the end of the handshake and its list of
    /// tools. By default 30 seconds.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a tool may take where the call says nothing else. By default 60 seconds.
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How the server tells of rate limits in text. By default not at all.
    pub fn text_rules(mut self, rules: TextRules) -> Self {
        self.text_rules = rules;
        self
    }

    /// Whether `tool` may be called again when nobody knows if it was executed, whatever the
    /// server says of it.
    pub fn repeatable(mut self, tool: impl Into<String>, repeatable: bool) -> Self {
        self.hints
            .insert(tool.into(), ToolHints::idempotent(repeatable));
        self
    }

    /// The service. Nothing is started before the first call, or a warm-up.
    ///
    /// # Errors
    ///
    /// There is no way to reach the server, or a timeout is zero.
    pub fn build(self) -> Result<McpService, ConfigError> {
        let Some(connector) = self.connector else {
            return Err(ConfigError::new(
                "transport",
                "not set",
                "`stdio` or `transport`",
            ));
        };
        for (field, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
        ] {
            if timeout.is_zero() {
                return Err(ConfigError::new(field, "0s", "longer than zero"));
            }
        }
        let manager = Manager::new(self.name, connector, self.connect_timeout, self.hints);
        Ok(McpService::new(
            manager,
            Limits {
                call_timeout: self.call_timeout,
                text_rules: self.text_rules,
            },
        ))
    }
}

impl std::fmt::Debug for McpServiceBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServiceBuilder")
            .field("name", &self.name)
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_needs_a_way_to_its_server() {
        let error = McpService::builder("music").build().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`transport` must be `stdio` or `transport`, but is not set"
        );
    }

    #[test]
    fn a_timeout_of_nothing_is_refused() {
        let builder = || McpService::builder("music").stdio(StdioServer::new("server"));
        let error = builder().call_timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(error.field(), "call_timeout");
        let error = builder()
            .connect_timeout(Duration::ZERO)
            .build()
            .unwrap_err();
        assert_eq!(error.field(), "connect_timeout");
    }

    #[test]
    fn debug_shows_no_arguments() {
        let server = StdioServer::new("server")
            .arg("--token=secret")
            .env("KEY", "secret");
        assert!(!format!("{server:?}").contains("secret"));
    }
}
