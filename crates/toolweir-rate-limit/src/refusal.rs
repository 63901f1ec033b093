//! Why a call is refused, and when it may come back.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use toolweir_core::{Reason, Rejection};

use crate::PausedBy;

/// The layer's name, in rejections and reports.
pub(crate) const LAYER: &str = "rate-limit";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The cells will be there only after this time.
    QuotaSpent(Duration),
    /// The same, because of a pause.
    Paused(PausedBy, Duration),
    CostTooHigh {
        cost: NonZeroU32,
        burst: NonZeroU32,
    },
    /// The cells came, but the call's deadline had passed.
    PastDeadline,
    /// The cells came, but the call did not go ahead in time.
    NotTaken,
}

impl Refusal {
    pub(crate) fn into_rejection(self, key: Option<&Arc<str>>) -> Rejection {
        let rejection = match self {
            Self::QuotaSpent(retry_after) => {
                Rejection::new(LAYER, Reason::QuotaSpent).with_retry_after(retry_after)
            }
            Self::Paused(PausedBy::Server, retry_after) => {
                Rejection::new(LAYER, Reason::Throttled).with_retry_after(retry_after)
            }
            Self::Paused(PausedBy::Operator, retry_after) => {
                Rejection::new(LAYER, Reason::Paused).with_retry_after(retry_after)
            }
            Self::CostTooHigh { cost, burst } => Rejection::new(LAYER, Reason::CostTooHigh)
                .with_detail(format!("it costs {cost}, and the burst is {burst}")),
            Self::PastDeadline => Rejection::new(LAYER, Reason::DeadlineTooShort),
            Self::NotTaken => Rejection::new(LAYER, Reason::WaitTooLong)
                .with_detail("its turn came, but it was not ready to go"),
        };
        match key {
            Some(key) => rejection.with_key(key.clone()),
            None => rejection,
        }
    }
}
