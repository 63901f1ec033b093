//! Random histories, held against a plain model of what the layer promises.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use toolweir_core::{
    AsRejection as _, BoxError, BoxFuture, Classify, Delivery, Health, Observation, Outcome,
    Reason, Rejection,
};
use toolweir_health_gate::{
    HealthGateConfig, HealthGateHandle, HealthGateLayer, UnknownPolicy, probe_fn,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

const PERIOD: u64 = 1000;
// Operations come at multiples of ten milliseconds, so a probe never times out just then.
const TIMEOUT: u64 = 403;
const RETRY_AFTER: u64 = 200;

#[derive(Debug, Clone)]
enum Operation {
    Call,
    Finish(Answer),
    Pass(u64),
    Probed(ProbeEnd),
    Check,
    Dormant,
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Success,
    Failure,
    Ignored,
}

#[derive(Debug, Clone, Copy)]
enum ProbeEnd {
    Well,
    Unwell,
    Refused,
}

fn operation() -> impl Strategy<Value = Operation> {
    let finish = prop_oneof![
        3 => Just(Answer::Success),
        4 => Just(Answer::Failure),
        1 => Just(Answer::Ignored),
    ];
    let probed = prop_oneof![
        3 => Just(ProbeEnd::Well),
        3 => Just(ProbeEnd::Unwell),
        1 => Just(ProbeEnd::Refused),
    ];
    prop_oneof![
        6 => Just(Operation::Call),
        6 => finish.prop_map(Operation::Finish),
        4 => (1_u64..60).prop_map(|tens| Operation::Pass(tens * 10)),
        2 => (60_u64..200).prop_map(|tens| Operation::Pass(tens * 10)),
        4 => probed.prop_map(Operation::Probed),
        1 => Just(Operation::Check),
        1 => Just(Operation::Dormant),
        1 => Just(Operation::Reset),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    failure_threshold: u32,
    success_threshold: u32,
    refuses_unknown: bool,
}

/// What the layer promises, written down without regard for speed.
#[derive(Debug)]
struct Model {
    settings: Settings,
    now: u64,
    health: Health,
    generation: u32,
    failures: u32,
    successes: u32,
    due: u64,
    /// Since when, and in which generation.
    probing: Option<(u64, u32)>,
    probes: u64,
    /// The generations of the calls under way.
    calls: VecDeque<u32>,
}

impl Model {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: 0,
            health: Health::Unknown,
            generation: 0,
            failures: 0,
            successes: 0,
            due: 0,
            probing: None,
            probes: 0,
            calls: VecDeque::new(),
        }
    }

    fn is_open(&self) -> bool {
        match self.health {
            Health::Unhealthy => false,
            Health::Unknown => !self.settings.refuses_unknown,
            _ => true,
        }
    }

    /// Returns whether the call is let through.
    fn call(&mut self) -> bool {
        let is_open = self.is_open();
        if is_open {
            self.calls.push_back(self.generation);
        }
        self.probe();
        is_open
    }

    fn probe(&mut self) {
        if self.probing.is_none() && self.health != Health::Dormant && self.now >= self.due {
            self.probing = Some((self.now, self.generation));
            self.probes += 1;
        }
    }

    fn finish(&mut self, answer: Answer) {
        let Some(generation) = self.calls.pop_front() else {
            return;
        };
        if generation != self.generation {
            return;
        }
        let is_plainly_well = self.health == Health::Healthy && self.failures == 0;
        match answer {
            // Known recently enough: this is not written down again.
            Answer::Success
                if is_plainly_well
                    && self.probing.is_none()
                    && self.now + PERIOD / 2 < self.due => {}
            Answer::Success => self.succeed(),
            Answer::Failure => self.fail(),
            Answer::Ignored => {}
        }
    }

    fn succeed(&mut self) {
        self.due = self.now + PERIOD;
        self.failures = 0;
        if self.health == Health::Unhealthy {
            self.successes += 1;
            if self.successes < self.settings.success_threshold {
                return;
            }
            self.generation += 1;
        }
        self.health = Health::Healthy;
        self.successes = 0;
    }

    fn fail(&mut self) {
        self.due = self.now + PERIOD;
        self.successes = 0;
        self.failures += 1;
        if self.health == Health::Dormant {
            self.health = Health::Unknown;
        }
        if self.failures >= self.settings.failure_threshold && self.health != Health::Unhealthy {
            self.health = Health::Unhealthy;
            self.generation += 1;
        }
    }

    fn probed(&mut self, end: ProbeEnd) {
        let Some((_, generation)) = self.probing.take() else {
            return;
        };
        if generation == self.generation {
            match end {
                ProbeEnd::Well => self.succeed(),
                ProbeEnd::Unwell => self.fail(),
                ProbeEnd::Refused => self.due = self.now + RETRY_AFTER,
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        if let Some((since, _)) = self.probing.filter(|probing| probing.0 + TIMEOUT <= end) {
            self.now = since + TIMEOUT;
            self.probed(ProbeEnd::Unwell);
        }
        self.now = end;
    }

    fn set(&mut self, health: Health) {
        self.health = health;
        self.generation += 1;
        (self.failures, self.successes, self.due) = (0, 0, 0);
    }
}

/// Reads a call's answer from its error.
#[derive(Clone)]
struct ByAnswer;

impl Classify<Answer, BoxError> for ByAnswer {
    fn classify(&self, result: Result<&Answer, &BoxError>) -> Observation {
        let outcome = match result {
            Ok(Answer::Success) => Outcome::Success,
            Ok(Answer::Ignored) => Outcome::Ignored,
            Ok(Answer::Failure) | Err(_) => Outcome::Failure,
        };
        Observation::new(outcome, Delivery::Executed)
    }
}

type Ends = Arc<Mutex<Vec<oneshot::Sender<Result<(), BoxError>>>>>;

/// The layer, with a probe and calls that end when they are told to.
struct Real {
    layer: HealthGateLayer<ByAnswer>,
    handle: HealthGateHandle,
    ends: Ends,
    calls: VecDeque<(oneshot::Sender<Answer>, JoinHandle<Option<Rejection>>)>,
}

impl Real {
    fn new(settings: Settings) -> Self {
        let unknown = if settings.refuses_unknown {
            UnknownPolicy::Refuse
        } else {
            UnknownPolicy::Allow
        };
        let config = HealthGateConfig::builder()
            .period(Duration::from_millis(PERIOD))
            .timeout(Duration::from_millis(TIMEOUT))
            .failure_threshold(settings.failure_threshold)
            .success_threshold(settings.success_threshold)
            .unknown(unknown)
            .build()
            .unwrap();
        let ends = Ends::default();
        let probe = probe_fn({
            let ends = ends.clone();
            move || {
                let (end, ended) = oneshot::channel();
                ends.lock().unwrap().push(end);
                async { ended.await? }
            }
        });
        let layer = HealthGateLayer::new(config, probe);
        Self {
            handle: layer.handle(),
            layer: layer.with_classifier(ByAnswer),
            ends,
            calls: VecDeque::new(),
        }
    }

    /// Returns the refusal, if it is refused.
    async fn call(&mut self) -> Option<Rejection> {
        let (answer, answered) = oneshot::channel::<Answer>();
        let mut answered = Some(answered);
        let inner = service_fn(move |()| {
            let answered = answered.take().unwrap();
            async { answered.await.map_err(BoxError::from) }
        });
        // Erased here: inside an async block the compiler would forget the error's lifetime.
        let call: BoxFuture<'static, Result<Answer, BoxError>> =
            Box::pin(self.layer.layer(inner).oneshot(()));
        let task = tokio::spawn(async move {
            let error = call.await.err()?;
            error.as_rejection().cloned()
        });
        settle().await;
        if task.is_finished() {
            return task.await.unwrap();
        }
        self.calls.push_back((answer, task));
        None
    }

    async fn finish(&mut self, answer: Answer) {
        if let Some((sender, task)) = self.calls.pop_front() {
            sender.send(answer).unwrap();
            assert_eq!(task.await.unwrap(), None);
        }
    }

    fn probed(&self, end: ProbeEnd) {
        if let Some(sender) = self.ends.lock().unwrap().pop() {
            let refusal = Rejection::new("rate-limit", Reason::QuotaSpent)
                .with_retry_after(Duration::from_millis(RETRY_AFTER));
            // Nobody listens where the probe timed out.
            let _ = sender.send(match end {
                ProbeEnd::Well => Ok(()),
                ProbeEnd::Unwell => Err("down".into()),
                ProbeEnd::Refused => Err(refusal.into()),
            });
        }
    }
}

async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn run(settings: Settings, history: Vec<Operation>) -> Result<(), TestCaseError> {
    let (mut real, mut model) = (Real::new(settings), Model::new(settings));
    for operation in history {
        match operation {
            Operation::Call => {
                let refused = real.call().await;
                prop_assert_eq!(refused.is_none(), model.call());
                if let Some(refused) = refused {
                    // There is always a way out, and it is told.
                    let retry_after = refused.retry_after().unwrap();
                    prop_assert!(retry_after <= Duration::from_millis(PERIOD));
                }
            }
            Operation::Finish(answer) => {
                real.finish(answer).await;
                model.finish(answer);
            }
            Operation::Pass(millis) => {
                sleep(Duration::from_millis(millis)).await;
                model.pass(millis);
            }
            Operation::Probed(end) => {
                real.probed(end);
                model.probed(end);
            }
            Operation::Check => {
                let handle = real.handle.clone();
                tokio::spawn(async move { handle.check_health().await });
                model.probe();
            }
            Operation::Dormant => {
                real.handle.set_dormant();
                model.set(Health::Dormant);
            }
            Operation::Reset => {
                real.handle.reset();
                model.set(Health::Unknown);
            }
        }
        settle().await;
        compare(&real, &model)?;
    }
    Ok(())
}

fn compare(real: &Real, model: &Model) -> Result<(), TestCaseError> {
    let state = real.handle.state();
    prop_assert_eq!(state.health, model.health);
    prop_assert_eq!(state.is_open, model.is_open());
    prop_assert_eq!(state.failures, model.failures);
    prop_assert_eq!(state.successes, model.successes);
    prop_assert_eq!(state.probes, model.probes);
    prop_assert_eq!(state.is_probing, model.probing.is_some());
    let due = (model.health != Health::Dormant).then(|| model.due.saturating_sub(model.now));
    prop_assert_eq!(state.probe_due_in_ms, due);
    Ok(())
}

fn settings() -> impl Strategy<Value = Settings> {
    (1_u32..4, 1_u32..4, any::<bool>()).prop_map(|(failures, successes, refuses)| Settings {
        failure_threshold: failures,
        success_threshold: successes,
        refuses_unknown: refuses,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(settings in settings(), history in vec(operation(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(settings, history))?;
    }
}
