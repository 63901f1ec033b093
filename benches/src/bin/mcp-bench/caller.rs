//! The ways to call a tool.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rmcp::{
    Peer, RoleClient,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, JsonObject,
        ProtocolVersion,
    },
    service::{RunningService, ServiceExt as _},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use toolweir::{
    mcp::{McpHandle, McpService, StdioServer, ToolCall, ToolError, ToolResponse, ToolService},
    rate_limit::RateLimitConfig,
    semaphore::SemaphoreConfig,
    stack::ToolStack,
    token_freshness::{TokenLife, refresh_fn},
};
use toolweir_mcp::HttpServer;
use tower::{Service, ServiceExt as _};

use crate::{
    server::{self, TEXT, TOOL},
    site::Site,
};

/// More than are ever under way: nothing waits in a transport that would not wait in the other.
const MAX_CONCURRENT_REQUESTS: usize = 256;
/// So many calls that the layers never say no.
const PLENTY: u32 = 1_000_000;
/// Longer than any call takes; as long as `McpService` gives a call if nobody says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What the server answers with: the size of a short answer.
const ANSWER: &str = "Hunter by Björk, from Homogenic (1997), 4 minutes 15 seconds, \
                      one of three tracks that match the search";

/// A way to call a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// rmcp's own `Peer::call_tool`.
    Bare,
    /// The same with a timeout around each call: the least that a caller needs.
    Timed,
    /// `McpService` alone.
    Mcp,
    /// A `ToolStack` with all its layers.
    Full,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Timed, Self::Mcp, Self::Full];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Timed => "timed",
            Self::Mcp => "mcp",
            Self::Full => "full",
        }
    }
}

/// Calls the tool once, and sees that it was answered.
pub(crate) trait Call: Clone + Send + 'static {
    fn call(&self, arguments: JsonObject) -> impl Future<Output = Result<()>> + Send;
}

/// What is asked of the tool.
pub(crate) fn arguments() -> JsonObject {
    let arguments = json!({ TEXT: ANSWER, "market": "DE", "limit": 3 });
    arguments.as_object().cloned().unwrap_or_default()
}

impl Call for Peer<RoleClient> {
    async fn call(&self, arguments: JsonObject) -> Result<()> {
        let call = CallToolRequestParams::new(TOOL).with_arguments(arguments);
        let result = self.call_tool(call).await?;
        let text = result.content.first().and_then(|content| content.as_text());
        ensure!(text.is_some_and(|text| text.text == ANSWER), "wrong answer");
        Ok(())
    }
}

/// A peer whose calls have a time that ends.
#[derive(Debug, Clone)]
pub(crate) struct Timed(Peer<RoleClient>);

impl Call for Timed {
    async fn call(&self, arguments: JsonObject) -> Result<()> {
        timeout(CALL_TIMEOUT, self.0.call(arguments)).await?
    }
}

/// A service, which is cloned for each call, as a worker does.
#[derive(Debug, Clone)]
pub(crate) struct Tools<S>(S);

impl<S> Call for Tools<S>
where
    S: Service<ToolCall, Response = ToolResponse, Error = ToolError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    async fn call(&self, arguments: JsonObject) -> Result<()> {
        let call = ToolCall::new(TOOL).with_arguments(arguments);
        let response = self.0.clone().oneshot(call).await?;
        ensure!(response.text() == ANSWER, "wrong answer");
        Ok(())
    }
}

/// A way to call with its connection.
pub(crate) enum Caller {
    Bare(RunningService<RoleClient, ClientConfig>),
    Timed(Timed, RunningService<RoleClient, ClientConfig>),
    Mcp(Tools<McpService>),
    Full(Tools<ToolService>, McpHandle),
}

impl Caller {
    /// Connects.
    pub(crate) async fn connect(way: Way, site: &Site) -> Result<Self> {
        Ok(match way {
            Way::Bare => Self::Bare(bare(site).await?),
            Way::Timed => {
                let client = bare(site).await?;
                Self::Timed(Timed(client.peer().clone()), client)
            }
            Way::Mcp => Self::Mcp(Tools(mcp(site)?)),
            Way::Full => {
                let stack = full(mcp(site)?)?;
                Self::Full(Tools(stack.service()), stack.handles().mcp.clone())
            }
        })
    }

    /// Ends the connection and its server.
    pub(crate) async fn close(self) {
        const GRACE: Duration = Duration::from_secs(2);
        match self {
            Self::Bare(client) | Self::Timed(_, client) => {
                let _ = client.cancel().await;
            }
            Self::Mcp(Tools(service)) => service.handle().shutdown(GRACE).await,
            Self::Full(_, handle) => handle.shutdown(GRACE).await,
        }
    }
}

/// The same protocol that `McpService` speaks: one that begins with `initialize`.
fn client() -> ClientConfig {
    let name = Implementation::new("bare", env!("CARGO_PKG_VERSION"));
    ClientConfig::new(ClientCapabilities::default(), name)
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

async fn bare(site: &Site) -> Result<RunningService<RoleClient, ClientConfig>> {
    let client = client();
    let connected = match site {
        Site::Memory => client.serve(server::in_memory()).await,
        Site::Stdio(program) => {
            let mut command = tokio::process::Command::new(program);
            command.arg("serve-stdio");
            client.serve(TokioChildProcess::new(command)?).await
        }
        Site::Http(http) => {
            let config = StreamableHttpClientTransportConfig::with_uri(&*http.url)
                .max_concurrent_requests(MAX_CONCURRENT_REQUESTS);
            let transport = StreamableHttpClientTransport::with_client(http.client.clone(), config);
            client.serve(transport).await
        }
    };
    connected.context("cannot connect")
}

fn mcp(site: &Site) -> Result<McpService> {
    let builder = McpService::builder("echo");
    let builder = match site {
        Site::Memory => builder.transport(|| async { Ok(server::in_memory()) }),
        Site::Stdio(program) => builder.stdio(StdioServer::new(program).arg("serve-stdio")),
        Site::Http(http) => builder.http(
            HttpServer::new(&*http.url)
                .client(http.client.clone())
                .max_concurrent_requests(MAX_CONCURRENT_REQUESTS),
        ),
    };
    Ok(builder.build()?)
}

/// All layers, with limits so wide that nothing waits.
fn full(mcp: McpService) -> Result<ToolStack> {
    let semaphore = SemaphoreConfig::builder().permits(MAX_CONCURRENT_REQUESTS);
    let rate_limit = RateLimitConfig::builder()
        .calls_per_second(PLENTY)
        .burst(PLENTY);
    let token = refresh_fn(|| async { Ok(TokenLife::of(Duration::from_secs(24 * 3600))) });
    let stack = ToolStack::builder(mcp)
        .semaphore(semaphore.build()?)
        .rate_limit(rate_limit.build()?)
        .token_source(token)
        .build()?;
    Ok(stack)
}
