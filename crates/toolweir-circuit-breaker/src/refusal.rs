//! Why a call does not pass, on the way to a rejection. Making one allocates nothing.

use std::{sync::Arc, time::Duration};

use toolweir_core::{Reason, Rejection};

use crate::Cause;

/// The name in rejections and reports.
pub(crate) const LAYER: &str = "circuit-breaker";

/// Why a call does not pass. It is smaller than the rejection that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) retry_after: Option<Duration>,
    /// What the operator said.
    pub(crate) note: Option<Arc<str>>,
    pub(crate) reason: Reason,
    /// What opened the circuit.
    pub(crate) cause: Option<Cause>,
}

impl Refusal {
    #[inline]
    pub(crate) const fn new(reason: Reason, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            note: None,
            reason,
            cause: None,
        }
    }

    /// By a circuit that `cause` has opened.
    #[inline]
    pub(crate) const fn open(cause: Cause, retry_after: Duration) -> Self {
        let (reason, cause) = match cause {
            Cause::Throttled => (Reason::Throttled, None),
            cause => (Reason::CircuitOpen, Some(cause)),
        };
        Self {
            retry_after: Some(retry_after),
            note: None,
            reason,
            cause,
        }
    }

    #[inline]
    pub(crate) fn into_rejection(self, key: Option<Arc<str>>) -> Rejection {
        let mut rejection = Rejection::new(LAYER, self.reason);
        if let Some(key) = key {
            rejection = rejection.with_key(key);
        }
        if let Some(note) = self.note {
            rejection = rejection.with_shared_detail(note);
        } else if let Some(cause) = self.cause {
            rejection = rejection.with_detail(cause.explanation());
        }
        match self.retry_after {
            Some(retry_after) => rejection.with_retry_after(retry_after),
            None => rejection,
        }
    }
}
