//! The recommended order of the layers over an MCP server.
//!
//! Outside in: health gate, breaker admission, warm-up, semaphore, token freshness, rate limit,
//! breaker observation, connection. It refuses before it waits; it waits for a slot before it spends
//! quota; it spends quota at dispatch, where the breaker observes, so that our own waiting never
//! counts as the server's slowness.
//!
//! What a stack asks of its own accord goes around the layers that wait for it. The calls of a
//! server's token tools go through observation alone, since servers do not count them; the warm-up's
//! first call goes through rate limit and observation; the health gate's ping and the warm-up's
//! connect go to the connection itself. A server that was stopped because nobody called it is not
//! pinged: the gate says `Dormant` and stays open, and the next call starts the server and warms it up.
//!
//! # A connection for each principal
//!
//! Over a connection for each principal
//! ([`stdio_per_principal`](toolweir_mcp::McpServiceBuilder::stdio_per_principal) and its likes) a
//! stack is still one: breaker, health, rate limit and the semaphore's permits are shared, so one
//! principal's failures count against the server, and the permits go round fairly between principals.
//! A stack for each principal is the way where they should not.
//!
//! Its own acts name no principal, and so:
//! - The health gate pings the connections that there are, and one that does not answer is a failed
//!   probe. It starts none.
//! - The warm-up has nothing to connect. A principal's first call starts its server itself: inside the
//!   semaphore, and in sight of the breaker, to whom a slow start is a slow call. A first call warms
//!   up the principal that it names, once, and must name one.
//! - There can be no token tools. A token source of one's own looks after one token, for all.

use std::{fmt, sync::Arc, time::Duration};

use toolweir_circuit_breaker::{CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer};
use toolweir_core::{BoxError, BoxFuture, ConfigError, Outcome};
use toolweir_health_gate::{HealthGateConfig, HealthGateHandle, HealthGateLayer, Probe};
use toolweir_mcp::{
    ByTool, Connect, Entry, FirstCall, McpClassifier, McpHandle, McpLiveness, McpService,
    TokenTools, ToolCall, ToolError, ToolFacts, ToolService, ToolTokenSource,
};
use toolweir_rate_limit::{RateLimitConfig, RateLimitHandle, RateLimitLayer};
use toolweir_semaphore::{SemaphoreConfig, SemaphoreHandle, SemaphoreLayer};
use toolweir_token_freshness::{
    TokenFreshnessConfig, TokenFreshnessHandle, TokenFreshnessLayer, TokenSource,
};
use toolweir_warm_up::{WarmUpConfig, WarmUpHandle, WarmUpLayer};
use tower::ServiceBuilder;

/// One MCP server behind its layers.
///
/// Health gate, circuit breaker, warm-up and semaphore are there unless they are left out; the rate
/// limit and the token need to be told about, since nobody else knows the quota.
///
/// ```
/// use toolweir::{
///     mcp::{McpService, StdioServer, TokenTools},
///     rate_limit::RateLimitConfig,
///     stack::ToolStack,
/// };
///
/// let music = McpService::builder("music").stdio(StdioServer::new("music-server")).build()?;
/// let stack = ToolStack::builder(music)
///     .rate_limit(RateLimitConfig::builder().calls_per_second(45).burst(25).build()?)
///     .token_tools(TokenTools::default())
///     .build()?;
/// let entry = stack.into_entry();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ToolStack {
    service: ToolService,
    handles: Handles,
}

/// The handles of the layers that a stack has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Handles {
    /// The connection.
    pub mcp: McpHandle,
    /// The health gate.
    pub health_gate: Option<HealthGateHandle>,
    /// The circuit breaker.
    pub circuit_breaker: Option<CircuitBreakerHandle>,
    /// The warm-up.
    pub warm_up: Option<WarmUpHandle>,
    /// The semaphore.
    pub semaphore: Option<SemaphoreHandle>,
    /// The token.
    pub token_freshness: Option<TokenFreshnessHandle>,
    /// The rate limit.
    pub rate_limit: Option<RateLimitHandle>,
}

impl ToolStack {
    /// Builds a stack over `mcp`.
    pub fn builder(mcp: McpService) -> ToolStackBuilder {
        ToolStackBuilder {
            mcp,
            health_gate: Some(HealthGateConfig::default()),
            circuit_breaker: Some(CircuitBreakerConfig::default()),
            circuit_breaker_by_tool: false,
            warm_up: Some(WarmUpConfig::default()),
            first_call: None,
            semaphore: Some(SemaphoreConfig::default()),
            token: None,
            token_freshness: TokenFreshnessConfig::default(),
            rate_limit: None,
        }
    }

    /// The service. Clones share everything.
    #[must_use]
    pub fn service(&self) -> ToolService {
        self.service.clone()
    }

    /// The handles, to read the layers' states and operate them.
    #[must_use]
    pub const fn handles(&self) -> &Handles {
        &self.handles
    }

    /// The stack as an entry of a registry, with all that preflight asks.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        let Handles {
            mcp,
            health_gate,
            circuit_breaker,
            warm_up,
            semaphore,
            token_freshness,
            rate_limit,
        } = self.handles;
        let mut entry = Entry::new(self.service, mcp);
        if let Some(handle) = circuit_breaker {
            entry = entry.with_state(handle);
        }
        if let Some(handle) = semaphore {
            entry = entry.with_state(handle);
        }
        if let Some(handle) = rate_limit {
            entry = entry.with_state(handle);
        }
        if let Some(handle) = warm_up {
            entry = entry.with_warm_up(handle);
        }
        if let Some(handle) = token_freshness {
            entry = entry.with_token(handle);
        }
        if let Some(handle) = health_gate {
            entry = entry.with_health(handle);
        }
        entry
    }
}

impl fmt::Debug for ToolStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolStack")
            .field("handles", &self.handles)
            .finish_non_exhaustive()
    }
}

/// Where a stack's token comes from.
enum Token {
    Tools(TokenTools),
    Source(Arc<dyn TokenSource>),
}

/// Builds a [`ToolStack`].
#[must_use]
pub struct ToolStackBuilder {
    mcp: McpService,
    health_gate: Option<HealthGateConfig>,
    circuit_breaker: Option<CircuitBreakerConfig>,
    circuit_breaker_by_tool: bool,
    warm_up: Option<WarmUpConfig>,
    first_call: Option<ToolCall>,
    semaphore: Option<SemaphoreConfig>,
    token: Option<Token>,
    token_freshness: TokenFreshnessConfig,
    rate_limit: Option<RateLimitConfig>,
}

impl ToolStackBuilder {
    /// The health gate's configuration; `None` leaves it out.
    pub fn health_gate(mut self, config: impl Into<Option<HealthGateConfig>>) -> Self {
        self.health_gate = config.into();
        self
    }

    /// The circuit breaker's configuration; `None` leaves it out.
    pub fn circuit_breaker(mut self, config: impl Into<Option<CircuitBreakerConfig>>) -> Self {
        self.circuit_breaker = config.into();
        self
    }

    /// Gives each tool a circuit of its own, so that one that is broken does not shut out the others.
    /// Without this there is one for the server.
    pub fn circuit_breaker_by_tool(mut self) -> Self {
        self.circuit_breaker_by_tool = true;
        self
    }

    /// The warm-up's configuration; `None` leaves it out.
    pub fn warm_up(mut self, config: impl Into<Option<WarmUpConfig>>) -> Self {
        self.warm_up = config.into();
        self
    }

    /// A cheap call that belongs to the warm-up, for servers that do half of their start in the
    /// first one. It is made after connecting and refreshing the token, through the rate limit. Where
    /// each principal has a connection of its own, it names one.
    pub fn first_call(mut self, call: ToolCall) -> Self {
        self.first_call = Some(call);
        self
    }

    /// The semaphore's configuration; `None` leaves it out. It is fair between principals.
    pub fn semaphore(mut self, config: impl Into<Option<SemaphoreConfig>>) -> Self {
        self.semaphore = config.into();
        self
    }

    /// The rate limit's configuration; `None` leaves it out, as does not calling this.
    pub fn rate_limit(mut self, config: impl Into<Option<RateLimitConfig>>) -> Self {
        self.rate_limit = config.into();
        self
    }

    /// The server holds its own token, and has these tools to look at it and to renew it. They are
    /// called around the rate limit, because servers do not count them. Where each principal has a
    /// connection of its own there can be none: their calls name no principal.
    pub fn token_tools(mut self, tools: TokenTools) -> Self {
        self.token = Some(Token::Tools(tools));
        self
    }

    /// The token comes from `source`.
    pub fn token_source(mut self, source: impl TokenSource + 'static) -> Self {
        self.token = Some(Token::Source(Arc::new(source)));
        self
    }

    /// The token layer's configuration. It counts only with a token.
    pub fn token_freshness(mut self, config: TokenFreshnessConfig) -> Self {
        self.token_freshness = config;
        self
    }

    /// The stack. Nothing is started before the first call, or a warm-up.
    ///
    /// # Errors
    ///
    /// A first call without a warm-up that would make it. Where each principal has a connection of its
    /// own: token tools, or a first call without a principal.
    pub fn build(self) -> Result<ToolStack, ConfigError> {
        if self.first_call.is_some() && self.warm_up.is_none() {
            let allowed = "unset where there is no `warm_up`";
            return Err(ConfigError::new("first_call", "set", allowed));
        }
        self.check_principals()?;
        let layers = Layers::of(self);
        Ok(ToolStack {
            service: layers.service(),
            handles: layers.handles(),
        })
    }

    /// What would be refused whenever it is called is refused here.
    fn check_principals(&self) -> Result<(), ConfigError> {
        if !self.mcp.handle().is_per_principal() {
            return Ok(());
        }
        if matches!(self.token, Some(Token::Tools(_))) {
            let allowed = "unset where each principal has a connection of its own";
            return Err(ConfigError::new("token_tools", "set", allowed));
        }
        let nobodys = |call: &ToolCall| call.principal().is_none();
        if self.first_call.as_ref().is_some_and(nobodys) {
            let allowed = "a call with a principal where each has a connection of its own";
            return Err(ConfigError::new("first_call", "one without", allowed));
        }
        Ok(())
    }
}

impl fmt::Debug for ToolStackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolStackBuilder")
            .field("mcp", &self.mcp)
            .finish_non_exhaustive()
    }
}

/// The layers, each with its state, before they are put over each other.
struct Layers {
    mcp: McpService,
    health_gate: Option<HealthGateLayer<McpLiveness>>,
    circuit_breaker: Option<CircuitBreakerLayer<McpClassifier, ByTool>>,
    warm_up: Option<WarmUpLayer<ToolFacts>>,
    semaphore: Option<SemaphoreLayer<ToolFacts>>,
    token_freshness: Option<TokenFreshnessLayer<McpClassifier, ToolFacts>>,
    rate_limit: Option<RateLimitLayer<McpClassifier, ToolFacts>>,
}

impl Layers {
    fn of(builder: ToolStackBuilder) -> Self {
        let mcp = builder.mcp;
        let handle = mcp.handle();
        let name = handle.server();
        let by_tool = builder.circuit_breaker_by_tool;
        let circuit_breaker = builder.circuit_breaker.map(|config| {
            let layer = CircuitBreakerLayer::new(config)
                .name(name)
                .with_classifier(McpClassifier)
                .with_facts(ToolFacts::by_tool());
            if by_tool { layer.by_key() } else { layer }
        });
        let rate_limit = builder.rate_limit.map(|config| {
            RateLimitLayer::new(config)
                .name(name)
                .with_classifier(McpClassifier)
                .with_facts(ToolFacts)
        });
        // Servers do not count the calls of their token tools; the breaker should see them.
        let free = around(&mcp, None, circuit_breaker.as_ref());
        let counted = around(&mcp, rate_limit.as_ref(), circuit_breaker.as_ref());
        let token_freshness = builder.token.map(|token| {
            let config = builder.token_freshness;
            let layer = match token {
                Token::Tools(tools) => {
                    TokenFreshnessLayer::new(config, ToolTokenSource::new(free, tools))
                }
                Token::Source(source) => TokenFreshnessLayer::new(config, source),
            };
            layer
                .name(name)
                .with_classifier(McpClassifier)
                .with_facts(ToolFacts)
        });
        let token = token_freshness.as_ref().map(TokenFreshnessLayer::handle);
        let warm_up = builder.warm_up.map(|config| {
            warm_up(config, &handle, token, builder.first_call, counted)
                .name(name)
                .with_facts(ToolFacts)
        });
        let health_gate = builder.health_gate.map(|config| {
            // A server that answers is there, whatever it answers: which tools fail is for the breaker.
            HealthGateLayer::new(config, Ping(handle.clone()))
                .name(name)
                .with_classifier(McpLiveness)
        });
        let semaphore = builder.semaphore.map(|config| {
            SemaphoreLayer::new(config)
                .name(name)
                .with_facts(ToolFacts)
                .by_key()
        });
        Self {
            health_gate,
            circuit_breaker,
            warm_up,
            semaphore,
            token_freshness,
            rate_limit,
            mcp,
        }
    }

    fn service(&self) -> ToolService {
        let breaker = self.circuit_breaker.as_ref();
        let service = ServiceBuilder::new()
            .option_layer(self.health_gate.clone())
            .option_layer(breaker.map(CircuitBreakerLayer::admission))
            .option_layer(self.warm_up.clone())
            .option_layer(self.semaphore.clone())
            .option_layer(self.token_freshness.clone())
            .option_layer(self.rate_limit.clone())
            .option_layer(breaker.map(CircuitBreakerLayer::observation))
            .service(self.mcp.clone());
        ToolService::new(service)
    }

    fn handles(&self) -> Handles {
        Handles {
            mcp: self.mcp.handle(),
            health_gate: self.health_gate.as_ref().map(HealthGateLayer::handle),
            circuit_breaker: self
                .circuit_breaker
                .as_ref()
                .map(CircuitBreakerLayer::handle),
            warm_up: self.warm_up.as_ref().map(WarmUpLayer::handle),
            semaphore: self.semaphore.as_ref().map(SemaphoreLayer::handle),
            token_freshness: self
                .token_freshness
                .as_ref()
                .map(TokenFreshnessLayer::handle),
            rate_limit: self.rate_limit.as_ref().map(RateLimitLayer::handle),
        }
    }
}

/// The way that a stack's own calls go: through observation, and through the rate limit where the
/// server counts them.
fn around(
    mcp: &McpService,
    rate_limit: Option<&RateLimitLayer<McpClassifier, ToolFacts>>,
    circuit_breaker: Option<&CircuitBreakerLayer<McpClassifier, ByTool>>,
) -> ToolService {
    let service = ServiceBuilder::new()
        .option_layer(rate_limit.cloned())
        .option_layer(circuit_breaker.map(CircuitBreakerLayer::observation))
        .service(mcp.clone());
    ToolService::new(service)
}

/// Connect, then the token, then one cheap call.
fn warm_up(
    config: WarmUpConfig,
    mcp: &McpHandle,
    token: Option<TokenFreshnessHandle>,
    first_call: Option<ToolCall>,
    counted: ToolService,
) -> WarmUpLayer {
    let epoch = mcp.clone();
    let mut steps = WarmUpLayer::builder(config)
        .epoch(move || epoch.epoch())
        .step("connect", Connect::new(mcp.clone()));
    if let Some(token) = token {
        steps = steps.step("token", FreshToken(token));
    }
    if let Some(call) = first_call {
        steps = steps.step("first-call", FirstCall::new(counted, call));
    }
    match steps.build() {
        Ok(layer) => layer,
        Err(_) => unreachable!("there is a step"),
    }
}

/// A server that answers a ping is well, also where it asks for another credential or for a pause: that
/// is for the layers that know of those.
struct Ping(McpHandle);

impl Probe for Ping {
    fn probe(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async {
            match self.0.ping().await {
                Err(error) if !is_answer(&error) => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn is_dormant(&self) -> bool {
        self.0.state().dormant
    }
}

fn is_answer(error: &ToolError) -> bool {
    let outcome = error.observation().outcome;
    matches!(outcome, Outcome::Throttled { .. } | Outcome::Unauthorized)
}

/// A token that is fresh belongs to a warm server.
struct FreshToken(TokenFreshnessHandle);

impl toolweir_core::WarmUp for FreshToken {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async {
            // That there is none is the token layer's to say, to each call, with its own reason: a
            // rejected grant must not look like a server that will be warm in a moment.
            let _ = self.0.ensure_fresh(Duration::ZERO).await;
            Ok(())
        })
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use toolweir_mcp::HttpServer;
    use toolweir_testkit::mcp::{HttpFault, Posts, ScriptedServer};

    use super::*;

    #[tokio::test]
    async fn a_server_that_wants_a_credential_or_a_pause_is_well() {
        let server = ScriptedServer::new();
        let http = server.serve_http().unwrap();
        let mcp = McpService::builder("music").http(HttpServer::new(http.url()));
        let ping = Ping(mcp.build().unwrap().handle());
        ping.probe().await.unwrap();
        for (status, is_well) in [(401, true), (403, true), (429, true), (503, false)] {
            http.clear_faults()
                .fault(Posts::all(), HttpFault::status(status));
            assert_eq!(ping.probe().await.is_ok(), is_well, "{status}");
        }
    }
}
