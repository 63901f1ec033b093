//! The one way in which a layer refuses a call.

use std::{borrow::Cow, error::Error, fmt, sync::Arc, time::Duration};

use crate::{BoxError, time::told};

/// Why a layer refused a call.
///
/// Each reason has a stable word, [`Reason::as_str`], which stands in metrics, in payloads and in
/// the text of a [`Rejection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reason {
    /// The circuit is open: too many of the last calls failed.
    CircuitOpen,
    /// The circuit is half-open and all its probes are out.
    ProbesOut,
    /// An operator holds the circuit open.
    HeldOpen,
    /// The server asked for a pause, and the pause is not over.
    Throttled,
    /// An operator has paused the calls.
    Paused,
    /// All permits are taken and the queue for them is full.
    QueueFull,
    /// The longest allowed wait for a permit or a quota passed, or would pass.
    WaitTooLong,
    /// The wait could not end before the call's own deadline.
    DeadlineTooShort,
    /// The quota is spent for now.
    QuotaSpent,
    /// The call costs more than the quota can ever hold, so that no wait helps.
    CostTooHigh,
    /// The token has expired and could not be refreshed in time.
    TokenExpired,
    /// The authorisation server rejected the grant: no refresh can succeed until somebody acts.
    GrantRejected,
    /// The server failed its health probes.
    Unhealthy,
    /// The server's health is not known yet, and the policy is to refuse.
    HealthUnknown,
    /// The server could not be warmed up.
    WarmUpFailed,
    /// The call names no principal, where each has a connection of its own.
    NoPrincipal,
    /// All connections are in use, and there may be no more of them.
    ConnectionsFull,
    /// The server was lost, or failed to start, as often as is allowed: somebody must reset it.
    RestartsSpent,
    /// The server's previous process has not ended yet, and no other is started beside it.
    StillEnding,
    /// An earlier attempt of the call may have been executed, and a second execution may do harm.
    NotRepeatable,
    /// The service is shutting down.
    ShuttingDown,
}

impl Reason {
    /// The reason's stable word, in kebab case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit-open",
            Self::ProbesOut => "probes-out",
            Self::HeldOpen => "held-open",
            Self::Throttled => "throttled",
            Self::Paused => "paused",
            Self::QueueFull => "queue-full",
            Self::WaitTooLong => "wait-too-long",
            Self::DeadlineTooShort => "deadline-too-short",
            Self::QuotaSpent => "quota-spent",
            Self::CostTooHigh => "cost-too-high",
            Self::TokenExpired => "token-expired",
            Self::GrantRejected => "grant-rejected",
            Self::Unhealthy => "unhealthy",
            Self::HealthUnknown => "health-unknown",
            Self::WarmUpFailed => "warm-up-failed",
            Self::NoPrincipal => "no-principal",
            Self::ConnectionsFull => "connections-full",
            Self::RestartsSpent => "restarts-spent",
            Self::StillEnding => "still-ending",
            Self::NotRepeatable => "not-repeatable",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// Whether only a person can mend it, so that coming back later is of no use.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::GrantRejected
                | Self::CostTooHigh
                | Self::NoPrincipal
                | Self::RestartsSpent
                | Self::NotRepeatable
        )
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::CircuitOpen => "the circuit is open",
            Self::ProbesOut => "the circuit is half-open and its probes are out",
            Self::HeldOpen => "the circuit is held open by an operator",
            Self::Throttled => "the server asked for a pause",
            Self::Paused => "an operator has paused the calls",
            Self::QueueFull => "the queue is full",
            Self::WaitTooLong => "the wait would be longer than allowed",
            Self::DeadlineTooShort => "the wait could not end before the call's deadline",
            Self::QuotaSpent => "the quota is spent for now",
            Self::CostTooHigh => "the call costs more than the quota can ever hold",
            Self::TokenExpired => "the token has expired",
            Self::GrantRejected => "the grant was rejected and must be renewed by hand",
            Self::Unhealthy => "the server is unhealthy",
            Self::HealthUnknown => "the server's health is not known yet",
            Self::WarmUpFailed => "the server could not be warmed up",
            Self::NoPrincipal => "the call names no principal",
            Self::ConnectionsFull => "all connections are in use",
            Self::RestartsSpent => {
                "the server was restarted too often and is given up until a reset"
            }
            Self::StillEnding => {
                "the server's previous process has not ended, and no other is started beside it"
            }
            Self::NotRepeatable => {
                "an earlier attempt may have been executed, and a second may do harm"
            }
            Self::ShuttingDown => "the service is shutting down",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A layer's refusal of a call, before anything was sent.
///
/// It says which layer refused, why, on what key, and when to come back. A refused call was
/// surely not executed.
///
/// ```
/// use std::time::Duration;
/// use toolweir_core::{Reason, Rejection};
///
/// let rejection = Rejection::new("rate-limit", Reason::QuotaSpent)
///     .with_key("music")
///     .with_retry_after(Duration::from_millis(1500));
///
/// assert_eq!(
///     rejection.to_string(),
///     "rate-limit refused the call for \"music\": the quota is spent for now; retry after 1.5s"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    layer: &'static str,
    reason: Reason,
    key: Option<Arc<str>>,
    detail: Option<Detail>,
    retry_after: Option<Duration>,
}

/// A detail. Two that read the same are the same.
#[derive(Debug, Clone)]
enum Detail {
    Own(Cow<'static, str>),
    /// Of a layer that refuses many calls with one text.
    Shared(Arc<str>),
}

impl Detail {
    fn as_str(&self) -> &str {
        match self {
            Self::Own(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for Detail {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Detail {}

impl Rejection {
    /// A refusal by `layer`, named in kebab case as its crate is (`"rate-limit"`).
    #[must_use]
    #[inline]
    pub const fn new(layer: &'static str, reason: Reason) -> Self {
        Self {
            layer,
            reason,
            key: None,
            detail: None,
            retry_after: None,
        }
    }

    /// Names what the decision was made on: a server, a tool, a user.
    #[must_use]
    #[inline]
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds what a person would ask next, such as the text of the last error.
    #[must_use]
    #[inline]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(Detail::Own(detail.into()));
        self
    }

    /// As [`with_detail`](Self::with_detail), with a text that many rejections share. Nothing is
    /// allocated.
    #[must_use]
    #[inline]
    pub fn with_shared_detail(mut self, detail: Arc<str>) -> Self {
        self.detail = Some(Detail::Shared(detail));
        self
    }

    /// Says when a new call may succeed.
    #[must_use]
    #[inline]
    pub const fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// The layer that refused.
    #[must_use]
    pub const fn layer(&self) -> &'static str {
        self.layer
    }

    /// Why it refused.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// What the decision was made on, where the layer has keys.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// What the layer has to add.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_ref().map(Detail::as_str)
    }

    /// How long from now a new call may succeed. `None`: the layer cannot know.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused the call", self.layer)?;
        if let Some(key) = &self.key {
            write!(f, " for {key:?}")?;
        }
        write!(f, ": {}", self.reason.explanation())?;
        if let Some(detail) = &self.detail {
            write!(f, " ({})", detail.as_str())?;
        }
        if let Some(retry_after) = self.retry_after {
            write!(f, "; retry after {}", told(retry_after))?;
        }
        Ok(())
    }
}

impl Error for Rejection {}

/// Finds the refusal in an error, if it is one.
///
/// A layer's error type is its inner service's own, with `From<Rejection> + AsRejection`: the first
/// to refuse, the second to tell a refusal of an inner layer from a failure. An error type of your
/// own implements both in a few lines; a foreign one enters by `.map_err(BoxError::from)`.
///
/// ```
/// use toolweir_core::{AsRejection, Rejection};
///
/// #[derive(Debug)]
/// enum SyncError {
///     Refused(Rejection),
///     Failed(std::io::Error),
/// }
///
/// impl From<Rejection> for SyncError {
///     fn from(rejection: Rejection) -> Self {
///         Self::Refused(rejection)
///     }
/// }
///
/// impl AsRejection for SyncError {
///     fn as_rejection(&self) -> Option<&Rejection> {
///         match self {
///             Self::Refused(rejection) => Some(rejection),
///             Self::Failed(_) => None,
///         }
///     }
/// }
/// ```
pub trait AsRejection {
    /// The refusal, or `None` where the call was made and failed.
    fn as_rejection(&self) -> Option<&Rejection>;
}

impl AsRejection for Rejection {
    fn as_rejection(&self) -> Option<&Rejection> {
        Some(self)
    }
}

/// Walks [`Error::source`], so an error that wraps a rejection must return it there.
impl AsRejection for BoxError {
    fn as_rejection(&self) -> Option<&Rejection> {
        let first: &(dyn Error + 'static) = self.as_ref();
        // A chain of sources may be built by hand, and so be a loop: bound the walk.
        std::iter::successors(Some(first), |&error| error.source())
            .take(64)
            .find_map(|error| error.downcast_ref())
    }
}

impl AsRejection for std::convert::Infallible {
    fn as_rejection(&self) -> Option<&Rejection> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wraps(Rejection);

    impl fmt::Display for Wraps {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl Error for Wraps {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_box_error_finds_the_rejection_that_it_is() {
        let error = BoxError::from(Rejection::new("semaphore", Reason::QueueFull));
        assert_eq!(
            error.as_rejection().map(Rejection::reason),
            Some(Reason::QueueFull)
        );
    }

    #[test]
    fn a_box_error_finds_a_wrapped_rejection() {
        let error = BoxError::from(Wraps(Rejection::new("semaphore", Reason::QueueFull)));
        assert!(error.as_rejection().is_some());
    }

    #[test]
    fn a_foreign_error_is_no_rejection() {
        assert!(BoxError::from("broken pipe").as_rejection().is_none());
    }

    #[test]
    fn the_text_names_layer_key_reason_detail_and_time() {
        let text = Rejection::new("circuit-breaker", Reason::CircuitOpen)
            .with_key("music")
            .with_detail("connection reset")
            .with_retry_after(Duration::from_secs(3))
            .to_string();
        assert_eq!(
            text,
            "circuit-breaker refused the call for \"music\": the circuit is open \
             (connection reset); retry after 3s"
        );
    }

    #[test]
    fn a_shared_detail_reads_as_one_of_its_own() {
        let rejection = Rejection::new("circuit-breaker", Reason::HeldOpen);
        let shared = rejection.clone().with_shared_detail("migration".into());
        assert_eq!(shared.detail(), Some("migration"));
        assert_eq!(shared, rejection.clone().with_detail("migration"));
        assert_ne!(shared, rejection.with_detail("outage"));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn the_serialised_word_is_the_stable_word() {
        for reason in [
            Reason::CircuitOpen,
            Reason::GrantRejected,
            Reason::ProbesOut,
        ] {
            assert_eq!(
                serde_json::to_value(reason).unwrap(),
                serde_json::Value::from(reason.as_str())
            );
        }
    }
}
