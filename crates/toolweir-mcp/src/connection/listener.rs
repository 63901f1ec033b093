//! What a server says without being asked: progress of a call, and that its tools have changed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use rmcp::{
    ClientHandler, RoleClient,
    model::{
        ClientCapabilities, ClientConfig, Implementation, NumberOrString,
        ProgressNotificationParam, ProgressToken, ProtocolVersion,
    },
    service::{NotificationContext, RunningService},
};
use tokio::sync::watch;

use super::lock;
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

/// A call's token, by which a server names it. Ours are numbers; a server that says something else, of
/// whatever length, speaks of no call.
type Token = i64;

#[derive(Default)]
struct Routes {
    calls: HashMap<Token, Arc<Call>>,
    /// Of each call the last.
    unclaimed: VecDeque<(Token, Progress)>,
}

/// A call whose progress somebody waits for.
struct Call {
    to: watch::Sender<Option<Progress>>,
    /// How far it has come. `to` may still say how far another call came.
    done: Mutex<Option<f64>>,
    /// Marked changed by whatever the server says of the call: it is not silent.
    heard: watch::Sender<()>,
}

impl Call {
    fn new(to: watch::Sender<Option<Progress>>) -> Self {
        Self {
            to,
            done: Mutex::default(),
            heard: watch::Sender::default(),
        }
    }

    /// Takes a report. One that is not further than the last does not reach the caller: by the
    /// specification each is, and rmcp, which handles several at once, may let them overtake each other.
    fn say(&self, progress: Progress) {
        self.heard.send_replace(());
        self.to.send_if_modified(|shown| {
            let mut done = lock(&self.done);
            let further = is_further(&progress, *done);
            if further {
                *done = Some(progress.done);
                *shown = Some(progress);
            }
            further
        });
    }
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
        token: &ProgressToken,
        to: &watch::Sender<Option<Progress>>,
    ) -> Route {
        let (token, call) = (number(token), Arc::new(Call::new(to.clone())));
        let early = token.and_then(|token| {
            let mut routes = self.routes();
            routes.calls.insert(token, call.clone());
            routes.claim(token)
        });
        // Receivers are woken without the lock.
        if let Some(progress) = early {
            call.say(progress);
        }
        Route {
            listener: self.clone(),
            token,
            call,
        }
    }

    fn progressed(&self, token: Token, progress: Progress) {
        let call = {
            let mut routes = self.routes();
            let Some(call) = routes.calls.get(&token) else {
                routes.keep(token, progress);
                return;
            };
            call.clone()
        };
        call.say(progress);
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        lock(&self.heard.progress)
    }
}

impl Routes {
    /// The last of what was said of this call before anybody asked.
    fn claim(&mut self, token: Token) -> Option<Progress> {
        let at = self.unclaimed.iter().position(|(of, _)| *of == token)?;
        let (_, progress) = self.unclaimed.remove(at)?;
        Some(progress)
    }

    fn keep(&mut self, token: Token, progress: Progress) {
        let known = self.unclaimed.iter_mut().find(|(of, _)| *of == token);
        if let Some((_, last)) = known {
            if is_further(&progress, Some(last.done)) {
                *last = progress;
            }
            return;
        }
        if self.unclaimed.len() == MOST_UNCLAIMED {
            self.unclaimed.pop_front();
        }
        self.unclaimed.push_back((token, progress));
    }
}

fn number(token: &ProgressToken) -> Option<Token> {
    match token.0 {
        NumberOrString::Number(number) => Some(number),
        NumberOrString::String(_) => None,
    }
}

fn is_further(progress: &Progress, than: Option<f64>) -> bool {
    than.is_none_or(|than| progress.done > than)
}

/// The way of a call's progress to its caller.
pub(crate) struct Route {
    listener: Listener,
    token: Option<Token>,
    call: Arc<Call>,
}

impl Route {
    /// Changes with whatever the server says of the call.
    pub(crate) fn heard(&self) -> watch::Receiver<()> {
        self.call.heard.subscribe()
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.listener.routes().calls.remove(&token);
        }
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
        if let (Some(token), Some(progress)) = (number(&said.progress_token), progress) {
            self.progressed(token, progress);
        }
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
    use super::*;

    fn token(number: Token) -> ProgressToken {
        ProgressToken(NumberOrString::Number(number))
    }

    fn step(progress: f64) -> Progress {
        Progress::said(progress, None, None).unwrap()
    }

    #[test]
    fn progress_finds_its_own_call() {
        let listener = Listener::default();
        let (anna, bob) = (watch::Sender::default(), watch::Sender::default());
        let _anna = listener.route(&token(1), &anna);
        let _bob = listener.route(&token(2), &bob);
        listener.progressed(2, step(5.0));
        assert_eq!(*anna.borrow(), None);
        assert_eq!(*bob.borrow(), Some(step(5.0)));
    }

    #[test]
    fn early_progress_is_kept_and_what_nobody_asks_for_is_bounded() {
        let listener = Listener::default();
        for call in 0..1000 {
            listener.progressed(call, step(1.0));
            listener.progressed(call, step(2.0));
            listener.progressed(call, step(1.0));
        }
        assert_eq!(listener.routes().unclaimed.len(), MOST_UNCLAIMED);
        for call in [999, 1000 - MOST_UNCLAIMED.cast_signed()] {
            let late = watch::Sender::default();
            let _late = listener.route(&token(call.try_into().unwrap()), &late);
            assert_eq!(*late.borrow(), Some(step(2.0)));
        }
    }

    #[test]
    fn what_is_not_further_is_heard_and_not_told() {
        let listener = Listener::default();
        listener.progressed(1, step(3.0));
        let call = watch::Sender::default();
        let route = listener.route(&token(1), &call);
        let (mut told, mut heard) = (call.subscribe(), route.heard());
        for (done, expected) in [(2.0, 3.0), (3.0, 3.0), (4.0, 4.0), (-1.0, 4.0), (4.5, 4.5)] {
            listener.progressed(1, step(done));
            assert_eq!(*call.borrow(), Some(step(expected)));
            assert!(heard.has_changed().unwrap());
            heard.mark_unchanged();
        }
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        listener.progressed(1, step(0.0));
        assert!(!told.has_changed().unwrap());
    }

    #[test]
    fn another_call_with_the_same_receiver_begins_anew() {
        let listener = Listener::default();
        let call = watch::Sender::default();
        let first = listener.route(&token(1), &call);
        listener.progressed(1, step(9.0));
        drop(first);
        let _second = listener.route(&token(2), &call);
        listener.progressed(2, step(1.0));
        assert_eq!(*call.borrow(), Some(step(1.0)));
    }

    #[test]
    fn a_call_that_is_over_is_forgotten() {
        let listener = Listener::default();
        drop(listener.route(&token(1), &watch::Sender::default()));
        assert!(listener.routes().calls.is_empty());
    }
}
