//! Random histories, held against a plain model of what the layer promises.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use toolweir_core::{AsRejection as _, BoxError, Reason};
use toolweir_warm_up::{WarmUpConfig, WarmUpHandle, WarmUpLayer, Warmth, step_fn};
use tower::{Layer as _, ServiceExt as _, service_fn};

// Operations come at multiples of ten milliseconds, so no two of these ever fall together.
const TIMEOUT: u64 = 1002;
const MAX_WAIT: u64 = 305;
const BACKOFF: u64 = 101;
const MAX_BACKOFF: u64 = 404;

#[derive(Debug, Clone)]
enum Operation {
    Call,
    Drop,
    Pass(u64),
    Succeed,
    Fail,
    Invalidate,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => Just(Operation::Call),
        1 => Just(Operation::Drop),
        4 => (1_u64..40).prop_map(|tens| Operation::Pass(tens * 10)),
        1 => (40_u64..400).prop_map(|tens| Operation::Pass(tens * 10)),
        2 => Just(Operation::Succeed),
        3 => Just(Operation::Fail),
        1 => Just(Operation::Invalidate),
    ]
}

/// How a call ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waits,
    Passed,
    Refused(Reason),
}

/// What the layer promises, written down without regard for speed.
#[derive(Debug, Default)]
struct Model {
    now: u64,
    phase: Phase,
    failures: u32,
    warm_ups: u64,
    /// When each call's patience ends, and its fate.
    calls: Vec<(u64, Fate)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Cold,
    Warming(u64),
    Warm,
    Resting(u64),
}

impl Model {
    fn call(&mut self) {
        match self.phase {
            Phase::Warm => self.calls.push((0, Fate::Passed)),
            Phase::Resting(until) if self.now < until => {
                let refused = Fate::Refused(Reason::WarmUpFailed);
                self.calls.push((0, refused));
            }
            Phase::Cold | Phase::Resting(_) => {
                self.start();
                self.calls.push((self.now + MAX_WAIT, Fate::Waits));
            }
            Phase::Warming(_) => self.calls.push((self.now + MAX_WAIT, Fate::Waits)),
        }
    }

    fn start(&mut self) {
        self.phase = Phase::Warming(self.now);
        self.warm_ups += 1;
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(next) = self.next_event().filter(|&next| next <= end) {
            self.now = next;
            for call in self.waiting().filter(|call| call.0 == next) {
                call.1 = Fate::Refused(Reason::WaitTooLong);
            }
            if self.timeout() == Some(next) {
                self.land(false);
            }
        }
        self.now = end;
    }

    fn next_event(&mut self) -> Option<u64> {
        let timeout = self.timeout();
        self.waiting().map(|call| call.0).chain(timeout).min()
    }

    fn timeout(&self) -> Option<u64> {
        match self.phase {
            Phase::Warming(since) => Some(since + TIMEOUT),
            _ => None,
        }
    }

    fn land(&mut self, well: bool) {
        if !matches!(self.phase, Phase::Warming(_)) {
            return;
        }
        let fate = if well {
            self.phase = Phase::Warm;
            self.failures = 0;
            Fate::Passed
        } else {
            let backoff = (BACKOFF << self.failures.min(10)).min(MAX_BACKOFF);
            self.phase = Phase::Resting(self.now + backoff);
            self.failures += 1;
            Fate::Refused(Reason::WarmUpFailed)
        };
        for call in self.waiting() {
            call.1 = fate;
        }
    }

    fn invalidate(&mut self) {
        self.phase = Phase::Cold;
        self.failures = 0;
        if self.waiting().next().is_some() {
            self.start();
        }
    }

    fn waiting(&mut self) -> impl Iterator<Item = &mut (u64, Fate)> {
        self.calls.iter_mut().filter(|call| call.1 == Fate::Waits)
    }

    fn warmth(&self) -> Warmth {
        match self.phase {
            Phase::Cold => Warmth::Cold,
            Phase::Warming(_) => Warmth::Warming,
            Phase::Warm => Warmth::Warm,
            Phase::Resting(_) => Warmth::Failed,
        }
    }
}

type Ends = Arc<Mutex<Vec<oneshot::Sender<Result<(), BoxError>>>>>;

/// The layer, with a step that ends when it is told to.
struct Real {
    layer: WarmUpLayer,
    handle: WarmUpHandle,
    ends: Ends,
    calls: Vec<(Option<JoinHandle<Fate>>, Fate)>,
}

impl Real {
    fn new() -> Self {
        let config = WarmUpConfig::builder()
            .timeout(Duration::from_millis(TIMEOUT))
            .max_wait(Duration::from_millis(MAX_WAIT))
            .initial_backoff(Duration::from_millis(BACKOFF))
            .max_backoff(Duration::from_millis(MAX_BACKOFF))
            .build()
            .unwrap();
        let ends = Ends::default();
        let step = step_fn({
            let ends = ends.clone();
            move || {
                let (end, ended) = oneshot::channel();
                ends.lock().unwrap().push(end);
                async { ended.await? }
            }
        });
        let layer = WarmUpLayer::new(config, step);
        Self {
            handle: layer.handle(),
            layer,
            ends,
            calls: Vec::new(),
        }
    }

    fn call(&mut self) {
        let inner = service_fn(|()| async { Ok::<_, BoxError>(()) });
        let call = self.layer.layer(inner).oneshot(());
        let task = tokio::spawn(async move {
            match call.await {
                Ok(()) => Fate::Passed,
                Err(error) => Fate::Refused(error.as_rejection().unwrap().reason()),
            }
        });
        self.calls.push((Some(task), Fate::Waits));
    }

    /// Drops the oldest call that still waits.
    fn drop_call(&mut self) -> Option<usize> {
        let at = self.calls.iter().position(|call| call.0.is_some())?;
        let (task, _) = self.calls.remove(at);
        task.unwrap().abort();
        Some(at)
    }

    fn end(&self, result: Result<(), BoxError>) {
        if let Some(end) = self.ends.lock().unwrap().pop() {
            // Nobody listens where the warm-up was cut off.
            let _ = end.send(result);
        }
    }

    async fn settle(&mut self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for (task, fate) in &mut self.calls {
            if let Some(done) = task.take_if(|task| task.is_finished()) {
                *fate = done.await.unwrap();
            }
        }
    }
}

async fn run(history: Vec<Operation>) -> Result<(), TestCaseError> {
    let (mut real, mut model) = (Real::new(), Model::default());
    for operation in history {
        match operation {
            Operation::Call => {
                real.call();
                model.call();
            }
            Operation::Drop => {
                if let Some(at) = real.drop_call() {
                    model.calls.remove(at);
                }
            }
            Operation::Pass(millis) => {
                sleep(Duration::from_millis(millis)).await;
                model.pass(millis);
            }
            Operation::Succeed => {
                real.end(Ok(()));
                model.land(true);
            }
            Operation::Fail => {
                real.end(Err("down".into()));
                model.land(false);
            }
            Operation::Invalidate => {
                real.handle.invalidate();
                model.invalidate();
            }
        }
        real.settle().await;
        let state = real.handle.state();
        prop_assert_eq!(state.warmth, model.warmth());
        prop_assert_eq!(state.failures, model.failures);
        prop_assert_eq!(state.warm_ups, model.warm_ups);
        let fates = |fate: &(u64, Fate)| fate.1;
        let real_fates: Vec<_> = real.calls.iter().map(|call| call.1).collect();
        let model_fates: Vec<_> = model.calls.iter().map(fates).collect();
        prop_assert_eq!(real_fates, model_fates);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(history in vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(history))?;
    }
}
