//! Knowing when all that a start has brought into being has ended.

use tokio::sync::watch;

/// Held by an attempt to connect, and by each process that it starts, for as long as they live.
#[derive(Debug, Clone)]
pub(super) struct Alive {
    /// Its drop tells.
    _tell: watch::Sender<()>,
}

/// Says when nobody holds the [`Alive`] any more.
#[derive(Debug, Clone)]
pub(super) struct Ended(watch::Receiver<()>);

pub(super) fn life() -> (Alive, Ended) {
    let (tell, ended) = watch::channel(());
    (Alive { _tell: tell }, Ended(ended))
}

impl Ended {
    pub(super) fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }

    pub(super) async fn over(mut self) {
        // Nothing is ever sent.
        while self.0.changed().await.is_ok() {}
    }
}
