//! One probe, in a task of its own.

use std::{borrow::Cow, sync::Weak, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use toolweir_core::{AsRejection as _, BoxError, Rejection, error_text};

use crate::{
    Probe,
    shared::Shared,
    state::{Failure, Landed},
};

/// Tells the shared state how a probe ended. It says so too if the task panics or is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    shared: Weak<Shared>,
    number: u64,
    began: Instant,
    landed: Option<Landed>,
}

impl Flight {
    pub(crate) const fn new(shared: Weak<Shared>, number: u64, began: Instant) -> Self {
        Self {
            shared,
            number,
            began,
            landed: None,
        }
    }

    /// Probes in a task, which lives for the timeout at most.
    pub(crate) fn launch(self, shared: &Shared, runtime: &Handle) {
        let probe = shared.probe().clone();
        let limit = shared.config().timeout;
        runtime.spawn(async move {
            let landed = if probe.is_dormant() {
                Landed::Dormant
            } else {
                self.probe(&*probe, limit).await
            };
            self.finish(landed);
        });
    }

    async fn probe(&self, probe: &dyn Probe, limit: Duration) -> Landed {
        match timeout(limit, probe.probe()).await {
            Ok(Ok(())) => Landed::Well {
                latency: self.began.elapsed(),
            },
            Ok(Err(error)) => self.not_well(&error),
            Err(_) => self.failed(
                format!("the probe took longer than {limit:?}").into(),
                "probe-timed-out",
            ),
        }
    }

    fn not_well(&self, error: &BoxError) -> Landed {
        match error.as_rejection().map(Rejection::retry_after) {
            Some(retry_after) => Landed::Refused { retry_after },
            None => self.failed(error_text(&**error).into(), "probe-failed"),
        }
    }

    fn failed(&self, text: Cow<'static, str>, kind: &'static str) -> Landed {
        Landed::Failed {
            latency: self.began.elapsed(),
            failure: Failure { text, kind },
        }
    }

    fn finish(mut self, landed: Landed) {
        self.landed = Some(landed);
    }

    fn cut_off(&self) -> Landed {
        if std::thread::panicking() {
            self.failed("the probe panicked".into(), "probe-panicked")
        } else {
            // The runtime has ended, which says nothing about the server.
            Landed::Refused { retry_after: None }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let landed = self.landed.take().unwrap_or_else(|| self.cut_off());
            shared.land(self.number, landed);
        }
    }
}
