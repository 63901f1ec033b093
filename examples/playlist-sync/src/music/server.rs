//! The MCP side: tools, and what stands before them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, RequestMetaObject,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, Json, RoleServer, ServerHandler, tool, tool_handler, tool_router};
use tokio::time::{Instant, sleep};

use super::catalogue::Catalogue;
use super::clock::WallClock;
use super::journal::{AddRequest, CallOutcome, Journal, JournalError, Record};
use super::messages::{
    AddArguments, AddedToPlaylist, Found, MAX_KEY_BYTES, NoArguments, Profile, Refreshed, Refusal,
    SearchArguments, TokenStatus, bounded,
};
use super::quota::Quota;
use super::token::Token;
use super::{IDEMPOTENCY_KEY_META, PRINCIPAL_META};
use crate::playlist::MAX_FIELD_BYTES;

/// The tools that cost no quota and work with an expired token.
const FREE_TOOLS: [&str; 2] = ["token_status", "refresh_token"];

/// How much of a name a client made up is written down.
const MAX_NOTED_CHARS: usize = 100;

/// What a [`MusicServer`] is made of.
#[derive(Debug)]
pub struct Service {
    /// The tracks it has.
    pub catalogue: Catalogue,
    /// Where it writes.
    pub journal: Arc<Journal>,
    /// How many calls it takes.
    pub quota: Quota,
    /// What calls are taken with.
    pub token: Token,
    /// How long a call takes that is not refused.
    pub latency: Duration,
    /// The time of day for records.
    pub clock: WallClock,
}

/// The handler of a connection. Clones are one server.
#[derive(Clone)]
pub struct MusicServer {
    state: Arc<State>,
    router: ToolRouter<Self>,
}

struct State {
    catalogue: Catalogue,
    journal: Arc<Journal>,
    quota: Mutex<Quota>,
    token: Mutex<Token>,
    latency: Duration,
    clock: WallClock,
    next_call: AtomicU64,
}

impl fmt::Debug for MusicServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tracks = self.state.catalogue.len();
        f.debug_struct("MusicServer")
            .field("tracks", &tracks)
            .finish_non_exhaustive()
    }
}

#[tool_router]
impl MusicServer {
    /// A server on an open journal.
    #[must_use]
    pub fn new(service: Service) -> Self {
        let Service {
            catalogue,
            journal,
            quota,
            token,
            latency,
            clock,
        } = service;
        let (quota, token) = (Mutex::new(quota), Mutex::new(token));
        let next_call = AtomicU64::new(1);
        let state = State {
            catalogue,
            journal,
            quota,
            token,
            latency,
            clock,
            next_call,
        };
        Self {
            state: Arc::new(state),
            router: Self::tool_router(),
        }
    }

    /// Looks for a track by words of its names, by artist and title, or by ISRC. A track that is
    /// not in the catalogue is answered with found: false.
    #[tool(annotations(title = "Find a track", read_only_hint = true, open_world_hint = false))]
    async fn search(
        &self,
        Parameters(arguments): Parameters<SearchArguments>,
    ) -> Result<Json<Found>, Refusal> {
        let query = arguments.into_query()?;
        Ok(Json(self.state.catalogue.search(&query).into()))
    }

    /// Puts a track at the end of a playlist, once: a track that is there already stays where it
    /// is. With an idempotency key (in _meta under toolweir/idempotency-key, or as an argument) a
    /// repeated call gets the answer of the first, with replayed: true.
    #[tool(annotations(
        title = "Add a track to a playlist",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn add_to_playlist(
        &self,
        Parameters(arguments): Parameters<AddArguments>,
        meta: RequestMetaObject,
    ) -> Result<Json<AddedToPlaylist>, Refusal> {
        let request = add_request(arguments, &meta)?;
        if self.state.catalogue.get(&request.track_id).is_none() {
            return Err(Refusal::unknown_track(&request.track_id));
        }
        let at_ms = self.state.clock.now_ms();
        let added = self
            .on_disk(move |journal| journal.add(request, at_ms))
            .await?;
        Ok(Json(added.into()))
    }

    /// Says who calls and how much there is in the playlists.
    #[tool(annotations(
        title = "Show the user",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn user_profile(
        &self,
        Parameters(NoArguments {}): Parameters<NoArguments>,
        meta: RequestMetaObject,
    ) -> Result<Json<Profile>, Refusal> {
        let (playlists, tracks) = self.on_disk(Journal::sizes).await?;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (playlists, tracks) = (count(playlists), count(tracks));
        Ok(Json(Profile {
            user: principal(&meta),
            playlists,
            tracks,
        }))
    }

    /// Says whether the access token is valid and for how long. Costs no quota.
    #[tool(annotations(
        title = "Check the token",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn token_status(
        &self,
        Parameters(NoArguments {}): Parameters<NoArguments>,
    ) -> Json<TokenStatus> {
        let now = Instant::now();
        let token = self.token();
        let expires_in_ms = whole_ms(token.expires_in(now));
        let (valid, generation) = (token.is_valid(now), token.generation());
        Json(TokenStatus {
            valid,
            expires_in_ms,
            generation,
        })
    }

    /// Renews the access token. Costs no quota and works when the token has expired.
    #[tool(annotations(
        title = "Renew the token",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn refresh_token(
        &self,
        Parameters(NoArguments {}): Parameters<NoArguments>,
    ) -> Result<Json<Refreshed>, Refusal> {
        let refreshed = {
            let now = Instant::now();
            let mut token = self.token();
            token.refresh(now);
            let expires_in_ms = whole_ms(token.expires_in(now));
            Refreshed {
                expires_in_ms,
                generation: token.generation(),
            }
        };
        let at_ms = self.state.clock.now_ms();
        let record = Record::Refresh {
            generation: refreshed.generation,
            at_ms,
        };
        self.on_disk(move |journal| journal.note(&record)).await?;
        Ok(Json(refreshed))
    }
}

#[tool_handler(
    router = self.router,
    name = "music-server",
    instructions = "A music service. Find tracks with search, collect them with add_to_playlist."
)]
impl ServerHandler for MusicServer {
    /// Every call is written down as it comes in and as it ends.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let started = Instant::now();
        let id = self.state.next_call.fetch_add(1, Ordering::Relaxed);
        let record = Record::Call {
            id,
            tool: noted(&request.name),
            principal: principal(&context.meta),
            at_ms: self.state.clock.now_ms(),
        };
        let ended = match self.on_disk(move |journal| journal.note(&record)).await {
            Ok(()) => self.answer(request, context).await,
            Err(refusal) => Ended::Answered(refusal.into()),
        };
        let (outcome, result) = ended.into_result();
        let record = Record::Answer {
            id,
            outcome,
            duration_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            replayed: is_replayed(&result),
        };
        if let Err(refusal) = self.on_disk(move |journal| journal.note(&record)).await {
            tracing::warn!(
                call = id,
                error = refusal.message,
                "an answer is not on record"
            );
        }
        Ok(result.into())
    }
}

impl MusicServer {
    /// Takes a call or refuses it, and lets a tool answer.
    async fn answer(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Ended {
        if let Err(refusal) = self.admit(&request.name) {
            return Ended::Answered(refusal.into());
        }
        // Until here a call can be taken back. Once a tool is at work it is brought to its end,
        // so that the record tells what has happened.
        tokio::select! {
            biased;
            () = context.ct.cancelled() => return Ended::Cancelled,
            () = sleep(self.state.latency) => {}
        }
        let call = ToolCallContext::new(self, request, context);
        match self.router.call(call).await {
            Ok(CallToolResponse::Complete(result)) => Ended::Answered(with_status(result)),
            Ok(_) => Ended::Answered(Refusal::internal("a tool gave no plain answer").into()),
            Err(error) => Ended::Answered(Refusal::bad_arguments(&error.message).into()),
        }
    }

    /// What is refused at once: unknown tools, expired tokens, calls over quota. Only a call that
    /// passes the rest costs quota.
    fn admit(&self, tool: &str) -> Result<(), Refusal> {
        if !self.router.has_route(tool) {
            return Err(Refusal::unknown_tool(&noted(tool)));
        }
        if FREE_TOOLS.contains(&tool) {
            return Ok(());
        }
        let now = Instant::now();
        if !self.token().is_valid(now) {
            return Err(Refusal::token_expired());
        }
        let mut quota = self
            .state
            .quota
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        quota.take(now).map_err(Refusal::rate_limited)
    }

    /// Does something with the journal where blocking is allowed.
    async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let journal = Arc::clone(&self.state.journal);
        match tokio::task::spawn_blocking(move || act(&journal)).await {
            Ok(result) => result.map_err(Refusal::from),
            Err(_) => Err(Refusal::internal("the journal's task ended early")),
        }
    }

    fn token(&self) -> std::sync::MutexGuard<'_, Token> {
        self.state
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call ended.
enum Ended {
    Answered(CallToolResult),
    /// Before it took effect; nobody reads the answer.
    Cancelled,
}

impl Ended {
    fn into_result(self) -> (CallOutcome, CallToolResult) {
        match self {
            Self::Answered(result) => (outcome(&result), result),
            Self::Cancelled => {
                let text = ContentBlock::text("the call was cancelled");
                (CallOutcome::Cancelled, CallToolResult::error(vec![text]))
            }
        }
    }
}

fn outcome(result: &CallToolResult) -> CallOutcome {
    if result.is_error != Some(true) {
        return CallOutcome::Ok;
    }
    match field(result, "status").and_then(serde_json::Value::as_u64) {
        Some(429) => CallOutcome::Throttled,
        Some(401) => CallOutcome::Unauthorised,
        _ => CallOutcome::Error,
    }
}

fn is_replayed(result: &CallToolResult) -> bool {
    field(result, "replayed")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(false)
}

fn field<'a>(result: &'a CallToolResult, name: &str) -> Option<&'a serde_json::Value> {
    result.structured_content.as_ref()?.get(name)
}

/// An error without a status is the router's, of arguments that do not fit the tool.
fn with_status(result: CallToolResult) -> CallToolResult {
    if result.is_error != Some(true) || result.structured_content.is_some() {
        return result;
    }
    let text = result.content.first().and_then(|block| block.as_text());
    let what = text.map_or("the arguments do not fit the tool", |text| {
        text.text.as_str()
    });
    Refusal::bad_arguments(what).into()
}

fn add_request(arguments: AddArguments, meta: &RequestMetaObject) -> Result<AddRequest, Refusal> {
    let AddArguments {
        playlist,
        track_id,
        idempotency_key,
    } = arguments;
    let in_meta = match meta.get(IDEMPOTENCY_KEY_META) {
        None => None,
        Some(serde_json::Value::String(key)) => Some(key.clone()),
        Some(_) => {
            let what = format!("{IDEMPOTENCY_KEY_META} in _meta is no text");
            return Err(Refusal::bad_arguments(&what));
        }
    };
    let key = match (in_meta, idempotency_key) {
        (Some(one), Some(other)) if one != other => {
            let what = format!("idempotency_key and {IDEMPOTENCY_KEY_META} in _meta differ");
            return Err(Refusal::bad_arguments(&what));
        }
        (in_meta, argument) => in_meta.or(argument),
    };
    Ok(AddRequest {
        playlist: bounded("playlist", playlist, MAX_FIELD_BYTES)?,
        track_id: bounded("track_id", track_id, MAX_KEY_BYTES)?,
        key: key
            .map(|key| bounded("the idempotency key", key, MAX_KEY_BYTES))
            .transpose()?,
    })
}

fn principal(meta: &RequestMetaObject) -> Option<String> {
    meta.get(PRINCIPAL_META)?.as_str().map(noted)
}

fn noted(text: &str) -> String {
    text.chars().take(MAX_NOTED_CHARS).collect()
}

/// Rounded down: a token is not valid for longer than it says.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
