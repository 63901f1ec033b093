//! The server, as its clients see it: a token bucket behind a network.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::{BoxError, Service};

/// How many calls it allows in a second.
pub(crate) const PER_SECOND: u32 = 10;

/// How many it allows at once.
pub(crate) const BURST: u32 = 10;

/// When a call that was one too many may come back, by the server's own word.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a request, or an answer, is on its way: at least, and at most.
const WAY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(15));

/// A call that was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// When it reached the server, after the begin.
    pub(crate) at: Duration,
    /// It was served, or else answered 429.
    pub(crate) served: bool,
}

/// What the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Served,
    /// 429, with a retry-after.
    TooMany(Duration),
}

/// A call, by its number.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) id: Arc<str>,
}

impl Call {
    pub(super) fn new(number: u32) -> Self {
        Self {
            id: format!("call-{number}").into(),
        }
    }
}

/// Clones are the same server.
#[derive(Debug, Clone)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// How many calls it would take now.
    tokens: f64,
    counted: Instant,
    begun: Instant,
    events: Vec<Event>,
    random: fastrand::Rng,
}

impl Server {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        let state = State {
            tokens: f64::from(BURST),
            counted: begun,
            begun,
            events: Vec::new(),
            // Chance that is the same each time.
            random: fastrand::Rng::with_seed(42),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Forgets what it has answered. From now on its events are of another run.
    pub(super) fn begin_anew(&self) {
        let mut state = self.state();
        state.begun = Instant::now();
        state.events.clear();
    }

    /// From 0 to 1.
    pub(super) fn random(&self) -> f64 {
        self.state().random.f64()
    }

    async fn on_the_way(&self) {
        let (least, most) = WAY;
        sleep(least + (most - least).mul_f64(self.random())).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    fn answer(&self) -> Answer {
        let mut state = self.state();
        let now = Instant::now();
        let back = (now - state.counted).as_secs_f64() * f64::from(PER_SECOND);
        state.tokens = (state.tokens + back).min(f64::from(BURST));
        state.counted = now;
        // What rounding takes away is no call too many.
        let served = state.tokens > 1.0 - 1e-9;
        state.tokens -= f64::from(u8::from(served));
        let at = now - state.begun;
        state.events.push(Event { at, served });
        if served {
            Answer::Served
        } else {
            Answer::TooMany(RETRY_AFTER)
        }
    }
}

impl Service<Call> for Server {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Call) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            server.on_the_way().await;
            let answer = server.answer();
            server.on_the_way().await;
            Ok(answer)
        })
    }
}
