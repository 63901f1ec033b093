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
use toolweir_core::{BoxError, ConfigError, Observation};

#[cfg(feature = "http")]
use crate::HttpServer;
use crate::{
    Answer, McpService, TextRules, ToolHints,
    call::Marks,
    classify::{Classifier, Custom},
    connection::{Budget, Connector, Factory, Pool, Reach, Settings},
    service::Limits,
};

/// A fast machine starts a slow server in a second or two; a busy one takes its time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A tool that takes longer than this is told so by its caller.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// As much as rmcp takes by itself.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
/// Less than this holds no error, and no list of tools.
const LEAST_RESPONSE_BYTES: usize = 4 * 1024;

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
    reach: Option<Result<Reach, ConfigError>>,
    connect_timeout: Duration,
    call_timeout: Duration,
    idle_timeout: Option<Duration>,
    stop_after_idle: Option<Duration>,
    restart_budget: Option<(usize, Duration)>,
    max_response_bytes: usize,
    marks: Marks,
    text_rules: TextRules,
    custom: Option<Custom>,
    hints: HashMap<String, ToolHints>,
}

impl McpServiceBuilder {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            reach: None,
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
            idle_timeout: None,
            stop_after_idle: None,
            restart_budget: None,
            max_response_bytes: MAX_RESPONSE_BYTES,
            marks: Marks {
                idempotency_key: true,
                principal: false,
                trace_context: true,
            },
            text_rules: TextRules::none(),
            custom: None,
            hints: HashMap::new(),
        }
    }

    /// Speaks to a program over its stdin and stdout.
    pub fn stdio(self, server: StdioServer) -> Self {
        self.shared(Connector::Stdio(server))
    }

    /// Speaks to a program of its own for each principal, and to no more than `most` at once.
    ///
    /// A call goes over the connection of its principal ([`ToolCall::with_principal`]) and over no
    /// other's; one without a principal is refused. Where there are `most` connections, the one that
    /// was used least recently, and is not in use, makes room; where all are in use the call is refused.
    ///
    /// The principal is a name that comes with the call, from whoever sends it: `make` knows which
    /// ones there are, and finds their secrets.
    ///
    /// ```
    /// use toolweir_mcp::{McpService, StdioServer};
    ///
    /// # fn token_of(user: &str) -> Result<String, std::io::Error> { Ok(user.to_owned()) }
    /// let music = McpService::builder("music")
    ///     .stdio_per_principal(50, |user| {
    ///         Ok(StdioServer::new("music-server").env("MUSIC_TOKEN", token_of(user)?))
    ///     })
    ///     .build()?;
    /// # Ok::<(), toolweir_core::ConfigError>(())
    /// ```
    ///
    /// [`ToolCall::with_principal`]: crate::ToolCall::with_principal
    pub fn stdio_per_principal<M>(self, most: usize, make: M) -> Self
    where
        M: Fn(&str) -> Result<StdioServer, BoxError> + Send + Sync + 'static,
    {
        self.per_principal(most, move |principal| {
            Ok(Connector::Stdio(make(principal)?))
        })
    }

    /// Speaks to a server over streamable HTTP.
    #[cfg(feature = "http")]
    pub fn http(mut self, server: HttpServer) -> Self {
        let endpoint = server.endpoint();
        self.reach = Some(endpoint.map(|endpoint| Reach::Shared(Connector::Http(endpoint))));
        self
    }

    /// Speaks over streamable HTTP, in a session of its own for each principal, as
    /// [`stdio_per_principal`](Self::stdio_per_principal).
    #[cfg(feature = "http")]
    pub fn http_per_principal<M>(self, most: usize, make: M) -> Self
    where
        M: Fn(&str) -> Result<HttpServer, BoxError> + Send + Sync + 'static,
    {
        self.per_principal(most, move |principal| {
            Ok(Connector::Http(make(principal)?.endpoint()?))
        })
    }

    fn shared(mut self, connector: Connector) -> Self {
        self.reach = Some(Ok(Reach::Shared(connector)));
        self
    }

    fn per_principal<M>(mut self, most: usize, make: M) -> Self
    where
        M: Fn(&str) -> Result<Connector, BoxError> + Send + Sync + 'static,
    {
        self.reach = Some(if most == 0 {
            Err(ConfigError::new("most", 0, "at least 1"))
        } else {
            let make = Arc::new(make);
            Ok(Reach::PerPrincipal { most, make })
        });
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
    pub fn transport<M, Fut, T, E, A>(self, make: M) -> Self
    where
        M: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: IntoTransport<RoleClient, E, A> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        A: 'static,
    {
        self.shared(Connector::Factory(Factory::new(make)))
    }

    /// As [`transport`](Self::transport), in a connection of its own for each principal, as
    /// [`stdio_per_principal`](Self::stdio_per_principal).
    pub fn transport_per_principal<M, Fut, T, E, A>(self, most: usize, make: M) -> Self
    where
        M: Fn(&str) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
        T: IntoTransport<RoleClient, E, A> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        A: 'static,
    {
        let make = Arc::new(make);
        self.per_principal(most, move |principal| {
            let (make, principal) = (make.clone(), principal.to_owned());
            Ok(Connector::Factory(Factory::new(move || make(&principal))))
        })
    }

    /// How long a server may take from its start to the end of the handshake and its list of
    /// tools. By default 30 seconds.
    ///
    /// The time does not include that for which the server's previous process is waited for, 30
    /// seconds at most. After that a call is refused with the reason `still-ending`.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a tool may take where the call says nothing else. By default 60 seconds.
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long a tool may be silent, where the call says nothing else. Progress that it reports
    /// begins this time anew; the call's timeout and deadline hold all the same. By default as long as
    /// those.
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Stops a connection, and the server with it, after so long without a call. It is dormant then,
    /// and the next call starts it again. By default it stays.
    pub const fn stop_after_idle(mut self, idle: Duration) -> Self {
        self.stop_after_idle = Some(idle);
        self
    }

    /// Starts a connection again no more than `most` times within `window` after it was lost or could
    /// not be made. After that calls are refused with the reason `restarts-spent`, until somebody calls
    /// [`McpHandle::reset`](crate::McpHandle::reset) or [`McpHandle::restart`](crate::McpHandle::restart).
    /// Each principal's connection has a budget of its own.
    ///
    /// A start after idling, or one that an operator asks for, does not count.
    ///
    /// By default there is no end to it: seen from here, a server that is down for an hour looks like
    /// one that will never start again, and an unattended worker should be back when its server is.
    /// The backoff keeps that cheap, because it grows until 15 to 30 seconds lie between two tries. Set
    /// a budget where a start is dear (a download, a login, a lock that others wait for), and where
    /// somebody learns of [`McpState::given_up`](crate::McpState::given_up). Of a server that is down
    /// the backoff allows some 25 to 45 starts in ten minutes: a budget above that changes nothing, and
    /// one of 10 is spent after one to two minutes.
    pub const fn restart_budget(mut self, most: usize, window: Duration) -> Self {
        self.restart_budget = Some((most, window));
        self
    }

    /// How long an answer may be, in bytes as it is sent. A call with a longer one ends as
    /// [`ToolError::TooLarge`](crate::ToolError::TooLarge), and the connection goes on. By default 16
    /// MiB. On a transport of your own its own limit holds.
    pub const fn max_response_bytes(mut self, most: usize) -> Self {
        self.max_response_bytes = most;
        self
    }

    /// Whether a call's idempotency key reaches the server, in `_meta`. By default it does.
    pub const fn send_idempotency_key(mut self, send: bool) -> Self {
        self.marks.idempotency_key = send;
        self
    }

    /// Whether the server is told on whose behalf a call is made, in `_meta` as
    /// [`PRINCIPAL_META`](crate::PRINCIPAL_META). By default it is not: the name is the caller's own, and most
    /// servers know their user by the credentials of the connection.
    pub const fn send_principal(mut self, send: bool) -> Self {
        self.marks.principal = send;
        self
    }

    /// Whether a call's W3C trace context reaches the server, in `_meta`. By default it does.
    pub const fn send_trace_context(mut self, send: bool) -> Self {
        self.marks.trace_context = send;
        self
    }

    /// How the server tells of rate limits in text. By default not at all.
    pub fn text_rules(mut self, rules: TextRules) -> Self {
        self.text_rules = rules;
        self
    }

    /// Asks `classify` first what an answer says about the server, and whether the tool was executed.
    /// `None` leaves an answer to what is built in, the text rules among it.
    ///
    /// For servers with ways of their own. A panic in it is logged once, and counts as `None`.
    ///
    /// ```
    /// use toolweir_core::{Delivery, Observation, Outcome};
    /// use toolweir_mcp::McpService;
    ///
    /// let builder = McpService::builder("music").classify_with(|answer| {
    ///     let text = &answer.result.ok()?.structured_content.as_ref()?["problem"];
    ///     let full = text == "the library is being indexed";
    ///     full.then_some(Observation::new(Outcome::Throttled { retry_after: None }, Delivery::NotSent))
    /// });
    /// ```
    pub fn classify_with<F>(mut self, classify: F) -> Self
    where
        F: Fn(Answer<'_>) -> Option<Observation> + Send + Sync + 'static,
    {
        self.custom = Some(Arc::new(classify));
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
    /// There is no way to reach the server, its name is empty, or a value is out of its range.
    pub fn build(self) -> Result<McpService, ConfigError> {
        self.check()?;
        let missing = || ConfigError::new("transport", "not set", "`stdio`, `http` or `transport`");
        let reach = self.reach.ok_or_else(missing)??;
        let budget = self.restart_budget;
        let classifier = Classifier::new(self.name.clone(), self.text_rules, self.custom);
        let settings = Settings {
            name: self.name,
            connect_timeout: self.connect_timeout,
            stop_after_idle: self.stop_after_idle,
            budget: budget.map(|(most, window)| Budget::new(most, window)),
            max_response_bytes: self.max_response_bytes,
            hints: self.hints,
        };
        let limits = Limits {
            call_timeout: self.call_timeout,
            idle_timeout: self.idle_timeout,
            marks: self.marks,
            classifier,
        };
        Ok(McpService::new(Pool::new(settings, reach), limits))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError::new("name", "\"\"", "at least 1 character"));
        }
        let window = self.restart_budget.map(|(_, window)| window);
        for (field, time) in [
            ("connect_timeout", Some(self.connect_timeout)),
            ("call_timeout", Some(self.call_timeout)),
            ("idle_timeout", self.idle_timeout),
            ("stop_after_idle", self.stop_after_idle),
            ("restart_budget", window),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(ConfigError::new(field, "0s", "longer than zero"));
            }
        }
        if let Some((0, _)) = self.restart_budget {
            let field = "restart_budget";
            return Err(ConfigError::new(field, "0", "at least 1 restart"));
        }
        if self.max_response_bytes < LEAST_RESPONSE_BYTES {
            let (field, most) = ("max_response_bytes", self.max_response_bytes);
            let range = format!("at least {LEAST_RESPONSE_BYTES}");
            return Err(ConfigError::new(field, most, range));
        }
        Ok(())
    }
}

impl std::fmt::Debug for McpServiceBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServiceBuilder")
            .field("name", &self.name)
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
            "`transport` must be `stdio`, `http` or `transport`, but is not set"
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
        let error = builder().idle_timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(error.field(), "idle_timeout");
        let error = builder()
            .stop_after_idle(Duration::ZERO)
            .build()
            .unwrap_err();
        assert_eq!(error.field(), "stop_after_idle");
    }

    #[test]
    fn a_service_needs_a_name() {
        let builder = McpService::builder("").stdio(StdioServer::new("server"));
        assert_eq!(
            builder.build().unwrap_err().to_string(),
            "`name` must be at least 1 character, but is \"\""
        );
    }

    #[test]
    fn what_allows_nothing_is_refused() {
        let builder = || McpService::builder("music").stdio(StdioServer::new("server"));
        let text = |builder: McpServiceBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            text(builder().restart_budget(0, Duration::from_secs(1))),
            "`restart_budget` must be at least 1 restart, but is 0"
        );
        assert_eq!(
            text(builder().max_response_bytes(10)),
            "`max_response_bytes` must be at least 4096, but is 10"
        );
        let nobody = builder().stdio_per_principal(0, |_| Ok(StdioServer::new("server")));
        assert_eq!(text(nobody), "`most` must be at least 1, but is 0");
    }

    #[test]
    fn debug_shows_no_arguments() {
        let server = StdioServer::new("server")
            .arg("--token=secret")
            .env("KEY", "secret");
        assert!(!format!("{server:?}").contains("secret"));
    }
}
