//! How a server over streamable HTTP is reached.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ::http::{HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use rmcp::transport::{
    StreamableHttpClientTransport, common::client_side_sse::ExponentialBackoff,
    streamable_http_client::StreamableHttpClientTransportConfig,
};
use tokio::sync::watch;
use toolweir_core::ConfigError;

use super::{HttpClient, url::shown};

/// A handshake on the other side of the world takes less than a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond what a worker's semaphore lets through.
const MAX_CONCURRENT_REQUESTS: usize = 256;
/// An answer whose stream broke off is asked for at once, and then after twice this time, and so on.
const STREAM_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// So many times: for 15 seconds. rmcp's default is for ever, with a call that waits for it meanwhile.
const STREAM_TRIES: usize = 5;
/// A redirect that goes on for longer than this does not end.
const MOST_REDIRECTS: usize = 5;

/// An MCP server that is spoken to over streamable HTTP.
///
/// ```
/// use std::time::Duration;
/// use toolweir_mcp::{BearerToken, HttpServer, McpService};
///
/// let token = BearerToken::new("a-secret");
/// let music = McpService::builder("music")
///     .http(
///         HttpServer::new("http://127.0.0.1:8080/mcp")
///             .bearer(token.clone())
///             .connect_timeout(Duration::from_secs(5)),
///     )
///     .build()?;
///
/// // Holds from the next request on.
/// token.set("a-newer-secret");
/// # Ok::<(), toolweir_core::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct HttpServer {
    url: Arc<str>,
    headers: Vec<(String, String)>,
    bearer: Option<BearerToken>,
    connect_timeout: Duration,
    keep_alive: Option<Duration>,
    max_concurrent_requests: usize,
    client: Option<HttpClient>,
}

impl HttpServer {
    /// The server whose endpoint is at `url`, such as `http://127.0.0.1:8080/mcp`.
    pub fn new(url: impl Into<Arc<str>>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            bearer: None,
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: None,
            max_concurrent_requests: MAX_CONCURRENT_REQUESTS,
            client: None,
        }
    }

    /// Sends this token with each request. Keep a clone of it to replace it in use.
    pub fn bearer(mut self, token: BearerToken) -> Self {
        self.bearer = Some(token);
        self
    }

    /// Sends this header with each request.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// How long a TCP connection, and TLS over it, may take to be made. By default 10 seconds.
    ///
    /// A request that fails here was surely not sent. How long a whole handshake of MCP may take is
    /// [`McpServiceBuilder::connect_timeout`](crate::McpServiceBuilder::connect_timeout).
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Keeps TCP connections for later requests while they idle for less than `idle`. By default each
    /// request has one of its own.
    ///
    /// One that the server closes just as a request goes out leaves the call ambiguous, so stay well
    /// under the server's own limit: many close after five seconds. It saves a handshake a call. With
    /// a server that does not set `TCP_NODELAY` it costs some 40 milliseconds a call.
    pub const fn keep_alive(mut self, idle: Duration) -> Self {
        self.keep_alive = Some(idle);
        self
    }

    /// How many requests may be on their way at once, each until its answer begins. By default 256.
    ///
    /// A server that answers with an event stream begins at once, and works for the answer after that: of
    /// its calls any number may be under way.
    ///
    /// More than that wait in the transport, where nobody sees them: their wait counts as the server's
    /// slowness. Keep this above what the layers let through (rmcp's own default is 16), and limit
    /// calls with a semaphore.
    pub const fn max_concurrent_requests(mut self, most: usize) -> Self {
        self.max_concurrent_requests = most;
        self
    }

    /// Sends requests through this client: for proxies, certificates, or a pool that is shared. Its
    /// own connect timeout and pool hold.
    pub fn client(mut self, client: reqwest::Client) -> Self {
        self.client = Some(HttpClient::plain(client));
        self
    }

    /// Sends requests through rmcp's OAuth client, which adds and refreshes the token. The HTTP client
    /// inside it holds.
    #[cfg(feature = "oauth")]
    pub fn oauth(mut self, client: rmcp::transport::auth::AuthClient<reqwest::Client>) -> Self {
        self.client = Some(HttpClient::oauth(client));
        self
    }

    /// Checks what was set, and makes the client.
    pub(crate) fn endpoint(self) -> Result<Endpoint, ConfigError> {
        self.check_url()?;
        for (field, time) in [
            ("http.connect_timeout", Some(self.connect_timeout)),
            ("http.keep_alive", self.keep_alive),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(ConfigError::new(field, "0s", "longer than zero"));
            }
        }
        if self.max_concurrent_requests == 0 {
            let field = "http.max_concurrent_requests";
            return Err(ConfigError::new(field, "0", "at least 1"));
        }
        if !self.bearer.as_ref().is_none_or(BearerToken::can_be_sent) {
            // Not shown: it is a secret.
            let range = "a token of visible characters, without line ends";
            return Err(ConfigError::new("http.bearer", "one of others", range));
        }
        let client = match self.client.clone() {
            Some(client) => client,
            None => self.own_client()?,
        };
        Ok(Endpoint {
            headers: headers(&self.headers)?,
            client: client.with_bearer(self.bearer),
            url: self.url,
            max_concurrent_requests: self.max_concurrent_requests,
        })
    }

    fn check_url(&self) -> Result<(), ConfigError> {
        let wrong = |range| Err(ConfigError::new("http.url", shown(&self.url), range));
        match reqwest::Url::parse(&self.url) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                // Not shown: it may hold a secret.
                let range = "a URL without a name and a password; use `bearer` or `header`";
                Err(ConfigError::new("http.url", "one that holds them", range))
            }
            Ok(url) if url.scheme() == "http" => Ok(()),
            Ok(url) if url.scheme() == "https" => {
                if cfg!(feature = "http-rustls") || self.client.is_some() {
                    Ok(())
                } else {
                    wrong("an http URL, unless the feature `http-rustls` or a `client` brings TLS")
                }
            }
            _ => wrong("an http or https URL"),
        }
    }

    fn own_client(&self) -> Result<HttpClient, ConfigError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(self.connect_timeout)
            .redirect(Policy::custom(same_origin));
        let builder = match self.keep_alive {
            Some(idle) => builder.pool_idle_timeout(idle),
            None => builder.pool_max_idle_per_host(0),
        };
        let client = builder.build().map_err(|error| {
            let error = toolweir_core::error_text(&error);
            ConfigError::new(
                "http.client",
                error,
                "one that can be made; or hand one over",
            )
        })?;
        Ok(HttpClient::plain(client))
    }
}

/// Header values and tokens may hold secrets: they are not shown.
impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("headers", &self.headers.len())
            .field("bearer", &self.bearer)
            .field("connect_timeout", &self.connect_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("max_concurrent_requests", &self.max_concurrent_requests)
            .finish_non_exhaustive()
    }
}

fn headers(pairs: &[(String, String)]) -> Result<HashMap<HeaderName, HeaderValue>, ConfigError> {
    let read = |(name, value): &(String, String)| {
        let wrong = |range| ConfigError::new("http.header", name.as_str(), range);
        let key = HeaderName::try_from(name).map_err(|_| wrong("the name of a header"))?;
        let value = HeaderValue::try_from(value);
        let mut value = value.map_err(|_| wrong("a header with a value of visible characters"))?;
        value.set_sensitive(true);
        Ok((key, value))
    };
    pairs.iter().map(read).collect()
}

/// Follows a redirect that keeps method and body and stays with the server: what a request carries is
/// meant for nobody else.
fn same_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
    let stays = attempt
        .previous()
        .first()
        .is_some_and(|first| first.origin() == attempt.url().origin());
    if keeps_body && stays && attempt.previous().len() <= MOST_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// A secret that is sent with each request, and can be replaced in use. Clones are one token.
#[derive(Clone)]
pub struct BearerToken(Arc<RwLock<Arc<str>>>);

impl BearerToken {
    /// A token, without the word `Bearer`.
    #[must_use]
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(RwLock::new(token.into())))
    }

    /// Replaces it. The next request sends the new one. A token that no header can hold, with a line end
    /// in it for example, fails each call before it is sent.
    pub fn set(&self, token: impl Into<Arc<str>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token.into();
    }

    fn can_be_sent(&self) -> bool {
        HeaderValue::try_from(self.get()).is_ok()
    }

    pub(super) fn get(&self) -> String {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        token.to_string()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken")
    }
}

/// A server over HTTP, checked.
#[derive(Clone)]
pub(crate) struct Endpoint {
    url: Arc<str>,
    headers: HashMap<HeaderName, HeaderValue>,
    client: HttpClient,
    max_concurrent_requests: usize,
}

impl Endpoint {
    /// A transport whose requests end when `listening` is closed.
    pub(crate) fn transport(
        &self,
        max_response_bytes: usize,
        listening: watch::Receiver<()>,
    ) -> StreamableHttpClientTransport<HttpClient> {
        let mut again = ExponentialBackoff::default();
        again.base_duration = STREAM_AGAIN_AFTER;
        again.max_times = Some(STREAM_TRIES);
        let mut config = StreamableHttpClientTransportConfig::with_uri(self.url.clone())
            .custom_headers(self.headers.clone())
            .max_concurrent_requests(self.max_concurrent_requests)
            .max_json_response_size(max_response_bytes)
            .max_sse_event_size(max_response_bytes)
            // A lost session is a lost connection: it is replaced as one, with all that follows.
            .reinit_on_expired_session(false);
        config.retry_config = Arc::new(again);
        let client = self.client.clone().while_open(listening);
        StreamableHttpClientTransport::with_client(client, config)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(server: HttpServer) -> String {
        server.endpoint().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_by_name_value_and_range() {
        assert_eq!(
            refusal(HttpServer::new("ftp://here")),
            "`http.url` must be an http or https URL, but is ftp://here/"
        );
        let server = || HttpServer::new("http://127.0.0.1/mcp");
        assert!(refusal(server().connect_timeout(Duration::ZERO)).contains("http.connect_timeout"));
        assert!(refusal(server().keep_alive(Duration::ZERO)).contains("http.keep_alive"));
        assert!(refusal(server().max_concurrent_requests(0)).contains("at least 1"));
        assert!(refusal(server().header("a b", "c")).contains("the name of a header"));
        assert!(refusal(server().header("a", "b\nc")).contains("visible characters"));
        let said = refusal(server().bearer(BearerToken::new("hunter2\n")));
        assert!(
            said.contains("http.bearer") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let server = HttpServer::new("http://127.0.0.1/mcp?key=hunter2")
            .header("x-key", "hunter2")
            .bearer(BearerToken::new("hunter2"));
        assert!(!format!("{server:?}").contains("hunter2"));
        let endpoint = server.endpoint().unwrap();
        assert!(!format!("{endpoint:?}").contains("hunter2"));
        for url in [
            "http://anna:hunter2@here/mcp",
            "ftp://anna:hunter2@here/mcp?key=hunter2",
            "here?key=hunter2",
        ] {
            assert!(!refusal(HttpServer::new(url)).contains("hunter2"));
        }
        assert!(
            !refusal(HttpServer::new("http://h/").header("a", "hunter2\n")).contains("hunter2")
        );
    }

    /// Such a URL is refused before; a redirect, or a client of one's own, may bring one all the same.
    #[tokio::test]
    async fn rmcp_logs_no_secret_of_a_url_whose_connection_is_refused() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let endpoint = Endpoint {
            url: format!("http://user:hunter2@{address}/mcp?token=hunter2").into(),
            headers: HashMap::new(),
            client: HttpClient::plain(reqwest::Client::new()),
            max_concurrent_requests: 1,
        };
        let (_open, listening) = watch::channel(());
        let transport = endpoint.transport(4096, listening);
        let failed = rmcp::serve_client((), transport).await.unwrap_err();
        let logged = std::fs::read_to_string(log.path()).unwrap();
        assert!(logged.contains("worker quit with fatal"), "{logged}");
        for told in [logged, format!("{failed:?}"), failed.to_string()] {
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn clones_of_a_token_are_one() {
        let token = BearerToken::new("old");
        let sent = token.clone();
        token.set("new");
        assert_eq!(sent.get(), "new");
    }
}
