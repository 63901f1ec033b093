//! A server that does what it is asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tower::Service;

use crate::layers::call::CallError;

/// What the server is to do.
#[derive(Debug)]
pub(crate) enum Ask {
    Answer,
    Fail,
    /// Never comes to an end.
    Hang,
    Panic,
    /// Answers, or fails, when it is told to. If nobody will ever tell, it fails.
    When(oneshot::Receiver<bool>),
}

/// Does it, and counts the calls that reach it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    reached: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Service<Ask> for Server {
    type Response = ();
    type Error = CallError;
    type Future = BoxFuture<'static, Result<(), CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        self.reached.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            let answers = match ask {
                Ask::Answer => true,
                Ask::Fail => false,
                Ask::Hang => std::future::pending().await,
                // Without the message that a panic prints.
                Ask::Panic => std::panic::resume_unwind(Box::new("the server panics")),
                Ask::When(told) => told.await.unwrap_or(false),
            };
            if answers {
                Ok(())
            } else {
                Err(CallError::Failed)
            }
        })
    }
}
