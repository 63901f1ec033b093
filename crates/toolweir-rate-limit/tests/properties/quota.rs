//! Random histories, held against a token bucket in whole nanoseconds with everything in plain
//! lists.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, advance};
use toolweir_core::{Delivery, Reason, ReportState};
use toolweir_rate_limit::RateLimitConfig;

use super::{
    assert_within_quota, config, in_a_paused_runtime,
    server::{Answer, Call, Progress, Rig},
};

const MILLI: i128 = 1_000_000;
const DEFAULT_PAUSE: i128 = 80 * MILLI;
const MAX_PAUSE: i128 = 500 * MILLI;
const ABANDONED_AFTER: i128 = 50 * MILLI;

/// All times are in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    calls: u32,
    per: i128,
    burst: u32,
    max_wait: i128,
}

impl Numbers {
    /// In which one cell comes back.
    fn interval(&self) -> i128 {
        let calls = i128::from(self.calls);
        (self.per + calls - 1) / calls
    }

    fn config(&self) -> RateLimitConfig {
        RateLimitConfig::builder()
            .quota(self.calls, duration(self.per))
            .burst(self.burst)
            .max_wait(duration(self.max_wait))
            .default_pause(duration(DEFAULT_PAUSE))
            .max_pause(duration(MAX_PAUSE))
            .build()
            .unwrap()
    }
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap()
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (1_u32..30, 1..2_000 * MILLI, 1_u32..8, 0..300 * MILLI).prop_map(
        |(calls, per, burst, max_wait)| Numbers {
            calls,
            per,
            burst,
            max_wait,
        },
    )
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// With a cost, and a deadline so far ahead. The future is not polled.
    Call(u32, Option<i128>),
    /// Numbers are taken modulo what there is.
    Poll(usize),
    /// The server answers, and the caller is polled.
    Answer(usize, Answer),
    Drop(usize),
    Pass(i128),
    /// Until exactly when a call may pass.
    PassToSlot,
    Pause(i128),
    Resume,
    /// So many calls in so much time.
    Quota(u32, i128),
    /// Whether the server becomes ready any more.
    Close(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0_usize..16;
    let answer = prop_oneof![
        4 => Just(Answer::Done),
        3 => prop::option::of(0..800 * MILLI)
            .prop_map(|wait| Answer::Throttled(wait.map(duration))),
        1 => Just(Answer::Fail(Delivery::Ambiguous)),
        1 => Just(Answer::Refuse),
        1 => Just(Answer::Panic),
    ];
    let time = prop_oneof![
        2 => 0_i128..2,
        6 => 0..60 * MILLI,
        2 => 60 * MILLI..400 * MILLI,
        // A suspended machine.
        1 => Just(400 * 24 * 3_600_000 * MILLI),
    ];
    let cost = prop_oneof![6 => Just(1_u32), 2 => 1_u32..9];
    prop_oneof![
        14 => (cost, prop::option::weighted(0.3, 0..300 * MILLI))
            .prop_map(|(cost, wait)| Step::Call(cost, wait)),
        12 => at.clone().prop_map(Step::Poll),
        6 => (at.clone(), answer).prop_map(|(at, answer)| Step::Answer(at, answer)),
        2 => at.prop_map(Step::Drop),
        6 => time.prop_map(Step::Pass),
        4 => Just(Step::PassToSlot),
        1 => (0..400 * MILLI).prop_map(Step::Pause),
        1 => Just(Step::Resume),
        1 => (1_u32..30, 1..2_000 * MILLI).prop_map(|(calls, per)| Step::Quota(calls, per)),
        1 => any::<bool>().prop_map(Step::Close),
    ]
}

type Refusal = (Reason, Option<i128>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// It has lost its place, and does not know yet.
    PutOut,
    AtServer,
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    number: usize,
    cost: i128,
    stage: Stage,
    until: i128,
    deadline: Option<i128>,
    receipt: Receipt,
    /// Its place in `passed`.
    passed: usize,
}

/// What a call took.
#[derive(Debug, Clone, Copy, Default)]
struct Receipt {
    /// How much was missing then.
    missing: i128,
    at: i128,
    /// How many refunds there had been.
    refunds: usize,
    drains: u32,
}

struct Model {
    numbers: Numbers,
    now: i128,
    /// Cells times the interval, at the time `as_of`. A pause that is not over has not touched it.
    level: i128,
    as_of: i128,
    /// Its end, and the reason that it gives.
    pause: Option<(i128, Reason)>,
    closed: bool,
    /// Every call whose future is alive, in the order in which they were made.
    entries: Vec<Entry>,
    /// In the order in which they came there.
    at_server: Vec<usize>,
    /// When which cost passed.
    passed: Vec<(i128, i128)>,
    /// Which of them were not made after all.
    not_made: Vec<usize>,
    /// How many had passed when the quota was first changed.
    passed_before: Option<usize>,
    /// Which of those that passed got how much back.
    refunds: Vec<(usize, i128)>,
    drains: u32,
    waited: u64,
    rejected: u64,
    throttled: u64,
}

impl Model {
    fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            now: 0,
            level: i128::from(numbers.burst) * numbers.interval(),
            as_of: 0,
            pause: None,
            closed: false,
            entries: Vec::new(),
            at_server: Vec::new(),
            passed: Vec::new(),
            not_made: Vec::new(),
            passed_before: None,
            refunds: Vec::new(),
            drains: 0,
            waited: 0,
            rejected: 0,
            throttled: 0,
        }
    }

    fn fill(&mut self, until: i128) {
        let full = i128::from(self.numbers.burst) * self.numbers.interval();
        self.level = full.min(self.level + until - self.as_of);
        self.as_of = until;
    }

    fn drain(&mut self) {
        self.level = self.level.min(self.numbers.interval());
    }

    fn pass_time(&mut self, time: i128) {
        self.now += time;
        if let Some((end, _)) = self.pause
            && end <= self.now
        {
            self.fill(end);
            self.drain();
            self.pause = None;
        }
        if self.pause.is_none() {
            self.fill(self.now);
        }
    }

    /// When so many cells are there.
    fn slot(&self, cells: i128) -> i128 {
        let interval = self.numbers.interval();
        let (start, level) = match self.pause {
            None => (self.now, self.level),
            Some((end, _)) => {
                let full = i128::from(self.numbers.burst) * interval;
                let filled = full.min(self.level + end - self.as_of);
                (end, filled.min(interval))
            }
        };
        start + (cells * interval - level).max(0)
    }

    fn waiting(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        let all = self.entries.iter();
        all.filter(|entry| entry.stage == Stage::Waiting)
    }

    fn queued(&self) -> i128 {
        self.waiting().map(|entry| entry.cost).sum()
    }

    fn ahead_of(&self, number: usize) -> i128 {
        let ahead = self.waiting().filter(|entry| entry.number < number);
        ahead.map(|entry| entry.cost).sum()
    }

    fn refusal(&self, slot: i128) -> Refusal {
        match self.pause {
            Some((_, reason)) => (reason, Some(slot - self.now)),
            None if slot == self.now => (Reason::WaitTooLong, None),
            None => (Reason::QuotaSpent, Some(slot - self.now)),
        }
    }

    fn put_out_abandoned(&mut self, before: usize) {
        let late = self.now - ABANDONED_AFTER;
        while let Some(first) = self
            .entries
            .iter_mut()
            .find(|entry| entry.stage == Stage::Waiting)
            && first.number < before
            && first.until < late
        {
            first.stage = Stage::PutOut;
        }
    }

    fn dispatch(&mut self, entry: &mut Entry) {
        assert!(self.pause.is_none());
        entry.stage = Stage::AtServer;
        self.level -= entry.cost * self.numbers.interval();
        entry.receipt = Receipt {
            missing: i128::from(self.numbers.burst) * self.numbers.interval() - self.level,
            at: self.now,
            refunds: self.refunds.len(),
            drains: self.drains,
        };
        entry.passed = self.passed.len();
        self.passed.push((self.now, entry.cost));
        self.at_server.push(entry.number);
    }

    /// What a call took, and time has not brought back.
    fn refund(&mut self, at: usize) {
        let entry = self.entries[at];
        self.not_made.push(entry.passed);
        let receipt = entry.receipt;
        if receipt.drains == self.drains {
            // What those get back who came later, they had taken from what was there after this one.
            let since = self.refunds[receipt.refunds..].iter();
            let earlier = since.filter(|(passed, _)| *passed < entry.passed);
            let refunded: i128 = earlier.map(|(_, left)| left).sum();
            let brought = self.now - receipt.at + refunded;
            let interval = self.numbers.interval();
            let left = (receipt.missing - brought).clamp(0, entry.cost * interval);
            self.refunds.push((entry.passed, left));
            self.level = (self.level + left).min(i128::from(self.numbers.burst) * interval);
        }
    }

    fn call(&mut self, number: usize, cost: u32, wait: Option<i128>) {
        let deadline = wait.map(|wait| self.now + wait);
        let patience = self.now + self.numbers.max_wait;
        let mut entry = Entry {
            number,
            cost: i128::from(cost),
            stage: Stage::Waiting,
            until: deadline.map_or(patience, |deadline| deadline.min(patience)),
            deadline,
            receipt: Receipt::default(),
            passed: 0,
        };
        if cost > self.numbers.burst {
            entry.stage = Stage::Refused((Reason::CostTooHigh, None));
        } else {
            self.put_out_abandoned(usize::MAX);
            let slot = self.slot(self.queued() + entry.cost);
            if slot <= self.now {
                self.dispatch(&mut entry);
            } else if slot > entry.until {
                entry.stage = Stage::Refused(self.refusal(slot));
            }
        }
        self.waited += u64::from(entry.stage == Stage::Waiting);
        self.rejected += u64::from(matches!(entry.stage, Stage::Refused(_)));
        self.entries.push(entry);
    }

    fn remove(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.at_server.retain(|number| *number != entry.number);
    }

    /// Why the call ends with this poll, if it does.
    fn poll(&mut self, at: usize) -> Option<Refusal> {
        let number = self.entries[at].number;
        if matches!(self.entries[at].stage, Stage::Waiting | Stage::PutOut) {
            self.put_out_abandoned(number);
        }
        let entry = self.entries[at];
        let slot = self.slot(self.ahead_of(number) + entry.cost);
        let refusal = match entry.stage {
            Stage::AtServer => None,
            Stage::Refused(refusal) => {
                // It was counted when it was made.
                self.rejected -= 1;
                Some(refusal)
            }
            Stage::PutOut => Some(self.refusal(self.slot(self.queued() + entry.cost))),
            Stage::Waiting if slot > self.now && slot > entry.until => {
                Some(self.refusal(self.slot(self.queued())))
            }
            Stage::Waiting if slot > self.now => None,
            Stage::Waiting if entry.deadline.is_some_and(|end| end <= self.now) => {
                Some((Reason::DeadlineTooShort, None))
            }
            Stage::Waiting if self.closed && entry.until <= self.now => {
                Some((Reason::WaitTooLong, None))
            }
            Stage::Waiting => {
                if !self.closed {
                    let mut entry = entry;
                    self.dispatch(&mut entry);
                    self.entries[at] = entry;
                }
                None
            }
        };
        if refusal.is_some() {
            self.rejected += 1;
            self.remove(at);
        }
        refusal
    }

    fn pause(&mut self, time: i128, reason: Reason) {
        let end = self.now + time;
        if self.pause.is_some_and(|(old, _)| old >= end) {
            return;
        }
        self.pause = Some((end, reason));
        self.drains += 1;
        self.pass_time(0);
        self.put_out_hopeless();
    }

    fn put_out_hopeless(&mut self) {
        let mut ahead = 0;
        for at in 0..self.entries.len() {
            let entry = self.entries[at];
            if entry.stage != Stage::Waiting {
                continue;
            }
            if self.slot(ahead + entry.cost) > entry.until {
                self.entries[at].stage = Stage::PutOut;
            } else {
                ahead += entry.cost;
            }
        }
    }

    fn resume(&mut self) {
        if self.pause.take().is_some() {
            self.drains += 1;
            self.fill(self.now);
            self.drain();
        }
    }

    /// The cells that there are stay, and so does a pause.
    fn quota(&mut self, calls: u32, per: i128) {
        self.fill(self.now);
        let before = self.numbers.interval();
        (self.numbers.calls, self.numbers.per) = (calls, per);
        let (burst, interval) = (i128::from(self.numbers.burst), self.numbers.interval());
        let missing = (burst * before - self.level) * interval / before;
        self.level = burst * interval - missing;
        self.drains += 1;
        self.passed_before.get_or_insert(self.passed.len());
        self.put_out_hopeless();
    }
}

/// A rig and its model, side by side.
struct Pair {
    /// Those that it began with.
    first: Numbers,
    rig: Rig,
    model: Model,
    /// As the model's entries, with the wakes that each had at its last poll.
    calls: Vec<(Call, Option<usize>)>,
    made: usize,
}

impl Pair {
    fn new(numbers: Numbers) -> Self {
        Self {
            first: numbers,
            rig: Rig::new(numbers.config()),
            model: Model::new(numbers),
            calls: Vec::new(),
            made: 0,
        }
    }

    async fn take(&mut self, step: Step) {
        let count = self.calls.len();
        match step {
            Step::Call(..) if self.model.closed => {}
            Step::Call(cost, wait) => {
                self.made += 1;
                let deadline = wait.map(|wait| Instant::now() + duration(wait));
                let call = self.rig.call(self.made, cost, deadline);
                self.calls.push((call, None));
                self.model.call(self.made, cost, wait);
            }
            Step::Poll(at) if count > 0 => self.poll(at % count),
            Step::Answer(at, answer) => self.answer(at, answer),
            Step::Drop(at) if count > 0 => {
                drop(self.calls.remove(at % count));
                self.rig.server.forget_cancelled();
                self.model.remove(at % count);
            }
            Step::Poll(_) | Step::Drop(_) => {}
            Step::Pass(time) => self.pass(time).await,
            Step::PassToSlot => {
                let slot = self.model.slot(self.model.queued() + 1);
                self.pass(slot - self.model.now).await;
            }
            Step::Pause(time) => {
                self.rig.handle.pause(duration(time));
                self.model.pause(time, Reason::Paused);
            }
            Step::Resume => {
                self.rig.handle.resume();
                self.model.resume();
            }
            Step::Quota(calls, per) => {
                self.rig.handle.set_quota(calls, duration(per)).unwrap();
                self.model.quota(calls, per);
            }
            Step::Close(closed) => {
                self.model.closed = closed;
                if closed {
                    self.rig.server.close();
                } else {
                    self.rig.server.open();
                }
            }
        }
        self.compare();
    }

    async fn pass(&mut self, time: i128) {
        self.model.pass_time(time);
        advance(duration(time)).await;
    }

    fn poll(&mut self, at: usize) {
        let (call, seen) = &mut self.calls[at];
        let progress = call.poll();
        *seen = Some(call.wakes());
        let refusal = progress.refusal();
        let refusal = refusal.map(|(reason, wait)| (reason, wait.map(nanos)));
        assert_eq!(refusal, self.model.poll(at));
        if progress != Progress::Pending {
            drop(self.calls.remove(at));
        }
    }

    fn answer(&mut self, at: usize, answer: Answer) {
        let under_way = self.rig.server.calls();
        if under_way.is_empty() {
            return;
        }
        let number = under_way[at % under_way.len()];
        let of = |entry: &Entry| entry.number == number;
        let at = self.model.entries.iter().position(of).unwrap();
        self.rig.server.answer(number, answer);
        let (mut call, _) = self.calls.remove(at);
        assert_ne!(call.poll(), Progress::Pending);
        if answer == Answer::Refuse {
            self.model.refund(at);
        }
        self.model.remove(at);
        if let Answer::Throttled(wait) = answer {
            self.model.throttled += 1;
            let wait = wait.map_or(DEFAULT_PAUSE, nanos).min(MAX_PAUSE);
            self.model.pause(wait, Reason::Throttled);
        }
    }

    fn compare(&self) {
        let (state, model) = (self.rig.handle.state(), &self.model);
        assert_eq!(self.rig.server.calls(), model.at_server);
        assert_eq!(state.waiting, model.waiting().count());
        let cells = match model.pause {
            Some(_) => 0,
            None => model.level / model.numbers.interval(),
        };
        assert_eq!(i128::from(state.available), cells);
        let wait = model.slot(model.queued() + 1) - model.now;
        let retry_after = self.rig.handle.retry_after().map(nanos);
        assert_eq!(retry_after, (wait > 0).then_some(wait));
        let ready = wait <= model.numbers.max_wait;
        assert_eq!(self.rig.handle.report().ready, ready);
        let paused = model.pause.map(|(end, _)| end - model.now);
        assert_eq!(self.rig.handle.paused_for().map(nanos), paused);
        assert_eq!(state.passed_calls, model.passed.len() as u64);
        assert_eq!(state.waited_calls, model.waited);
        assert_eq!(state.rejected_calls, model.rejected);
        assert_eq!(state.throttled_calls, model.throttled);
        assert_eq!(state.refunded_calls, model.not_made.len() as u64);
        self.compare_wakes();
    }

    /// Who has something to do has been woken since the last poll. Timers have milliseconds.
    fn compare_wakes(&self) {
        for (entry, (call, seen)) in self.model.entries.iter().zip(&self.calls) {
            let slot = self
                .model
                .slot(self.model.ahead_of(entry.number) + entry.cost);
            let something_to_do = match entry.stage {
                Stage::Waiting => !self.model.closed && slot + 2 * MILLI <= self.model.now,
                Stage::PutOut => true,
                Stage::AtServer | Stage::Refused(_) => false,
            };
            if let Some(seen) = seen
                && something_to_do
            {
                assert!(call.wakes() > *seen, "{entry:?} is not woken");
            }
        }
    }

    /// Calls that were not made after all took nothing. Until the quota is changed, that is.
    fn check_windows(&self) {
        let (numbers, not_made) = (&self.first, &self.model.not_made);
        let until = self.model.passed_before.unwrap_or(usize::MAX);
        let passed = self.model.passed.iter().enumerate().take(until);
        let made = passed.filter(|(at, _)| !not_made.contains(at));
        let made: Vec<(i128, i128)> = made.map(|(_, passed)| *passed).collect();
        assert_within_quota(&made, numbers.burst, numbers.interval());
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn the_rate_limit_is_its_model(
        numbers in numbers(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        in_a_paused_runtime(async {
            let mut pair = Pair::new(numbers);
            for step in steps {
                pair.take(step).await;
            }
            pair.check_windows();
            // Whatever has happened, nothing is held once all calls are gone.
            pair.calls.clear();
            assert_eq!(pair.rig.handle.state().waiting, 0);
            assert_eq!(pair.rig.server.readied(), 0);
        });
    }

    #[test]
    fn who_comes_back_when_told_passes_and_a_nanosecond_earlier_does_not(
        numbers in numbers(),
        rest in 0..3_000 * MILLI,
        costs in prop::collection::vec((1_u32..8, 0..100 * MILLI), 1..30),
    ) {
        let numbers = Numbers { max_wait: 0, ..numbers };
        in_a_paused_runtime(async {
            let mut rig = Rig::new(numbers.config());
            advance(duration(rest)).await;
            for (cost, time) in costs {
                let cost = cost.min(numbers.burst);
                if let Some((reason, wait)) = rig.call(0, cost, None).poll().refusal() {
                    assert_eq!(reason, Reason::QuotaSpent);
                    advance(wait.unwrap() - Duration::from_nanos(1)).await;
                    let early = rig.call(0, cost, None).poll().refusal();
                    let nano = Duration::from_nanos(1);
                    assert_eq!(early, Some((Reason::QuotaSpent, Some(nano))));
                    advance(nano).await;
                    assert_eq!(rig.call(0, cost, None).poll(), Progress::Pending);
                }
                advance(duration(time)).await;
            }
        });
    }
}
