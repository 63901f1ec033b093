//! Random histories, held against what is known from outside: when which token came, and what was
//! said of it.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use toolweir_core::{
    AsRejection as _, BoxError, BoxFuture, Classify, Delivery, Facts, Observation, Outcome, Reason,
};
use toolweir_token_freshness::{
    TokenError, TokenFreshnessConfig, TokenFreshnessHandle, TokenFreshnessLayer, TokenLife,
    TokenSource, TokenStatus,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

// Operations come at multiples of ten milliseconds, so no two of the others ever fall together.
const REFRESH_TIMEOUT: u64 = 1002;
const MAX_WAIT: u64 = 305;
const BACKOFF: u64 = 101;
const MAX_BACKOFF: u64 = 404;
const REFRESH_AHEAD: u64 = 200;
const MIN_TTL: u64 = 50;

#[derive(Debug, Clone)]
enum Operation {
    Call { min_ttl: Option<u64> },
    Unauthorized,
    Drop,
    Pass(u64),
    Answer(u64),
    Unavailable,
    Reject,
    Supply(u64),
    Invalidate,
    Reset,
}

fn operation() -> impl Strategy<Value = Operation> {
    let tens = |range: std::ops::Range<u64>| range.prop_map(|tens| tens * 10);
    prop_oneof![
        6 => Just(Operation::Call { min_ttl: None }),
        1 => tens(1..120).prop_map(|millis| Operation::Call { min_ttl: Some(millis) }),
        1 => Just(Operation::Unauthorized),
        1 => Just(Operation::Drop),
        5 => tens(1..40).prop_map(Operation::Pass),
        1 => tens(40..400).prop_map(Operation::Pass),
        6 => tens(0..120).prop_map(Operation::Answer),
        2 => Just(Operation::Unavailable),
        1 => Just(Operation::Reject),
        1 => tens(0..120).prop_map(Operation::Supply),
        1 => Just(Operation::Invalidate),
        1 => Just(Operation::Reset),
    ]
}

/// What is known from outside.
#[derive(Debug, Default)]
struct Known {
    now: u64,
    /// Since when there is a token, until when it is valid, and whether its whole life is known.
    token: Option<(u64, u64, bool)>,
    /// The question in flight: since when, for a refresh, and whether it was overtaken.
    in_flight: Option<(u64, bool, bool)>,
    /// Before this the source must not be asked.
    not_before: u64,
    failures: u32,
    rejected: bool,
    /// When a token was last not accepted.
    unaccepted_at: Option<u64>,
}

impl Known {
    fn is_valid(&self, at: u64, min_ttl: u64) -> bool {
        self.token
            .is_some_and(|(_, until, _)| at < until && at + min_ttl <= until)
    }

    /// Whether the token is in none of the windows, which may be narrower than configured.
    fn is_fresh(&self) -> bool {
        self.is_valid(self.now, REFRESH_AHEAD + 1)
    }

    fn begin(&mut self, is_refresh: bool, at: u64) -> Result<(), TestCaseError> {
        prop_assert!(self.in_flight.is_none(), "a second question in flight");
        prop_assert!(at >= self.not_before, "asked before the backoff is over");
        prop_assert!(!self.rejected, "asked although the grant was rejected");
        self.in_flight = Some((at, is_refresh, false));
        Ok(())
    }

    fn hold(&mut self, life: u64, whole: bool) {
        self.token = Some((self.now, self.now + life, whole));
        self.forgive();
    }

    fn forgive(&mut self) {
        (self.failures, self.not_before, self.rejected) = (0, 0, false);
    }

    fn answer(&mut self, life: u64) {
        match self.in_flight.take() {
            Some((_, true, _)) if life > 0 => self.hold(life, true),
            Some((_, true, false)) => self.fail(),
            Some((_, false, false)) if life > 0 => self.hold(life, false),
            _ => {}
        }
    }

    fn unavailable(&mut self) {
        if let Some((_, _, false)) = self.in_flight.take() {
            self.fail();
        }
    }

    fn fail(&mut self) {
        self.not_before = self.now + (BACKOFF << self.failures.min(9)).min(MAX_BACKOFF);
        self.failures += 1;
    }

    fn reject(&mut self) {
        if let Some((_, _, false)) = self.in_flight.take() {
            self.rejected = true;
            self.failures += 1;
        }
    }

    /// Something was said from outside, which is newer than any answer under way.
    fn overtake(&mut self) {
        if let Some((_, _, overtaken)) = &mut self.in_flight {
            *overtaken = true;
        }
        self.unaccepted_at = None;
        self.forgive();
        self.token = None;
    }

    fn timeout(&self) -> Option<u64> {
        self.in_flight.map(|(since, ..)| since + REFRESH_TIMEOUT)
    }

    fn pass_to(&mut self, now: u64) {
        self.now = now;
        if self.timeout() == Some(now) {
            self.unavailable();
        }
    }
}

type Answers = Arc<Mutex<Vec<oneshot::Sender<Result<TokenLife, TokenError>>>>>;

/// A source that answers when it is told to.
#[derive(Clone)]
struct Source {
    start: Instant,
    answers: Answers,
    /// Whether each question was for a refresh, and when it came.
    asked: Arc<Mutex<Vec<(bool, u64)>>>,
}

impl Source {
    fn ask(&self, is_refresh: bool) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        let (answer, answered) = oneshot::channel();
        self.answers.lock().unwrap().push(answer);
        let at = millis(self.start.elapsed());
        self.asked.lock().unwrap().push((is_refresh, at));
        Box::pin(async { answered.await.map_err(TokenError::unavailable)? })
    }

    fn answer(&self, answer: Result<TokenLife, TokenError>) {
        if let Some(waiting) = self.answers.lock().unwrap().pop() {
            // Nobody listens where the question timed out.
            let _ = waiting.send(answer);
        }
    }
}

impl TokenSource for Source {
    fn current(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        self.ask(false)
    }

    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        self.ask(true)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[derive(Clone)]
struct Needs(Option<Duration>);

impl<Req> Facts<Req> for Needs {
    fn min_ttl(&self, _: &Req) -> Option<Duration> {
        self.0
    }
}

/// Reads `false` as unauthorised.
#[derive(Clone)]
struct ByAnswer;

impl Classify<bool, BoxError> for ByAnswer {
    fn classify(&self, result: Result<&bool, &BoxError>) -> Observation {
        let outcome = match result {
            Ok(false) => Outcome::Unauthorized,
            _ => Outcome::Success,
        };
        Observation::new(outcome, Delivery::Executed)
    }
}

/// How and when a call ended. `Ok` where it passed.
type Fate = (u64, Result<(), Reason>);

struct Call {
    since: u64,
    min_ttl: Option<u64>,
    task: JoinHandle<Fate>,
}

struct Real {
    layer: TokenFreshnessLayer<ByAnswer>,
    handle: TokenFreshnessHandle,
    source: Source,
    calls: Vec<Call>,
    known: Known,
}

impl Real {
    fn new() -> Self {
        let config = TokenFreshnessConfig::builder()
            .refresh_ahead(Duration::from_millis(REFRESH_AHEAD))
            .min_ttl(Duration::from_millis(MIN_TTL))
            .refresh_timeout(Duration::from_millis(REFRESH_TIMEOUT))
            .max_wait(Duration::from_millis(MAX_WAIT))
            .initial_backoff(Duration::from_millis(BACKOFF))
            .max_backoff(Duration::from_millis(MAX_BACKOFF))
            .jitter(0)
            .build()
            .unwrap();
        let source = Source {
            start: Instant::now(),
            answers: Answers::default(),
            asked: Arc::default(),
        };
        let layer = TokenFreshnessLayer::new(config, source.clone());
        Self {
            handle: layer.handle(),
            layer: layer.with_classifier(ByAnswer),
            source,
            calls: Vec::new(),
            known: Known::default(),
        }
    }

    fn call(&mut self, min_ttl: Option<u64>, accepted: bool) {
        let inner = service_fn(move |()| async move { Ok::<_, BoxError>(accepted) });
        let layer = self
            .layer
            .clone()
            .with_facts(Needs(min_ttl.map(Duration::from_millis)));
        // Erased here: inside an async block the compiler would forget the error's lifetime.
        let call: BoxFuture<'static, Result<bool, BoxError>> =
            Box::pin(layer.layer(inner).oneshot(()));
        let start = self.source.start;
        let task = async move {
            let result = call.await.map(drop);
            let fate = result.map_err(|error| error.as_rejection().unwrap().reason());
            (millis(start.elapsed()), fate)
        };
        self.calls.push(Call {
            since: self.known.now,
            min_ttl,
            task: tokio::spawn(task),
        });
    }

    async fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for (is_refresh, at) in self.source.asked.lock().unwrap().drain(..) {
            self.known.begin(is_refresh, at)?;
        }
        let (done, waiting) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition::<Vec<_>, _>(|call| call.task.is_finished());
        self.calls = waiting;
        for call in done {
            let (at, fate) = call.task.await.unwrap();
            self.check(call.since, call.min_ttl, at, fate)?;
        }
        for call in &self.calls {
            prop_assert!(self.known.now < call.since + MAX_WAIT, "it waits too long");
        }
        Ok(())
    }

    /// Whether the end of a call is in accord with what is known.
    fn check(
        &self,
        since: u64,
        min_ttl: Option<u64>,
        at: u64,
        fate: Result<(), Reason>,
    ) -> Result<(), TestCaseError> {
        let known = &self.known;
        let is_valid = known.is_valid(at, min_ttl.unwrap_or_default());
        let came_meanwhile = known.token.is_some_and(|token| token.0 >= since);
        prop_assert!(at <= since + MAX_WAIT);
        match fate {
            Ok(()) => prop_assert!(is_valid || came_meanwhile, "passed without a token"),
            Err(Reason::GrantRejected) => prop_assert!(known.rejected && !is_valid),
            Err(Reason::TokenExpired) => prop_assert!(!is_valid, "refused with a token"),
            Err(reason) => prop_assert!(false, "refused for {reason}"),
        }
        Ok(())
    }

    /// A call is made that must not wait, and its token is not accepted.
    async fn unauthorized(&mut self) -> Result<(), TestCaseError> {
        let Some((since, until, _)) = self.known.token else {
            return Ok(());
        };
        let now = self.known.now;
        if now + REFRESH_AHEAD >= until || self.handle.state().refresh_in_ms == Some(0) {
            return Ok(());
        }
        self.call(None, false);
        self.settle().await?;
        if self.handle.state().status == TokenStatus::Invalid {
            self.known.token = None;
            self.known.unaccepted_at = Some(now);
        } else {
            prop_assert!(self.known.unaccepted_at.is_some(), "the first is believed");
            prop_assert!(now < since + MAX_BACKOFF, "doubted for too long");
        }
        Ok(())
    }

    async fn apply(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        let lasting = |life| TokenLife::of(Duration::from_millis(life));
        match operation {
            Operation::Call { min_ttl: None } if self.known.is_fresh() => {
                let waiting = self.calls.len();
                self.call(None, true);
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                prop_assert!(self.calls[waiting].task.is_finished(), "waits without need");
                prop_assert!(self.source.asked.lock().unwrap().is_empty());
            }
            Operation::Call { min_ttl } => self.call(min_ttl, true),
            Operation::Unauthorized => self.unauthorized().await?,
            Operation::Drop => {
                if let Some(call) = self.calls.pop() {
                    call.task.abort();
                }
            }
            Operation::Pass(millis) => self.pass(millis).await?,
            Operation::Answer(life) => {
                self.source.answer(Ok(lasting(life)));
                self.known.answer(life);
            }
            Operation::Unavailable => {
                self.source.answer(Err(TokenError::unavailable("down")));
                self.known.unavailable();
            }
            Operation::Reject => {
                let rejected = TokenError::rejected("invalid_grant", "log in");
                self.source.answer(Err(rejected));
                self.known.reject();
            }
            Operation::Supply(life) => {
                self.handle.supply(lasting(life));
                self.known.overtake();
                if life > 0 {
                    self.known.hold(life, true);
                }
            }
            Operation::Invalidate => {
                self.handle.invalidate();
                self.known.token = None;
            }
            Operation::Reset => {
                self.handle.reset();
                self.known.overtake();
            }
        }
        self.settle().await?;
        self.check_state()
    }

    async fn pass(&mut self, millis: u64) -> Result<(), TestCaseError> {
        let end = self.known.now + millis;
        while self.known.now < end {
            // Who waits for a question that times out may ask another one.
            let next = self.known.timeout().unwrap_or(end).min(end);
            sleep(Duration::from_millis(next - self.known.now)).await;
            self.known.pass_to(next);
            self.settle().await?;
        }
        Ok(())
    }

    fn check_state(&self) -> Result<(), TestCaseError> {
        let (state, known) = (self.handle.state(), &self.known);
        prop_assert_eq!(state.failures, known.failures);
        prop_assert_eq!(state.is_grant_rejected, known.rejected);
        prop_assert_eq!(state.is_refreshing, known.in_flight.is_some());
        let left = known.token.map(|token| token.1.saturating_sub(known.now));
        prop_assert_eq!(state.expires_in_ms, left);
        Ok(())
    }

    /// Whatever has happened, there is a way out.
    async fn recover(&mut self) -> Result<(), TestCaseError> {
        if self.known.rejected {
            self.apply(Operation::Reset).await?;
        }
        self.apply(Operation::Pass(2 * REFRESH_TIMEOUT + 6)).await?;
        self.call(None, true);
        self.settle().await?;
        for _ in 0..2 {
            self.apply(Operation::Answer(1000)).await?;
        }
        prop_assert!(self.calls.is_empty(), "no way out");
        prop_assert_eq!(self.handle.state().status, TokenStatus::Valid);
        Ok(())
    }
}

async fn run(history: Vec<Operation>) -> Result<(), TestCaseError> {
    let mut real = Real::new();
    for operation in history {
        real.apply(operation).await?;
    }
    real.recover().await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_keeps_its_promises(history in vec(operation(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(history))?;
    }
}
