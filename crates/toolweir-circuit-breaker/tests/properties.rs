//! Random histories, against a reference model that is plain rather than fast: it keeps every vote
//! and every lease in lists and looks through them each time.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use proptest::{prelude::*, test_runner::RngAlgorithm};
use toolweir_circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitBreakerLayer, OnThrottled};
use toolweir_core::{AsRejection, BoxError, Facts, Reason, Rejection};
use tower::{Layer, Service, service_fn};

mod server;
use server::{Answer, Call, Classifier, Job, Rig, classify};

#[derive(Debug, Clone, Copy)]
enum Window {
    Calls(usize),
    /// Milliseconds, and in how many buckets.
    Time(u64, u32),
}

/// All times in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    window: Window,
    minimum: usize,
    rate: u8,
    in_a_row: Option<u32>,
    slow: Option<(u64, u8)>,
    open: u64,
    max_open: u64,
    permitted: usize,
    successes: u32,
    lease: u64,
    stay: u64,
    ignore_throttled: bool,
}

const DEFAULT_PAUSE: u64 = 70;
const MAX_PAUSE: u64 = 500;

impl Numbers {
    fn config(self) -> CircuitBreakerConfig {
        let builder = CircuitBreakerConfig::builder();
        let mut builder = match self.window {
            Window::Calls(size) => builder.sliding_window_size(size),
            Window::Time(millis, buckets) => builder
                .sliding_window_duration(ms(millis))
                .sliding_window_buckets(buckets),
        };
        builder = builder
            .minimum_number_of_calls(self.minimum)
            .failure_rate_threshold(self.rate)
            .wait_duration_in_open_state(ms(self.open))
            .max_wait_duration_in_open_state(ms(self.max_open))
            .permitted_number_of_calls_in_half_open_state(self.permitted)
            .success_threshold(self.successes)
            .probe_lease(ms(self.lease))
            .max_wait_duration_in_half_open_state(ms(self.stay))
            .default_retry_after(ms(DEFAULT_PAUSE))
            .max_retry_after(ms(MAX_PAUSE))
            .jitter(0);
        if let Some(failures) = self.in_a_row {
            builder = builder.consecutive_failures(failures);
        }
        if let Some((duration, rate)) = self.slow {
            builder = builder
                .slow_call_duration_threshold(ms(duration))
                .slow_call_rate_threshold(rate);
        }
        if self.ignore_throttled {
            builder = builder.on_throttled(OnThrottled::Ignore);
        }
        builder.build().unwrap()
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let window = prop_oneof![
        (1_usize..9).prop_map(Window::Calls),
        (20_u64..600, 2_u32..12).prop_map(|(millis, buckets)| Window::Time(millis, buckets)),
    ];
    let closed = (
        (window, 1_usize..9, 1_u8..=100),
        prop::option::of(1_u32..6),
        prop::option::of((20_u64..200, 1_u8..=100)),
    );
    let open = (10_u64..200, 0_u64..800);
    let half_open = (1_usize..4, 1_u32..4, 10_u64..200, 0_u64..400);
    (closed, open, half_open, any::<bool>()).prop_map(|(closed, open, half_open, ignore)| {
        let ((window, minimum, rate), in_a_row, slow) = closed;
        let (permitted, successes, lease, longer) = half_open;
        Numbers {
            window,
            minimum: match window {
                Window::Calls(size) => minimum.min(size),
                Window::Time(..) => minimum,
            },
            rate,
            in_a_row,
            slow,
            open: open.0,
            max_open: open.0 + open.1,
            permitted,
            successes,
            lease,
            stay: lease + longer,
            ignore_throttled: ignore,
        }
    })
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Through the whole breaker.
    Call,
    /// Through admission, to wait in a queue.
    Admit,
    /// From the queue through observation. Numbers are taken modulo what there is.
    Dispatch(usize),
    /// Out of the queue, without being dispatched.
    GiveUp(usize),
    /// Through observation alone.
    CallAround,
    Answer(usize, Answer),
    Cancel(usize),
    Pass(u64),
    Hold(Circuit, Option<u64>),
    Release,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0_usize..16;
    let answer = prop_oneof![
        6 => Just(Answer::Success),
        6 => Just(Answer::Failure),
        2 => prop::option::of(0_u64..800).prop_map(|wait| Answer::Throttled(wait.map(ms))),
        1 => Just(Answer::Unauthorized),
        1 => Just(Answer::Ignored),
        1 => Just(Answer::BusinessError),
        1 => Just(Answer::Refused),
        1 => Just(Answer::Panic),
    ];
    let hold = prop_oneof![
        Just(Circuit::HeldOpen),
        Just(Circuit::HeldClosed),
        Just(Circuit::ObserveOnly),
    ];
    let time = prop_oneof![
        4 => 0_u64..30,
        4 => 30_u64..300,
        1 => 300_u64..3_000,
        // A suspended machine.
        1 => Just(400 * 24 * 3_600_000),
    ];
    prop_oneof![
        12 => Just(Step::Call),
        4 => Just(Step::Admit),
        4 => at.clone().prop_map(Step::Dispatch),
        1 => at.clone().prop_map(Step::GiveUp),
        1 => Just(Step::CallAround),
        16 => (at.clone(), answer).prop_map(|(at, answer)| Step::Answer(at, answer)),
        2 => at.prop_map(Step::Cancel),
        8 => time.prop_map(Step::Pass),
        1 => (hold, prop::option::weighted(0.7, 0_u64..500))
            .prop_map(|(circuit, wait)| Step::Hold(circuit, wait)),
        1 => Just(Step::Release),
        1 => Just(Step::Reset),
    ]
}

/// A key, what the server answers, and how long it is until the call.
fn keyed_step() -> impl Strategy<Value = (usize, Answer, u64)> {
    let answer = prop_oneof![
        3 => Just(Answer::Success),
        5 => Just(Answer::Failure),
        1 => (0_u64..800).prop_map(|wait| Answer::Throttled(Some(ms(wait)))),
        1 => Just(Answer::BusinessError),
    ];
    let wait = prop_oneof![
        8 => Just(0_u64),
        4 => 0_u64..60,
        2 => 60_u64..500,
        1 => 500_u64..3_000,
        // A suspended machine.
        1 => Just(400 * 24 * 3_600_000),
    ];
    (0_usize..7, answer, wait)
}

#[derive(Debug, Clone, Copy)]
struct Vote {
    at: u64,
    failed: bool,
    slow: bool,
}

/// One stay in half-open.
#[derive(Debug, Clone, Default)]
struct Stay {
    end: u64,
    /// Number and end of each lease ever given.
    leases: Vec<(u64, u64)>,
    /// Probes that were dispatched, and those whose call has come to an end that tells something.
    dispatched: Vec<u64>,
    answered: Vec<u64>,
    /// Whether each successful probe was slow.
    successes: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Under {
    Closed,
    /// Closed again at this time.
    PausedClosed(u64),
    /// Half-open again with the first call from this time on, with these successes.
    PausedHalfOpen(u64, Vec<bool>),
    Open(u64),
    HalfOpen(Stay),
}

/// What a call holds: the epoch in which it was admitted, and its probe number.
#[derive(Debug, Clone, Copy)]
struct Pass {
    epoch: u64,
    probe: Option<u64>,
}

type Refused = (Reason, Option<u64>);

struct Model {
    numbers: Numbers,
    now: u64,
    under: Under,
    hold: Option<(Circuit, Option<u64>)>,
    epoch: u64,
    votes: Vec<Vote>,
    /// When the votes were last looked through for those that are too old.
    looked_at: u64,
    in_a_row: u32,
    openings: u32,
    closed_at: u64,
    last_probe: u64,
    stale: u64,
    refused: u64,
}

impl Model {
    fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            now: 0,
            under: Under::Closed,
            hold: None,
            epoch: 0,
            votes: Vec::new(),
            looked_at: 0,
            in_a_row: 0,
            openings: 0,
            closed_at: 0,
            last_probe: 0,
            stale: 0,
            refused: 0,
        }
    }

    fn circuit(&self) -> Circuit {
        match (&self.hold, &self.under) {
            (Some((circuit, _)), _) => *circuit,
            (None, Under::Closed) => Circuit::Closed,
            (None, Under::HalfOpen(_)) => Circuit::HalfOpen,
            (None, _) => Circuit::Open,
        }
    }

    fn become_(&mut self, under: Under) {
        self.under = under;
        self.epoch += 1;
    }

    fn close(&mut self, at: u64) {
        self.votes.clear();
        self.in_a_row = 0;
        self.closed_at = at;
        self.become_(Under::Closed);
    }

    fn open(&mut self, at: u64, worse: bool) {
        self.openings += u32::from(worse);
        let mut period = self.numbers.open;
        for _ in 1..self.openings {
            period = (period * 2).min(self.numbers.max_open);
        }
        self.become_(Under::Open(at + period));
    }

    fn pause(&mut self, wait: Option<Duration>, then: impl FnOnce(u64) -> Under) {
        let wait = wait.map_or(DEFAULT_PAUSE, |wait| {
            u64::try_from(wait.as_millis()).unwrap()
        });
        let wait = wait.min(MAX_PAUSE);
        if wait > 0 && !self.numbers.ignore_throttled {
            self.become_(then(self.now + wait));
        }
    }

    /// What would have happened by now had somebody watched the clock.
    fn pass_time(&mut self) {
        if let Some((_, Some(end))) = self.hold
            && end <= self.now
        {
            self.hold = None;
            self.epoch += 1;
        }
        if self.hold.is_some() {
            return;
        }
        match &self.under {
            Under::PausedClosed(end) if *end <= self.now => self.become_(Under::Closed),
            Under::HalfOpen(stay) if stay.end <= self.now => {
                let end = stay.end;
                if stay.dispatched.len() > stay.answered.len() {
                    self.open(end, true);
                } else if stay.successes.is_empty() {
                    self.open(end, false);
                } else {
                    let successes = stay.successes.clone();
                    self.judge(&successes, end);
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, successes: &[bool], at: u64) {
        let slow = successes.iter().filter(|slow| **slow).count();
        match self.numbers.slow {
            Some((_, rate)) if slow * 100 >= successes.len() * usize::from(rate) => {
                self.open(at, true);
            }
            _ => self.close(at),
        }
    }

    fn refusal(&self) -> Option<Refused> {
        let open_until = match &self.under {
            Under::PausedClosed(end) | Under::PausedHalfOpen(end, _) | Under::Open(end) => *end,
            Under::Closed | Under::HalfOpen(_) => 0,
        };
        if let Some((circuit, end)) = self.hold {
            let refusal = (
                Reason::HeldOpen,
                end.map(|end| end.max(open_until) - self.now),
            );
            return (circuit == Circuit::HeldOpen).then_some(refusal);
        }
        match &self.under {
            Under::HalfOpen(stay) => {
                let held: Vec<u64> = stay.leases.iter().map(|lease| lease.1).collect();
                let held: Vec<u64> = held.into_iter().filter(|end| *end > self.now).collect();
                let full = held.len() >= self.numbers.permitted;
                full.then(|| {
                    let free = held.into_iter().min().unwrap().min(stay.end);
                    (Reason::ProbesOut, Some(free - self.now))
                })
            }
            _ if open_until <= self.now => None,
            Under::Open(_) => Some((Reason::CircuitOpen, Some(open_until - self.now))),
            _ => Some((Reason::Throttled, Some(open_until - self.now))),
        }
    }

    fn admit(&mut self) -> Result<Pass, Refused> {
        self.pass_time();
        if let Some(refusal) = self.refusal() {
            self.refused += 1;
            return Err(refusal);
        }
        let mut probe = None;
        if self.hold.is_none() {
            let successes = match &self.under {
                Under::Open(_) => Some(Vec::new()),
                Under::PausedHalfOpen(_, successes) => Some(successes.clone()),
                _ => None,
            };
            if let Some(successes) = successes {
                self.become_(Under::HalfOpen(Stay {
                    end: self.now + self.numbers.stay,
                    successes,
                    ..Stay::default()
                }));
            }
            if let Under::HalfOpen(stay) = &mut self.under {
                self.last_probe += 1;
                stay.leases
                    .push((self.last_probe, self.now + self.numbers.lease));
                probe = Some(self.last_probe);
            }
        }
        Ok(Pass {
            epoch: self.epoch,
            probe,
        })
    }

    fn dispatch(&mut self, pass: Pass) -> Result<Pass, Refused> {
        self.pass_time();
        let (now, lease) = (self.now, self.numbers.lease);
        let mut pass = pass;
        if pass.epoch != self.epoch || !self.holds_a_lease(pass) {
            pass = self.admit()?;
        }
        if let (Some(number), Under::HalfOpen(stay)) = (pass.probe, &mut self.under) {
            stay.leases.retain(|(own, _)| *own != number);
            stay.leases.push((number, now + lease));
            stay.dispatched.push(number);
        }
        Ok(pass)
    }

    fn holds_a_lease(&self, pass: Pass) -> bool {
        match (pass.probe, &self.under) {
            (Some(number), Under::HalfOpen(stay)) => stay
                .leases
                .iter()
                .any(|(own, end)| *own == number && *end > self.now),
            (Some(_), _) => false,
            (None, _) => true,
        }
    }

    fn dispatch_unadmitted(&mut self) -> Pass {
        self.pass_time();
        Pass {
            epoch: self.epoch,
            probe: None,
        }
    }

    fn free(&mut self, pass: Pass) {
        if let Under::HalfOpen(stay) = &mut self.under {
            stay.leases.retain(|(own, _)| Some(*own) != pass.probe);
        }
    }

    /// `None`: the call was cancelled.
    fn end(&mut self, pass: Pass, answer: Option<Answer>, took: u64) {
        self.pass_time();
        if pass.epoch != self.epoch {
            let tells = !matches!(answer, None | Some(Answer::Refused));
            self.stale += u64::from(tells);
            return;
        }
        let slow = self.numbers.slow.is_some_and(|(limit, _)| took >= limit);
        match self.circuit() {
            Circuit::Closed => self.end_closed(answer, slow),
            Circuit::HalfOpen => self.end_probe(pass, answer, slow),
            Circuit::ObserveOnly => {
                self.vote(answer, slow);
            }
            _ => {}
        }
    }

    fn vote(&mut self, answer: Option<Answer>, slow: bool) -> bool {
        let failed = match answer {
            Some(Answer::Success) => false,
            Some(Answer::Failure | Answer::Panic) => true,
            None if slow => false,
            _ => return false,
        };
        match answer {
            Some(Answer::Success) => self.in_a_row = 0,
            Some(_) => self.in_a_row += 1,
            None => {}
        }
        let at = self.now;
        self.votes.push(Vote { at, failed, slow });
        true
    }

    fn last_votes(&mut self) -> &[Vote] {
        // What is not counted on stays as it was.
        if matches!(self.under, Under::Closed) || self.circuit() == Circuit::ObserveOnly {
            self.looked_at = self.now;
        }
        let first = match self.numbers.window {
            Window::Calls(size) => self.votes.len().saturating_sub(size),
            Window::Time(millis, buckets) => {
                let width = u64::try_from(ms(millis).as_nanos()).unwrap() / u64::from(buckets);
                let bucket = |at: u64| at * 1_000_000 / width;
                let present = bucket(self.looked_at);
                let is_young = |vote: &Vote| bucket(vote.at) + u64::from(buckets) > present;
                let young = self.votes.iter().position(is_young);
                young.unwrap_or(self.votes.len())
            }
        };
        &self.votes[first..]
    }

    fn end_closed(&mut self, answer: Option<Answer>, slow: bool) {
        if let Some(Answer::Throttled(wait)) = answer {
            self.pause(wait, Under::PausedClosed);
            return;
        }
        if !self.vote(answer, slow) {
            return;
        }
        if answer == Some(Answer::Success) && self.closed_at + self.numbers.max_open <= self.now {
            self.openings = 0;
        }
        let (numbers, in_a_row) = (self.numbers, self.in_a_row);
        let votes = self.last_votes();
        let percent = |count: usize| count * 100 / votes.len();
        let failed = votes.iter().filter(|vote| vote.failed).count();
        let slow = votes.iter().filter(|vote| vote.slow).count();
        let enough = votes.len() >= numbers.minimum;
        let row = numbers.in_a_row.is_some_and(|limit| in_a_row >= limit);
        let too_slow = |(_, rate): (u64, u8)| percent(slow) >= usize::from(rate);
        if row
            || enough && percent(failed) >= usize::from(numbers.rate)
            || enough && numbers.slow.is_some_and(too_slow)
        {
            self.open(self.now, true);
        }
    }

    fn end_probe(&mut self, pass: Pass, answer: Option<Answer>, slow: bool) {
        self.free(pass);
        let (Some(number), Under::HalfOpen(stay)) = (pass.probe, &mut self.under) else {
            return;
        };
        if answer.is_some() || slow {
            stay.answered.push(number);
        }
        match answer {
            // The server works.
            Some(Answer::Success | Answer::BusinessError) => {
                stay.successes.push(slow);
                if stay.successes.len() >= usize::try_from(self.numbers.successes).unwrap() {
                    let successes = stay.successes.clone();
                    self.judge(&successes, self.now);
                }
            }
            Some(Answer::Failure | Answer::Panic) => self.open(self.now, true),
            None if slow => self.open(self.now, true),
            Some(Answer::Throttled(wait)) => {
                let successes = stay.successes.clone();
                self.pause(wait, |end| Under::PausedHalfOpen(end, successes));
            }
            _ => {}
        }
    }

    fn hold(&mut self, circuit: Circuit, wait: Option<u64>) {
        self.pass_time();
        if matches!(self.under, Under::HalfOpen(_)) {
            self.under = Under::Open(self.now);
        }
        self.hold = Some((circuit, wait.map(|wait| self.now + wait)));
        self.epoch += 1;
    }

    fn release(&mut self) {
        self.pass_time();
        if self.hold.take().is_some() {
            self.epoch += 1;
            self.pass_time();
        }
    }

    fn reset(&mut self) {
        self.pass_time();
        self.openings = 0;
        self.close(self.now);
    }
}

/// The breaker and its model, side by side.
struct Pair {
    rig: Rig,
    model: Model,
    queued: Vec<(Job, Pass)>,
    calls: Vec<(Call, Pass, u64)>,
}

fn compare<T>(
    real: Result<T, Rejection>,
    model: Result<Pass, Refused>,
) -> Result<Option<(T, Pass)>, TestCaseError> {
    match (real, model) {
        (Ok(real), Ok(pass)) => Ok(Some((real, pass))),
        (Err(rejection), Err((reason, retry_after))) => {
            prop_assert_eq!(rejection.reason(), reason);
            prop_assert_eq!(rejection.retry_after(), retry_after.map(ms));
            Ok(None)
        }
        (real, model) => {
            let real = real.map(|_| "passes");
            Err(TestCaseError::fail(format!("{real:?} against {model:?}")))
        }
    }
}

impl Pair {
    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pass(millis) => {
                tokio::time::advance(ms(millis)).await;
                self.model.now += millis;
            }
            Step::Hold(circuit, wait) => {
                let duration = wait.map(ms);
                match circuit {
                    Circuit::HeldOpen => self.rig.handle.hold_open("test", duration),
                    Circuit::HeldClosed => self.rig.handle.hold_closed("test", duration),
                    _ => self.rig.handle.observe_only("test", duration),
                }
                self.model.hold(circuit, wait);
            }
            Step::Release => {
                self.rig.handle.release();
                self.model.release();
            }
            Step::Reset => {
                self.rig.handle.reset();
                self.model.reset();
            }
            step => self.make_calls(step)?,
        }
        self.compare_states()
    }

    fn make_calls(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = self.model.now;
        match step {
            Step::Call => {
                let model = self.model.admit();
                let model = model.and_then(|pass| self.model.dispatch(pass));
                let made = compare(self.rig.call(), model)?;
                self.calls
                    .extend(made.map(|(call, pass)| (call, pass, now)));
            }
            Step::Admit => {
                let made = compare(self.rig.admit(), self.model.admit())?;
                self.queued.extend(made);
            }
            Step::Dispatch(at) if !self.queued.is_empty() => {
                let (job, pass) = self.queued.remove(at % self.queued.len());
                let made = compare(self.rig.dispatch(job), self.model.dispatch(pass))?;
                self.calls
                    .extend(made.map(|(call, pass)| (call, pass, now)));
            }
            Step::GiveUp(at) if !self.queued.is_empty() => {
                let (job, pass) = self.queued.remove(at % self.queued.len());
                drop(job);
                self.model.free(pass);
            }
            Step::CallAround => {
                let pass = self.model.dispatch_unadmitted();
                let made = compare(self.rig.dispatch(Job::default()), Ok(pass))?;
                self.calls
                    .extend(made.map(|(call, pass)| (call, pass, now)));
            }
            Step::Answer(at, answer) if !self.calls.is_empty() => {
                let (call, pass, since) = self.calls.remove(at % self.calls.len());
                call.answer(answer);
                self.model.end(pass, Some(answer), now - since);
            }
            Step::Cancel(at) if !self.calls.is_empty() => {
                let (call, pass, since) = self.calls.remove(at % self.calls.len());
                drop(call);
                self.model.end(pass, None, now - since);
                self.model.free(pass);
            }
            _ => {}
        }
        Ok(())
    }

    fn compare_states(&mut self) -> Result<(), TestCaseError> {
        let state = self.rig.handle.state();
        let model = &mut self.model;
        model.pass_time();
        prop_assert_eq!(state.state, model.circuit());
        prop_assert_eq!(state.generation, model.epoch);
        let votes = model.last_votes();
        let count = |said: fn(&Vote) -> bool| -> u64 {
            votes.iter().map(|vote| u64::from(said(vote))).sum()
        };
        prop_assert_eq!(state.window.calls, count(|_| true));
        prop_assert_eq!(state.window.failures, count(|vote| vote.failed));
        prop_assert_eq!(state.window.slow_calls, count(|vote| vote.slow));
        prop_assert_eq!(state.window.consecutive_failures, model.in_a_row);
        prop_assert_eq!(state.openings, model.openings);
        prop_assert_eq!(state.stale_outcomes, model.stale);
        prop_assert_eq!(state.rejected_calls, model.refused);
        let refusal = model.refusal();
        prop_assert_eq!(state.is_open, refusal.is_some());
        prop_assert_eq!(self.rig.handle.reason(), refusal.map(|refusal| refusal.0));
        prop_assert_eq!(state.retry_after_ms, refusal.and_then(|refusal| refusal.1));
        Ok(())
    }

    /// Nothing but a hold without an end keeps calls out for good: who obeys each retry-after is
    /// let in after a few.
    async fn finds_a_way_in(&mut self) -> Result<(), TestCaseError> {
        if matches!(self.model.hold, Some((Circuit::HeldOpen, None))) {
            self.take(Step::Release).await?;
        }
        for _ in 0..4 {
            let Some((_, wait)) = self.model.refusal() else {
                return compare(self.rig.call(), self.model.admit()).map(drop);
            };
            let wait = wait.expect("a refusal without a hold names a time");
            prop_assert!(wait > 0);
            self.take(Step::Pass(wait)).await?;
        }
        Err(TestCaseError::fail(format!("shut: {:?}", self.model.under)))
    }
}

fn run(numbers: Numbers, steps: Vec<Step>) -> Result<(), TestCaseError> {
    runtime().block_on(async {
        let mut pair = Pair {
            rig: Rig::new(numbers.config()),
            model: Model::new(numbers),
            queued: Vec::new(),
            calls: Vec::new(),
        };
        for step in steps {
            pair.take(step).await?;
        }
        pair.finds_a_way_in().await
    })
}

/// Many circuits and a table of them, as lists: the least recently used key first. Fewer keys than
/// are asked to leave at once, so that the oldest that may leave does.
struct KeyedModel {
    numbers: Numbers,
    now: u64,
    keys: Vec<(usize, Model, u64)>,
    overflow: Option<Model>,
}

const MAX_KEYS: usize = 4;
const KEY_IDLE: u64 = 400;

impl KeyedModel {
    /// Whether the key at `at` has left. If it may not, it stands with the newest.
    fn leaves(&mut self, at: usize) -> bool {
        let (key, mut circuit, used) = self.keys.remove(at);
        circuit.now = self.now;
        let is_closed = matches!(circuit.under, Under::Closed);
        let is_idle = self.now - used >= KEY_IDLE;
        let may_leave = is_closed
            || is_idle && {
                circuit.pass_time();
                circuit.refusal().is_none()
            };
        if !may_leave {
            self.keys.push((key, circuit, used));
        }
        may_leave
    }

    fn forget_the_oldest_if_idle(&mut self) {
        if self
            .keys
            .first()
            .is_some_and(|key| self.now - key.2 >= KEY_IDLE)
        {
            self.leaves(0);
        }
    }

    fn place(&self, key: usize) -> Option<usize> {
        self.keys.iter().position(|(own, ..)| *own == key)
    }

    /// The circuit of a key, and whether it is its own.
    fn circuit(&mut self, key: usize) -> (&mut Model, bool) {
        if self.place(key).is_some_and(|at| at > 0) {
            self.forget_the_oldest_if_idle();
        }
        if let Some(at) = self.place(key)
            && self.now - self.keys[at].2 >= KEY_IDLE
        {
            self.leaves(at);
        }
        let mut fresh = Model::new(self.numbers);
        fresh.now = self.now;
        if let Some(at) = self.place(key) {
            let (_, circuit, _) = self.keys.remove(at);
            fresh = circuit;
        } else {
            self.forget_the_oldest_if_idle();
            let full = self.keys.len() == MAX_KEYS;
            if full && !(0..MAX_KEYS).any(|_| self.leaves(0)) {
                return (self.overflow.get_or_insert(fresh), false);
            }
        }
        self.keys.push((key, fresh, self.now));
        let last = self.keys.len() - 1;
        (&mut self.keys[last].1, true)
    }

    fn call(&mut self, key: usize, answer: Answer) -> (Result<(), Refused>, bool) {
        let now = self.now;
        let (circuit, is_own) = self.circuit(key);
        circuit.now = now;
        let made = circuit.admit().and_then(|pass| circuit.dispatch(pass));
        let made = made.map(|pass| circuit.end(pass, Some(answer), 0));
        (made, is_own)
    }
}

#[derive(Clone)]
struct ByKey;

type Keyed = (String, Answer);

impl Facts<Keyed> for ByKey {
    fn key<'r>(&self, call: &'r Keyed) -> Option<&'r str> {
        Some(&call.0)
    }
}

async fn run_keyed(
    numbers: Numbers,
    steps: Vec<(usize, Answer, u64)>,
) -> Result<(), TestCaseError> {
    let config = CircuitBreakerConfig::builder()
        .sliding_window_size(4)
        .minimum_number_of_calls(2)
        .wait_duration_in_open_state(ms(numbers.open))
        .max_wait_duration_in_open_state(ms(numbers.max_open))
        .success_threshold(numbers.successes)
        .default_retry_after(ms(DEFAULT_PAUSE))
        .max_retry_after(ms(MAX_PAUSE))
        .max_keys(MAX_KEYS)
        .key_idle(ms(KEY_IDLE))
        .jitter(0);
    let layer = CircuitBreakerLayer::new(config.build().unwrap())
        .with_classifier(classify as Classifier)
        .with_facts(ByKey)
        .by_key();
    let server = service_fn(|(_, answer): Keyed| {
        std::future::ready(match answer {
            Answer::Failure => Err(BoxError::from("connection reset")),
            answer => Ok(answer),
        })
    });
    let mut service = layer.layer(server);
    let mut model = KeyedModel {
        numbers,
        now: 0,
        keys: Vec::new(),
        overflow: None,
    };
    for (key, answer, wait) in steps {
        tokio::time::advance(ms(wait)).await;
        model.now += wait;
        let real = service.call((key.to_string(), answer)).await;
        let rejection = real.err().and_then(|error| error.as_rejection().cloned());
        let (made, is_own) = model.call(key, answer);
        let real = rejection
            .as_ref()
            .map(|rejection| (rejection.reason(), rejection.retry_after()));
        let expected = made.err().map(|(reason, wait)| (reason, wait.map(ms)));
        prop_assert_eq!(real, expected);
        if let Some(rejection) = rejection {
            let own = key.to_string();
            let name = if is_own { &own } else { "(other keys)" };
            prop_assert_eq!(rejection.key(), Some(name));
        }
        prop_assert_eq!(layer.handle().keys().keys, model.keys.len());
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        // In a debug build the default generator would take most of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_breaker_does_what_the_model_does(
        numbers in numbers(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        run(numbers, steps)?;
    }

    #[test]
    fn circuits_by_key_do_what_the_lists_do(
        mut numbers in numbers(),
        steps in prop::collection::vec(keyed_step(), 1..100),
    ) {
        numbers.window = Window::Calls(4);
        numbers.minimum = 2;
        numbers.rate = 50;
        numbers.in_a_row = None;
        numbers.slow = None;
        numbers.permitted = 2;
        numbers.lease = 30_000;
        numbers.stay = 300_000;
        numbers.ignore_throttled = false;
        runtime().block_on(run_keyed(numbers, steps))?;
    }
}
