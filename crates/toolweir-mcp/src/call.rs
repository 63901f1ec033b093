//! The request: one call of one tool.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use rmcp::model::{CallToolRequestParams, RequestMetaObject};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::{sync::watch, time::Instant};
use toolweir_core::{CarryLease, Delivery, Facts, Lease, LeaseOwner, LeaseSlot};

use crate::Progress;

/// The key in a request's `_meta` that names the effect meant.
pub const IDEMPOTENCY_KEY_META: &str = "toolweir/idempotency-key";

/// The key in a request's `_meta` that names on whose behalf the call is made, where
/// [`send_principal`](crate::McpServiceBuilder::send_principal) says that the server is to know.
pub const PRINCIPAL_META: &str = "toolweir/principal";

/// The key that the W3C Trace Context specification gives the caller's position in a trace.
const TRACEPARENT_META: &str = "traceparent";

/// As [`TRACEPARENT_META`], for what vendors add to it.
const TRACESTATE_META: &str = "tracestate";

/// Which of a call's marks reach the server in `_meta`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) idempotency_key: bool,
    pub(crate) principal: bool,
    pub(crate) trace_context: bool,
}

/// One call of one tool.
///
/// A clone is a reference count, whatever the arguments weigh. A clone carries no breaker's lease.
///
/// ```
/// use std::time::Duration;
/// use toolweir_mcp::ToolCall;
///
/// let call = ToolCall::new("add_to_playlist")
///     .try_arguments(&serde_json::json!({ "playlist": "anna", "track_id": "t1" }))?
///     .with_idempotency_key("anna/t1")
///     .with_timeout(Duration::from_secs(5));
/// assert_eq!(call.tool(), "add_to_playlist");
/// # Ok::<(), toolweir_mcp::ArgumentsError>(())
/// ```
#[derive(Clone)]
pub struct ToolCall {
    parts: Arc<Parts>,
    leases: LeaseSlot,
}

#[derive(Clone)]
struct Parts {
    tool: Arc<str>,
    arguments: Map<String, Value>,
    deadline: Option<Instant>,
    timeout: Option<Duration>,
    principal: Option<Arc<str>>,
    call_id: Option<Arc<str>>,
    idempotency_key: Option<Arc<str>>,
    traceparent: Option<Arc<str>>,
    tracestate: Option<Arc<str>>,
    idle_timeout: Option<Duration>,
    progress: Option<watch::Sender<Option<Progress>>>,
    earlier_attempt: Option<Delivery>,
}

impl ToolCall {
    /// A call of `tool` without arguments.
    #[must_use]
    pub fn new(tool: impl Into<Arc<str>>) -> Self {
        Self {
            parts: Arc::new(Parts {
                tool: tool.into(),
                arguments: Map::new(),
                deadline: None,
                timeout: None,
                principal: None,
                call_id: None,
                idempotency_key: None,
                traceparent: None,
                tracestate: None,
                idle_timeout: None,
                progress: None,
                earlier_attempt: None,
            }),
            leases: LeaseSlot::new(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.parts));
        self
    }

    /// The tool's arguments.
    #[must_use]
    pub fn with_arguments(self, arguments: Map<String, Value>) -> Self {
        self.with(|parts| parts.arguments = arguments)
    }

    /// The tool's arguments, from anything that serialises to a JSON object.
    ///
    /// # Errors
    ///
    /// It does not serialise, or not to an object.
    pub fn try_arguments(self, arguments: &impl Serialize) -> Result<Self, ArgumentsError> {
        let wrong = |source| ArgumentsError {
            tool: self.parts.tool.clone(),
            source,
        };
        let value = serde_json::to_value(arguments).map_err(wrong)?;
        let arguments = serde_json::from_value(value).map_err(wrong)?;
        Ok(self.with_arguments(arguments))
    }

    /// When the caller stops waiting. The earlier of this and the timeout holds.
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        self.with(|parts| parts.deadline = Some(deadline))
    }

    /// How long the tool may take, from dispatch. The service's own timeout holds where this is
    /// not set.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        self.with(|parts| parts.timeout = Some(timeout))
    }

    /// On whose behalf the call is made: a name, never a secret. The server is not told, unless
    /// [`send_principal`](crate::McpServiceBuilder::send_principal) says so.
    #[must_use]
    pub fn with_principal(self, principal: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.principal = Some(principal.into()))
    }

    /// Which call this is: the same for each of its attempts, and no other call's.
    #[must_use]
    pub fn with_call_id(self, call_id: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.call_id = Some(call_id.into()))
    }

    /// Which effect is meant. The same for every attempt.
    #[must_use]
    pub fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.idempotency_key = Some(key.into()))
    }

    /// The caller's position in a trace, as a W3C `traceparent`.
    #[must_use]
    pub fn with_traceparent(self, traceparent: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.traceparent = Some(traceparent.into()))
    }

    /// What vendors add to the position in a trace, as a W3C `tracestate`.
    #[must_use]
    pub fn with_tracestate(self, tracestate: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.tracestate = Some(tracestate.into()))
    }

    /// How long the tool may be silent. Progress that it reports begins this time anew; deadline and
    /// timeout hold all the same. The service's own holds where this is not set.
    #[must_use]
    pub fn with_idle_timeout(self, timeout: Duration) -> Self {
        self.with(|parts| parts.idle_timeout = Some(timeout))
    }

    /// Where the tool's progress goes. The last report is kept, however slowly it is read.
    ///
    /// ```
    /// use tokio::sync::watch;
    /// use toolweir_mcp::ToolCall;
    ///
    /// let (progress, reports) = watch::channel(None);
    /// let call = ToolCall::new("sync_playlist").with_progress(progress);
    /// // `reports` can be read, or waited on, while the call is under way.
    /// assert_eq!(*reports.borrow(), None);
    /// # drop(call);
    /// ```
    #[must_use]
    pub fn with_progress(self, progress: watch::Sender<Option<Progress>>) -> Self {
        self.with(|parts| parts.progress = Some(progress))
    }

    /// That the call was made before, by somebody who did not learn how it ended, and whether it reached
    /// the server. It is sent where [`may_repeat`](crate::may_repeat) says so, and is else refused with
    /// the reason [`NotRepeatable`](toolweir_core::Reason::NotRepeatable). Only here it is known: what the
    /// server says of its tools may have come with the connection that this call has made.
    ///
    /// Who repeats a call whose end is known asks `may_repeat` itself, and does not need this.
    #[must_use]
    pub fn with_earlier_attempt(self, delivery: Delivery) -> Self {
        self.with(|parts| parts.earlier_attempt = Some(delivery))
    }

    /// The tool's name.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.parts.tool
    }

    /// The tool's arguments.
    #[must_use]
    pub fn arguments(&self) -> &Map<String, Value> {
        &self.parts.arguments
    }

    pub(crate) fn shared_tool(&self) -> &Arc<str> {
        &self.parts.tool
    }

    /// When the caller stops waiting.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.parts.deadline
    }

    /// How long the tool may take.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.parts.timeout
    }

    /// How long the tool may be silent.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.parts.idle_timeout
    }

    pub(crate) fn progress(&self) -> Option<&watch::Sender<Option<Progress>>> {
        self.parts.progress.as_ref()
    }

    /// On whose behalf the call is made.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.parts.principal.as_deref()
    }

    /// Which call this is: the same for each of its attempts, and no other call's.
    #[must_use]
    pub fn call_id(&self) -> Option<&str> {
        self.parts.call_id.as_deref()
    }

    /// Which effect is meant.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.parts.idempotency_key.as_deref()
    }

    /// Whether an earlier attempt of it reached the server, if there was one whose end nobody knows.
    #[must_use]
    pub fn earlier_attempt(&self) -> Option<Delivery> {
        self.parts.earlier_attempt
    }

    /// The request as rmcp sends it. One that is not sent `again` takes the arguments with it, where
    /// no clone of the call needs them.
    pub(crate) fn params(&mut self, marks: Marks, again: bool) -> CallToolRequestParams {
        let arguments = match Arc::get_mut(&mut self.parts) {
            Some(parts) if !again => std::mem::take(&mut parts.arguments),
            _ => self.parts.arguments.clone(),
        };
        let parts = &*self.parts;
        let mut params = CallToolRequestParams::new(parts.tool.to_string());
        params.arguments = (!arguments.is_empty()).then_some(arguments);
        let mut meta = RequestMetaObject::new();
        for (key, value, sent) in [
            (
                IDEMPOTENCY_KEY_META,
                &parts.idempotency_key,
                marks.idempotency_key,
            ),
            (PRINCIPAL_META, &parts.principal, marks.principal),
            (TRACEPARENT_META, &parts.traceparent, marks.trace_context),
            (TRACESTATE_META, &parts.tracestate, marks.trace_context),
        ] {
            if let Some(value) = value.as_ref().filter(|_| sent) {
                meta.0.insert(key.to_owned(), Value::from(&**value));
            }
        }
        params.meta = (!meta.0.is_empty()).then_some(meta);
        params
    }
}

/// Arguments may be private: they are counted, not shown.
impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall")
            .field("tool", &self.parts.tool)
            .field("arguments", &self.parts.arguments.len())
            .field("call_id", &self.parts.call_id)
            .field("leases", &self.leases)
            .finish_non_exhaustive()
    }
}

impl CarryLease for ToolCall {
    fn put_lease(&mut self, lease: Lease) {
        self.leases.put_lease(lease);
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        self.leases.take_lease(owner)
    }
}

/// What the layers may know of a [`ToolCall`]. Its key is the principal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToolFacts;

impl ToolFacts {
    /// The same, but the key is the tool: for a layer that keeps tools apart rather than users.
    #[must_use]
    pub const fn by_tool() -> ByTool {
        ByTool
    }
}

/// What the layers may know of a [`ToolCall`]. Its key is the tool. From
/// [`ToolFacts::by_tool`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByTool;

impl Facts<ToolCall> for ByTool {
    fn deadline(&self, call: &ToolCall) -> Option<Instant> {
        ToolFacts.deadline(call)
    }

    fn key<'r>(&self, call: &'r ToolCall) -> Option<&'r str> {
        Some(call.tool())
    }

    fn call_id<'r>(&self, call: &'r ToolCall) -> Option<&'r str> {
        ToolFacts.call_id(call)
    }
}

impl Facts<ToolCall> for ToolFacts {
    fn deadline(&self, call: &ToolCall) -> Option<Instant> {
        call.deadline()
    }

    fn key<'r>(&self, call: &'r ToolCall) -> Option<&'r str> {
        call.principal()
    }

    fn call_id<'r>(&self, call: &'r ToolCall) -> Option<&'r str> {
        call.call_id()
    }
}

/// Arguments that are not a JSON object.
#[derive(Debug)]
pub struct ArgumentsError {
    tool: Arc<str>,
    source: serde_json::Error,
}

impl fmt::Display for ArgumentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the arguments for tool {:?} are not a JSON object",
            self.tool
        )
    }
}

impl Error for ArgumentsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clone_shares_its_parts() {
        let call = ToolCall::new("search");
        assert!(Arc::ptr_eq(&call.parts, &call.clone().parts));
    }

    #[test]
    fn the_key_is_the_principal_or_the_tool() {
        let call = ToolCall::new("search")
            .with_principal("anna")
            .with_call_id("c1");
        assert_eq!(ToolFacts.key(&call), Some("anna"));
        assert_eq!(ToolFacts::by_tool().key(&call), Some("search"));
        assert_eq!(ToolFacts::by_tool().call_id(&call), Some("c1"));
        let deadline = Instant::now();
        let call = call.with_deadline(deadline);
        assert_eq!(ToolFacts::by_tool().deadline(&call), Some(deadline));
    }

    #[test]
    fn changing_a_clone_leaves_the_first_alone() {
        let call = ToolCall::new("search");
        let keyed = call.clone().with_idempotency_key("k");
        assert_eq!(
            (call.idempotency_key(), keyed.idempotency_key()),
            (None, Some("k"))
        );
    }

    #[test]
    fn debug_does_not_show_arguments() {
        let call = ToolCall::new("login").try_arguments(&json!({ "password": "hunter2" }));
        assert!(!format!("{:?}", call.unwrap()).contains("hunter2"));
    }

    #[test]
    fn arguments_must_be_an_object() {
        let error = ToolCall::new("search").try_arguments(&[1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the arguments for tool \"search\" are not a JSON object"
        );
        assert!(error.source().is_some());
    }

    const ALL: Marks = Marks {
        idempotency_key: true,
        principal: true,
        trace_context: true,
    };

    fn sent(call: &ToolCall, marks: Marks) -> Value {
        serde_json::to_value(call.clone().params(marks, false)).unwrap()
    }

    #[test]
    fn what_is_not_set_is_not_sent() {
        assert_eq!(
            sent(&ToolCall::new("search"), ALL),
            json!({ "name": "search" })
        );
        let keyed = ToolCall::new("search").with_idempotency_key("k");
        assert_eq!(
            sent(&keyed, ALL)["_meta"],
            json!({ "toolweir/idempotency-key": "k" })
        );
    }

    #[test]
    fn each_mark_is_sent_or_not() {
        let call = ToolCall::new("search")
            .with_idempotency_key("k")
            .with_principal("anna")
            .with_traceparent("p")
            .with_tracestate("s");
        let none = Marks {
            idempotency_key: false,
            principal: false,
            trace_context: false,
        };
        assert_eq!(sent(&call, none), json!({ "name": "search" }));
        for (marks, expected) in [
            (
                Marks {
                    idempotency_key: true,
                    ..none
                },
                json!({ "toolweir/idempotency-key": "k" }),
            ),
            (
                Marks {
                    principal: true,
                    ..none
                },
                json!({ "toolweir/principal": "anna" }),
            ),
            (
                Marks {
                    trace_context: true,
                    ..none
                },
                json!({ "traceparent": "p", "tracestate": "s" }),
            ),
        ] {
            assert_eq!(sent(&call, marks)["_meta"], expected);
        }
    }
}
