//! Reading and operating a warm-up.

use std::sync::Arc;

use tokio::time::Instant;
use toolweir_core::{
    BoxError, BoxFuture, Reason, Rejection, ReportState, StateReport, WarmUp, time::saturating_add,
};

use crate::{
    service::with_key,
    shared::{Limit, Shared},
    state::LAYER,
};

/// Reads whether a server is warm, and warms it. Cheap to clone; clones share the layer's warmth.
#[derive(Debug, Clone)]
pub struct WarmUpHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl WarmUpHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> WarmUpState {
        self.shared.snapshot()
    }

    /// Returns once all is warm, at once where it is.
    ///
    /// It joins the warm-up in flight or starts one. It waits for as long as two warm-ups may take:
    /// the second is for an invalidation during the first. After a failure it is refused while
    /// nothing is tried, as a call is.
    ///
    /// # Errors
    ///
    /// The rejection that a call would have got, with the last error and the time to come back; or the
    /// refusal of a layer further in that a step met.
    pub async fn warm_up(&self) -> Result<(), Rejection> {
        let patience = self.shared.plan().config.timeout.saturating_mul(2);
        let limit = Limit {
            until: saturating_add(Instant::now(), patience),
            reason: Reason::WaitTooLong,
        };
        let warm = self.shared.clone().wait(limit).await;
        warm.map_err(|rejection| with_key(rejection, &self.name))
    }

    /// Says that what was warm is cold, because of a reconnect for instance.
    ///
    /// A warm-up in flight is void and ends at the await point where it is; the next one starts for
    /// who waited for it, or else with the next call. Earlier failures are forgotten, so that it
    /// starts at once.
    pub fn invalidate(&self) {
        self.shared.invalidate();
    }
}

impl WarmUp for WarmUpHandle {
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async { Ok(self.warm_up().await?) })
    }
}

/// Anything but warm is told as not ready. It is advice: a call that comes to a cold server warms it,
/// and passes if that succeeds in time.
impl ReportState for WarmUpHandle {
    fn report(&self) -> StateReport {
        let state = self.state();
        let mut report = StateReport::ready(LAYER);
        report.ready = state.warmth == Warmth::Warm;
        report.retry_after_ms = state.retry_after_ms;
        report.reason = match state.warmth {
            Warmth::Warm => None,
            Warmth::Cold => Some("cold: the next call warms the server up".to_owned()),
            Warmth::Warming => Some("the warm-up is in flight".to_owned()),
            Warmth::Failed => Some(match state.last_error {
                Some(error) => format!("the last warm-up failed: {error}"),
                None => "the last warm-up failed".to_owned(),
            }),
        };
        report
    }
}

/// How far a server is warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Warmth {
    /// The next call starts the warm-up.
    Cold,
    /// A warm-up is in flight.
    Warming,
    /// Calls pass.
    Warm,
    /// The last warm-up failed or was refused. Until the time to come back calls are refused; the
    /// next one after it starts the next warm-up.
    Failed,
}

/// What a warm-up was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WarmUpState {
    /// How far the server is warm.
    pub warmth: Warmth,
    /// How long it has been warm, or has been warming.
    pub since_ms: Option<u64>,
    /// How long the warm-up took, where it is warm.
    pub took_ms: Option<u64>,
    /// The step that the warm-up in flight has come to.
    pub step: Option<String>,
    /// How many warm-ups were started.
    pub warm_ups: u64,
    /// How many failed in a row. A refusal by a layer further in is no failure.
    pub failures: u32,
    /// What the last warm-up that did not succeed said. A success ends that.
    pub last_error: Option<String>,
    /// In how many milliseconds it makes sense to come back, where a call would not pass at once.
    pub retry_after_ms: Option<u64>,
}
