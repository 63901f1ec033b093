//! Reading and operating a token.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use toolweir_core::{
    BoxFuture, EnsureFresh, Reason, Rejection, ReportState, StateReport, time::saturating_add,
};

use crate::{
    TokenLife,
    service::with_key,
    shared::{Limit, Shared},
    state::{Demand, LAYER, Machine, Verdict},
};

/// Reads how a token is, and operates it. Cheap to clone; clones share the layer's token.
#[derive(Debug, Clone)]
pub struct TokenFreshnessHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Option<Arc<str>>,
}

impl TokenFreshnessHandle {
    /// The state, all of one moment.
    #[must_use]
    pub fn state(&self) -> TokenFreshnessState {
        self.shared.read(Machine::snapshot)
    }

    /// Returns once the token is valid for `min_ttl` at least, refreshing it if need be.
    ///
    /// It joins the refresh in flight or starts one, and waits for it for as long as the source may
    /// take for two answers. After a failure it obeys the backoff, as calls do.
    ///
    /// # Errors
    ///
    /// The rejection that a call with this demand would have got.
    pub async fn ensure_fresh(&self, min_ttl: Duration) -> Result<(), Rejection> {
        let demand = Demand {
            min_ttl: Some(min_ttl),
            waiting_since: Some(self.shared.generation()),
        };
        let now = Instant::now();
        if self.shared.fresh(demand, now).is_some() {
            return Ok(());
        }
        let patience = self.shared.config().refresh_timeout.saturating_mul(2);
        let limit = Limit {
            until: saturating_add(now, patience),
            reason: Reason::TokenExpired,
        };
        let fresh = self.shared.clone().wait(demand, limit).await;
        fresh.map_err(|rejection| with_key(rejection, &self.name))
    }

    /// Says that the source has a new token, which lives so long: somebody has logged in.
    ///
    /// Earlier failures are forgotten, a rejected grant among them.
    pub fn supply(&self, life: TokenLife) {
        self.shared
            .change(|machine, roll, now| machine.supply(life, roll, now));
    }

    /// Says that the token is no good any more, as an unauthorised call would. The next call gets
    /// another one.
    pub fn invalidate(&self) {
        self.shared.change(|machine, _, _| machine.invalidate());
    }

    /// Forgets all that is known: the next call asks the source anew. For when somebody has acted,
    /// after a rejected grant for instance.
    pub fn reset(&self) {
        self.shared.change(|machine, _, _| machine.reset());
    }
}

impl EnsureFresh for TokenFreshnessHandle {
    fn ensure_fresh(&self, min_ttl: Duration) -> BoxFuture<'_, Result<(), Rejection>> {
        Box::pin(self.ensure_fresh(min_ttl))
    }
}

/// A call that would wait for a token is told as not ready. It is advice: such a call passes, if the
/// token comes in time.
impl ReportState for TokenFreshnessHandle {
    fn report(&self) -> StateReport {
        self.shared.read(|machine, now| {
            let mut report = StateReport::ready(LAYER);
            match machine.verdict(Demand::default(), now) {
                Verdict::Pass { .. } => report,
                Verdict::Wait { start } => {
                    report.ready = false;
                    report.reason = Some(if start {
                        "the next call gets a token, and waits for it".to_owned()
                    } else {
                        "the token source is being asked".to_owned()
                    });
                    report
                }
                Verdict::Refuse(refusal) => {
                    let rejection = machine.rejection(refusal, now);
                    StateReport::refusing(&with_key(rejection, &self.name))
                }
            }
        })
    }
}

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum TokenStatus {
    /// Nothing. The next call asks the source.
    Unknown,
    /// It is valid.
    Valid,
    /// It has expired.
    Expired,
    /// The server did not accept it, or the source has none that is valid.
    Invalid,
}

/// What a token was at one moment. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TokenFreshnessState {
    /// What is known of it.
    pub status: TokenStatus,
    /// How long it is still valid, where it is known and expires.
    pub expires_in_ms: Option<u64>,
    /// In how many milliseconds it is to be refreshed. Zero once it is time.
    pub refresh_in_ms: Option<u64>,
    /// Whether the source is being asked.
    pub is_refreshing: bool,
    /// Whether the grant was rejected: nothing is tried until somebody acts.
    pub is_grant_rejected: bool,
    /// What that somebody has to do.
    pub recovery: Option<String>,
    /// How many times in a row the source had no token. A refusal on the way to it is no failure.
    pub failures: u32,
    /// What it last said of that. A token ends it.
    pub last_error: Option<String>,
    /// In how many milliseconds it may be asked again, after a failure. A call does that.
    pub next_attempt_in_ms: Option<u64>,
    /// How many times the source was asked.
    pub token_calls: u64,
}
