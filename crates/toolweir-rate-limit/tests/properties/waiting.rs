//! Random histories of calls that wait, that have a booking, or both, run as an executor would: whoever
//! is woken is polled, and nobody else. What must hold whatever happens.

use std::{
    collections::BTreeMap,
    future::{Future, ready},
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::{Instant, advance};
use toolweir_core::{AsRejection, BoxError, ErrIsFailure, Facts};
use toolweir_rate_limit::{RateLimitConfig, RateLimitHandle, RateLimitLayer};
use tower::{Layer, Service, service_fn};

use super::{assert_within_quota, config, in_a_paused_runtime};

const MILLI: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: u64 = 400;
const LONGEST_GRACE: u64 = 300;
const MOST: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Numbers {
    interval: Duration,
    burst: u32,
    max_wait: Duration,
    grace: Duration,
}

fn millis(longest: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        3 => (0..=longest).prop_map(Duration::from_millis),
        1 => (0..=longest * 1_000_000).prop_map(Duration::from_nanos),
    ]
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (millis(150), 1_u32..6, millis(400), millis(LONGEST_GRACE)).prop_map(
        |(interval, burst, max_wait, grace)| Numbers {
            interval: interval.max(MILLI),
            burst,
            max_wait,
            grace: grace.max(MILLI),
        },
    )
}

/// Who calls, if that can be known again, and what it costs.
type Caller = (Option<u8>, u32);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// With a deadline so far ahead.
    Call(Caller, Option<Duration>),
    /// One that was told when, so much later.
    Return(usize, Duration),
    Drop(usize),
    Pass(Duration),
    Pause(Duration),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    let caller = (prop::option::weighted(0.7, 0_u8..6), 1_u32..4);
    let deadline = prop::option::weighted(0.3, millis(400));
    let late = prop_oneof![3 => Just(Duration::ZERO), 1 => millis(30), 1 => millis(400)];
    prop_oneof![
        12 => (caller, deadline).prop_map(|(caller, wait)| Step::Call(caller, wait)),
        8 => (0_usize..8, late).prop_map(|(which, late)| Step::Return(which, late)),
        3 => (0_usize..8).prop_map(Step::Drop),
        8 => millis(120).prop_map(Step::Pass),
        1 => millis(LONGEST_PAUSE).prop_map(Step::Pause),
        1 => Just(Step::Resume),
    ]
}

#[derive(Debug)]
struct Job {
    caller: String,
    cost: u32,
    deadline: Option<Instant>,
}

#[derive(Debug, Clone)]
struct OfJob;

impl Facts<Job> for OfJob {
    fn call_id<'r>(&self, job: &'r Job) -> Option<&'r str> {
        (!job.caller.is_empty()).then_some(&job.caller)
    }

    fn cost(&self, job: &Job) -> NonZeroU32 {
        NonZeroU32::new(job.cost).unwrap()
    }

    fn deadline(&self, job: &Job) -> Option<Instant> {
        job.deadline
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

struct Task {
    caller: Caller,
    /// When its wait must have ended.
    until: Instant,
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = Result<(), BoxError>>>>,
}

struct World {
    numbers: Numbers,
    layer: RateLimitLayer<ErrIsFailure, OfJob>,
    handle: RateLimitHandle,
    start: Instant,
    tasks: Vec<Task>,
    /// When who is to come back.
    told: BTreeMap<Caller, Instant>,
    /// When what passed.
    passed: Arc<Mutex<Vec<(i128, i128)>>>,
}

impl World {
    fn new(numbers: Numbers) -> Self {
        let config = RateLimitConfig::builder()
            .quota(1, numbers.interval)
            .burst(numbers.burst)
            .max_wait(numbers.max_wait)
            .max_bookings(MOST)
            .booking_grace(numbers.grace);
        let layer = RateLimitLayer::new(config.build().unwrap()).with_facts(OfJob);
        Self {
            numbers,
            handle: layer.handle(),
            layer,
            start: Instant::now(),
            tasks: Vec::new(),
            told: BTreeMap::new(),
            passed: Arc::default(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Call(caller, wait) => self.call(caller, wait),
            Step::Return(which, late) => {
                let told = self.told.iter().nth(which).map(|(who, at)| (*who, *at));
                if let Some((caller, at)) = told {
                    self.pass(at.saturating_duration_since(Instant::now()) + late)
                        .await;
                    self.told.remove(&caller);
                    self.call(caller, None);
                }
            }
            Step::Drop(at) if at < self.tasks.len() => drop(self.tasks.remove(at)),
            Step::Drop(_) => {}
            Step::Pass(time) => self.pass(time).await,
            Step::Pause(time) => self.handle.pause(time),
            Step::Resume => self.handle.resume(),
        }
        self.run();
        self.check();
    }

    /// Timers have milliseconds.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            advance(MILLI.min(end - Instant::now())).await;
            self.run();
        }
    }

    fn call(&mut self, caller: Caller, wait: Option<Duration>) {
        let (now, cost) = (Instant::now(), caller.1.min(self.numbers.burst));
        let caller = (caller.0, cost);
        let (start, passed) = (self.start, self.passed.clone());
        let server = service_fn(move |job: Job| {
            let at = i128::try_from(start.elapsed().as_nanos()).unwrap();
            passed.lock().unwrap().push((at, i128::from(job.cost)));
            ready(Ok::<_, BoxError>(()))
        });
        let job = Job {
            caller: caller.0.map_or_else(String::new, |id| id.to_string()),
            cost,
            deadline: wait.map(|wait| now + wait),
        };
        let patience = self.numbers.max_wait.min(wait.unwrap_or(Duration::MAX));
        self.tasks.push(Task {
            caller,
            until: now + patience,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            future: Box::pin(self.layer.layer(server).call(job)),
        });
    }

    /// Polls those who are woken until nobody is.
    fn run(&mut self) {
        while let Some(at) = self
            .tasks
            .iter()
            .position(|task| task.woken.0.swap(false, SeqCst))
        {
            let task = &mut self.tasks[at];
            let waker = Waker::from(task.woken.clone());
            let poll = task.future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(result) = poll {
                let caller = self.tasks.remove(at).caller;
                let refusal = result.err();
                let wait = refusal.and_then(|error| error.as_rejection().unwrap().retry_after());
                if let Some(wait) = wait.filter(|_| caller.0.is_some()) {
                    self.told.insert(caller, Instant::now() + wait);
                }
            }
        }
    }

    fn check(&self) {
        let state = self.handle.state();
        assert_eq!(state.waiting, self.tasks.len());
        assert!(state.bookings <= MOST);
        let ended = state.redeemed_bookings + state.lapsed_bookings;
        assert_eq!(state.booked_calls, ended + state.bookings as u64);
        for task in &self.tasks {
            let late = Instant::now().saturating_duration_since(task.until);
            assert!(late <= 2 * MILLI, "it waits on after {late:?}");
        }
    }

    /// Whatever has happened, nothing is held once all calls are gone and nobody comes back.
    async fn end(&mut self) {
        let interval = i128::try_from(self.numbers.interval.as_nanos()).unwrap();
        assert_within_quota(&self.passed.lock().unwrap(), self.numbers.burst, interval);
        self.tasks.clear();
        assert_eq!(self.handle.state().waiting, 0);
        let slots = self.numbers.interval * 100;
        advance(slots + Duration::from_millis(LONGEST_PAUSE + LONGEST_GRACE)).await;
        let state = self.handle.state();
        assert_eq!((state.bookings, state.paused_ms), (0, None));
        assert_eq!(state.available, self.numbers.burst);
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn whoever_waits_or_is_booked_no_wait_is_too_long_and_nothing_is_left_behind(
        numbers in numbers(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        in_a_paused_runtime(tokio::task::unconstrained(async {
            let mut world = World::new(numbers);
            for step in steps {
                world.take(step).await;
            }
            world.end().await;
        }));
    }
}
