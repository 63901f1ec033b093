//! One question to the token source, in a task of its own.

use std::sync::{Arc, Weak};

use tokio::{runtime::Handle, time::timeout};
use toolweir_core::{AsRejection as _, BoxError, Rejection, error_text};

use crate::{
    TokenError, TokenSource,
    shared::Shared,
    state::{Errand, Landed},
};

/// Tells the shared state what the source answered. It says so too if the task panics or is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    shared: Weak<Shared>,
    number: u64,
    landed: Option<Landed>,
}

impl Flight {
    pub(crate) const fn new(shared: Weak<Shared>, number: u64) -> Self {
        Self {
            shared,
            number,
            landed: None,
        }
    }

    /// Asks the source in a task, which lives for `limit` at most.
    ///
    /// It is not cut off when nobody wants the answer any more: the token may have been rotated by
    /// then, and the source has yet to store it.
    pub(crate) fn launch(self, shared: &Shared, errand: Errand, runtime: &Handle) {
        let source = shared.source().clone();
        let limit = shared.config().refresh_timeout;
        runtime.spawn(async move {
            let answer = timeout(limit, ask(&*source, errand)).await;
            self.finish(answer.unwrap_or_else(|_| Landed::Unavailable {
                error: format!("the token source took longer than {limit:?}").into(),
                retry_after: None,
            }));
        });
    }

    fn finish(mut self, landed: Landed) {
        self.landed = Some(landed);
    }

    fn cut_off() -> Landed {
        let error = if std::thread::panicking() {
            "the token source panicked"
        } else {
            "the runtime ended while the token source was asked"
        };
        Landed::Unavailable {
            error: error.into(),
            retry_after: None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let landed = self.landed.take().unwrap_or_else(Self::cut_off);
            shared.land(self.number, landed);
        }
    }
}

async fn ask(source: &dyn TokenSource, errand: Errand) -> Landed {
    let answer = match errand {
        Errand::Current => source.current().await,
        Errand::Refresh => source.refresh().await,
    };
    match answer {
        Ok(life) => Landed::Life(life),
        Err(TokenError::Rejected { source, recovery }) => Landed::Rejected {
            error: text(&source),
            recovery: recovery.into(),
        },
        Err(TokenError::Unavailable {
            source,
            retry_after,
        }) => match source.as_rejection().map(Rejection::retry_after) {
            Some(asked) => Landed::Refused {
                error: text(&source),
                retry_after: asked.or(retry_after),
            },
            None => Landed::Unavailable {
                error: text(&source),
                retry_after,
            },
        },
    }
}

fn text(error: &BoxError) -> Arc<str> {
    error_text(&**error).into()
}
