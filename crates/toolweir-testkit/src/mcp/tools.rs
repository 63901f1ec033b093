//! The tools, each as it answers by itself.

use std::future::pending;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ErrorCode, JsonObject, ProgressNotificationParam, RequestMetaObject,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::IDEMPOTENCY_KEY_META;
use super::handler::{Connection, big, count, wait};
use super::refusal;

#[derive(Debug, Deserialize, JsonSchema)]
struct ThrottleArguments {
    /// When to come back.
    #[serde(default = "one_second")]
    retry_after_ms: u64,
}

fn one_second() -> u64 {
    1000
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SleepArguments {
    /// How long.
    ms: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ProgressArguments {
    /// How many notifications.
    steps: u32,
    /// The time before each.
    every_ms: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ErrorArguments {
    /// The JSON-RPC code.
    code: i32,
    /// What it says.
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct BigArguments {
    /// How many letters.
    bytes: usize,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AddArguments {
    /// What is added to.
    key: String,
}

#[tool_router(router = tool_router)]
impl Connection {
    /// Answers with its arguments.
    #[tool(annotations(read_only_hint = true))]
    async fn echo(&self, Parameters(arguments): Parameters<JsonObject>) -> CallToolResult {
        CallToolResult::structured(Value::Object(arguments))
    }

    /// Answers with the call's metadata.
    #[tool(annotations(read_only_hint = true))]
    async fn meta(&self, meta: RequestMetaObject) -> CallToolResult {
        let meta = serde_json::to_value(meta).unwrap_or(Value::Null);
        CallToolResult::structured(meta)
    }

    /// Fails.
    #[tool]
    async fn fail(&self) -> CallToolResult {
        refusal::fail()
    }

    /// Is over its rate limit, and says so in structure.
    #[tool(name = "throttle")]
    async fn throttle_tool(
        &self,
        Parameters(arguments): Parameters<ThrottleArguments>,
    ) -> CallToolResult {
        self.throttle(arguments.retry_after_ms)
    }

    /// Is over its rate limit, and says so in a text.
    #[tool(name = "text_throttle")]
    async fn text_throttle_tool(&self) -> CallToolResult {
        self.text_throttle()
    }

    /// Never answers.
    #[tool]
    async fn hang(&self) -> CallToolResult {
        pending().await
    }

    /// Answers after a time.
    #[tool]
    async fn sleep(&self, Parameters(arguments): Parameters<SleepArguments>) -> CallToolResult {
        wait(Duration::from_millis(arguments.ms)).await;
        CallToolResult::structured(json!({ "slept_ms": arguments.ms }))
    }

    /// Says how far it is, if it was asked to.
    #[tool]
    async fn progress(
        &self,
        Parameters(arguments): Parameters<ProgressArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        let token = context.meta.get_progress_token();
        for step in 1..=arguments.steps {
            sleep(Duration::from_millis(arguments.every_ms)).await;
            let Some(token) = token.clone() else { continue };
            let progress = ProgressNotificationParam::new(token, f64::from(step))
                .with_total(f64::from(arguments.steps));
            // It fails only when the connection ends, and then so does this call.
            let _ = context.peer.notify_progress(progress).await;
        }
        let (steps, reported) = (arguments.steps, token.is_some());
        CallToolResult::structured(json!({ "steps": steps, "reported": reported }))
    }

    /// Answers with a protocol error.
    #[tool]
    async fn error(
        &self,
        Parameters(arguments): Parameters<ErrorArguments>,
    ) -> Result<CallToolResult, ErrorData> {
        let ErrorArguments { code, message } = arguments;
        Err(ErrorData::new(ErrorCode(code), message, None))
    }

    /// Ends the server.
    #[tool(name = "die")]
    async fn die_tool(&self) -> CallToolResult {
        self.die().await
    }

    /// Answers with a text.
    #[tool(name = "big", annotations(read_only_hint = true))]
    async fn big_tool(&self, Parameters(arguments): Parameters<BigArguments>) -> CallToolResult {
        big(arguments.bytes)
    }

    /// Has an effect, once per idempotency key.
    #[tool(annotations(idempotent_hint = true))]
    async fn add(
        &self,
        Parameters(arguments): Parameters<AddArguments>,
        meta: RequestMetaObject,
    ) -> CallToolResult {
        let key = arguments.key;
        let idempotency_key = meta.get(IDEMPOTENCY_KEY_META).and_then(Value::as_str);
        let mut applied = true;
        self.state.record(|stats| {
            if let Some(idempotency_key) = idempotency_key {
                applied = !stats.idempotency_keys.contains_key(idempotency_key);
                count(&mut stats.idempotency_keys, idempotency_key);
            }
            if applied {
                count(&mut stats.effects, &key);
            }
        });
        CallToolResult::structured(json!({ "key": key, "applied": applied }))
    }

    /// Works while the token is valid.
    #[tool]
    async fn guarded(&self) -> CallToolResult {
        let (valid, generation) = {
            let script = self.state.script();
            let valid = script.token.is_valid(Instant::now());
            (valid, script.token.generation())
        };
        if !valid {
            return self.unauthorised();
        }
        CallToolResult::structured(json!({ "generation": generation }))
    }

    /// Says how long the token lives.
    #[tool(annotations(read_only_hint = true))]
    async fn token_status(&self) -> CallToolResult {
        let now = Instant::now();
        let (valid, expires_in_ms) = {
            let script = self.state.script();
            (script.token.is_valid(now), script.token.expires_in_ms(now))
        };
        CallToolResult::structured(json!({ "valid": valid, "expires_in_ms": expires_in_ms }))
    }

    /// Renews the token.
    #[tool]
    async fn refresh_token(&self) -> CallToolResult {
        let delay = self.state.script().refresh_delay;
        wait(delay).await;
        let refreshed = {
            let mut script = self.state.script();
            let now = Instant::now();
            (!script.reject_refresh).then(|| {
                script.token.refresh(now);
                (script.token.expires_in_ms(now), script.token.generation())
            })
        };
        let Some((expires_in_ms, generation)) = refreshed else {
            self.state.record(|stats| stats.rejected_refreshes += 1);
            return refusal::invalid_grant();
        };
        self.state.record(|stats| stats.refreshes += 1);
        let token = json!({ "expires_in_ms": expires_in_ms, "generation": generation });
        CallToolResult::structured(token)
    }

    /// Says what the server has seen.
    #[tool(annotations(read_only_hint = true))]
    async fn stats(&self) -> CallToolResult {
        let stats = serde_json::to_value(self.state.stats()).unwrap_or(Value::Null);
        CallToolResult::structured(stats)
    }
}

impl Connection {
    pub(super) fn tools() -> ToolRouter<Self> {
        Self::tool_router()
    }
}
