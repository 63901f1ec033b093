//! What a server says without being asked: progress of a call, and that its tools have changed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rmcp::{
    ClientHandler, RoleClient,
    model::{
        ClientCapabilities, ClientConfig, Implementation, ProgressNotificationParam, ProgressToken,
        ProtocolVersion,
    },
    service::{NotificationContext, RunningService},
};
use tokio::sync::watch;

use crate::Progress;

/// The client's end of a connection.
pub(crate) type Client = RunningService<RoleClient, Listener>;

/// Progress may overtake the note of who waits for it. So much of it is kept until then.
const MOST_UNCLAIMED: usize = 64;

/// Hears a server out. Clones listen to the same connection.
#[derive(Clone, Default)]
pub(crate) struct Listener {
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    progress: Mutex<Routes>,
    /// Marked changed when the server says that its tools have changed.
    tools_changed: watch::Sender<()>,
    /// Dropped with the last listener, it says that nobody waits for anything any more.
    #[cfg(feature = "http")]
    listening: watch::Sender<()>,
}

#[derive(Default)]
struct Routes {
    calls: HashMap<ProgressToken, watch::Sender<Option<Progress>>>,
    unclaimed: VecDeque<(ProgressToken, Progress)>,
}

impl Listener {
    /// Sees a change of the tools from now on.
    pub(crate) fn tools_changed(&self) -> watch::Receiver<()> {
        self.heard.tools_changed.subscribe()
    }

    /// Closed when the last clone of this listener is gone, and with it the connection or the attempt
    /// to make one.
    #[cfg(feature = "http")]
    pub(crate) fn listening(&self) -> watch::Receiver<()> {
        self.heard.listening.subscribe()
    }

    pub(crate) fn tools_have_changed(&self) {
        self.heard.tools_changed.send_replace(());
    }

    /// Hands the progress of a call to `to` until the route is dropped.
    pub(crate) fn route(
        &self,
        token: ProgressToken,
        to: &watch::Sender<Option<Progress>>,
    ) -> Route {
        let early = {
            let mut routes = self.routes();
            let early = routes.claim(&token);
            routes.calls.insert(token.clone(), to.clone());
            early
        };
        // Receivers are woken without the lock.
        if let Some(progress) = early {
            to.send_replace(Some(progress));
        }
        Route {
            listener: self.clone(),
            token,
        }
    }

    fn progressed(&self, token: ProgressToken, progress: Progress) {
        let to = {
            let mut routes = self.routes();
            let Some(to) = routes.calls.get(&token) else {
                routes.keep(token, progress);
                return;
            };
            to.clone()
        };
        to.send_replace(Some(progress));
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        let routes = &self.heard.progress;
        routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// The last of what was said of this call before anybody asked.
    fn claim(&mut self, token: &ProgressToken) -> Option<Progress> {
        let mut last = None;
        self.unclaimed.retain(|(of, progress)| {
            let claimed = of == token;
            if claimed {
                last = Some(progress.clone());
            }
            !claimed
        });
        last
    }

    fn keep(&mut self, token: ProgressToken, progress: Progress) {
        if self.unclaimed.len() == MOST_UNCLAIMED {
            self.unclaimed.pop_front();
        }
        self.unclaimed.push_back((token, progress));
    }
}

/// The way of a call's progress to its caller.
pub(crate) struct Route {
    listener: Listener,
    token: ProgressToken,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.listener.routes().calls.remove(&self.token);
    }
}

impl ClientHandler for Listener {
    /// The newest protocol that begins with `initialize`: rmcp would switch into another mode with a
    /// server that echoes one that does not.
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(
            ClientCapabilities::default(),
            Implementation::new("toolweir", env!("CARGO_PKG_VERSION")),
        )
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn on_progress(
        &self,
        said: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        let progress = Progress::said(said.progress, said.total, said.message);
        self.progressed(said.progress_token, progress);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.tools_have_changed();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::NumberOrString;

    use super::*;

    fn token(number: i64) -> ProgressToken {
        ProgressToken(NumberOrString::Number(number))
    }

    fn step(progress: f64) -> Progress {
        Progress::said(progress, None, None)
    }

    #[test]
    fn progress_finds_its_own_call() {
        let listener = Listener::default();
        let (anna, bob) = (watch::Sender::default(), watch::Sender::default());
        let _anna = listener.route(token(1), &anna);
        let _bob = listener.route(token(2), &bob);
        listener.progressed(token(2), step(5.0));
        assert_eq!(*anna.borrow(), None);
        assert_eq!(*bob.borrow(), Some(step(5.0)));
    }

    #[test]
    fn early_progress_is_kept_and_what_nobody_asks_for_is_bounded() {
        let listener = Listener::default();
        for call in 0..1000 {
            listener.progressed(token(call), step(1.0));
        }
        assert_eq!(listener.routes().unclaimed.len(), MOST_UNCLAIMED);
        let late = watch::Sender::default();
        let _late = listener.route(token(999), &late);
        assert_eq!(*late.borrow(), Some(step(1.0)));
    }

    #[test]
    fn a_call_that_is_over_is_forgotten() {
        let listener = Listener::default();
        drop(listener.route(token(1), &watch::Sender::default()));
        assert!(listener.routes().calls.is_empty());
    }
}
