//! What stands beside a service in a registry: traits that the layers' handles implement.
//!
//! All are object-safe, so that an entry can hold what its stack has and leave out the rest.

use std::{borrow::Cow, future::Future, pin::Pin, time::Duration};

use crate::{BoxError, Rejection};

/// A future behind a pointer, for traits that must be object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a layer says of itself: would it let a call through now?
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct StateReport {
    /// The layer's name, as in its rejections.
    pub layer: Cow<'static, str>,
    /// Whether a call made now would pass this layer.
    pub ready: bool,
    /// Why not, in one sentence.
    pub reason: Option<String>,
    /// In how many milliseconds a call may pass, where that is known.
    pub retry_after_ms: Option<u64>,
}

impl StateReport {
    /// A layer that lets calls through.
    #[must_use]
    pub fn ready(layer: &'static str) -> Self {
        Self {
            layer: layer.into(),
            ready: true,
            reason: None,
            retry_after_ms: None,
        }
    }

    /// A layer that would answer with `rejection`.
    #[must_use]
    pub fn refusing(rejection: &Rejection) -> Self {
        Self {
            layer: rejection.layer().into(),
            ready: false,
            reason: Some(rejection.to_string()),
            retry_after_ms: rejection.retry_after().map(crate::time::millis_ceil),
        }
    }
}

/// Reads a layer's state without changing it.
pub trait ReportState: Send + Sync {
    /// Whether a call made now would pass, and if not why and until when. Never waits.
    fn report(&self) -> StateReport;
}

/// What is known of a server's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Health {
    /// Not probed yet.
    Unknown,
    /// The last probes succeeded.
    Healthy,
    /// The last probes failed.
    Unhealthy,
    /// Stopped because nobody called it. The next call starts it.
    Dormant,
}

/// The answer to a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HealthReport {
    /// What is known.
    pub health: Health,
    /// Whether calls should be made.
    pub is_healthy: bool,
    /// How long the last probe took.
    pub latency_ms: Option<u64>,
    /// What the last failed probe said.
    pub error: Option<String>,
    /// A stable word for the kind of that error.
    pub error_type: Option<String>,
    /// How old the knowledge is.
    pub age_ms: Option<u64>,
    /// In how many milliseconds the server is probed again.
    pub retry_after_ms: Option<u64>,
}

impl HealthReport {
    /// A report of `health` that knows nothing else.
    #[must_use]
    pub const fn new(health: Health, is_healthy: bool) -> Self {
        Self {
            health,
            is_healthy,
            latency_ms: None,
            error: None,
            error_type: None,
            age_ms: None,
            retry_after_ms: None,
        }
    }
}

/// Finds out whether a server is well.
pub trait CheckHealth: Send + Sync {
    /// What is known, if that is recent enough; else probes. One probe serves all who ask.
    fn check_health(&self) -> BoxFuture<'_, HealthReport>;
}

/// Sees to it that the token lives long enough.
pub trait EnsureFresh: Send + Sync {
    /// Returns once the token is valid for `min_ttl` at least, refreshing it if need be.
    fn ensure_fresh(&self, min_ttl: Duration) -> BoxFuture<'_, Result<(), Rejection>>;
}

/// Makes a server ready to answer at its usual speed.
///
/// A single step and a handle over many both implement it.
pub trait WarmUp: Send + Sync {
    /// Returns at once where all is warm. One warm-up serves all who wait.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>>;
}
