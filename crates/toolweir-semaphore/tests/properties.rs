//! Random histories, held against a model that keeps everything in plain lists.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, advance};
use toolweir_core::Reason;
use toolweir_semaphore::SemaphoreConfig;

mod server;
use server::{Answer, Call, Progress, Rig};

#[derive(Debug, Clone, Copy)]
struct Numbers {
    permits: usize,
    max_queue: usize,
    max_wait: u64,
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (1_usize..5, 0_usize..6, 0_u64..200).prop_map(|(permits, max_queue, max_wait)| Numbers {
        permits,
        max_queue,
        max_wait,
    })
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// With a deadline so many milliseconds ahead. The future is not polled.
    Call(Option<u64>),
    /// Numbers are taken modulo what there is.
    Poll(usize),
    /// The server answers, and the caller is polled.
    Answer(usize, Answer),
    Drop(usize),
    Pass(u64),
    Resize(usize),
    /// Whether the server becomes ready any more.
    Close(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0_usize..16;
    let answer = prop_oneof![
        4 => Just(Answer::Done),
        2 => Just(Answer::Fail),
        1 => Just(Answer::Panic),
    ];
    let time = prop_oneof![
        6 => 0_u64..60,
        2 => 60_u64..400,
        // A suspended machine.
        1 => Just(400 * 24 * 3_600_000),
    ];
    prop_oneof![
        10 => prop::option::weighted(0.3, 0_u64..200).prop_map(Step::Call),
        12 => at.clone().prop_map(Step::Poll),
        8 => (at.clone(), answer).prop_map(|(at, answer)| Step::Answer(at, answer)),
        3 => at.prop_map(Step::Drop),
        4 => time.prop_map(Step::Pass),
        1 => (1_usize..6).prop_map(Step::Resize),
        1 => any::<bool>().prop_map(Step::Close),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    /// It has a permit, and has not reached the server.
    Admitted,
    AtServer,
    Refused(Reason),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    number: usize,
    stage: Stage,
    since: u64,
    until: u64,
    deadline: Option<u64>,
    /// Whether it has been polled in the queue, and so is to be woken.
    polled: bool,
}

/// Every call whose future is alive, in the order in which they were made.
struct Model {
    numbers: Numbers,
    now: u64,
    closed: bool,
    entries: Vec<Entry>,
    /// In the order in which they came there.
    at_server: Vec<usize>,
    peak_in_flight: usize,
    peak_queued: usize,
    admitted: u64,
    rejected: u64,
}

impl Model {
    fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            now: 0,
            closed: false,
            entries: Vec::new(),
            at_server: Vec::new(),
            peak_in_flight: 0,
            peak_queued: 0,
            admitted: 0,
            rejected: 0,
        }
    }

    fn count(&self, stages: &[Stage]) -> usize {
        let all = self.entries.iter();
        all.filter(|entry| stages.contains(&entry.stage)).count()
    }

    fn in_flight(&self) -> usize {
        self.count(&[Stage::Admitted, Stage::AtServer])
    }

    fn queued(&self) -> usize {
        self.count(&[Stage::Queued])
    }

    /// Gives free permits to the first in the queue, one after the other.
    fn settle(&mut self) {
        while self.in_flight() < self.numbers.permits
            && let Some(first) = self
                .entries
                .iter_mut()
                .find(|entry| entry.stage == Stage::Queued)
        {
            first.stage = Stage::Admitted;
            self.admitted += 1;
        }
        self.peak_in_flight = self.peak_in_flight.max(self.in_flight());
        self.peak_queued = self.peak_queued.max(self.queued());
    }

    fn call(&mut self, number: usize, deadline: Option<u64>) {
        let deadline = deadline.map(|wait| self.now + wait);
        let patience = self.now + self.numbers.max_wait;
        let mut entry = Entry {
            number,
            stage: Stage::Queued,
            since: self.now,
            until: deadline.map_or(patience, |deadline| deadline.min(patience)),
            deadline,
            polled: false,
        };
        if self.in_flight() < self.numbers.permits {
            // It reaches the server in the call itself.
            entry.stage = Stage::AtServer;
            self.at_server.push(number);
            self.admitted += 1;
        } else if entry.until <= self.now {
            entry.stage = Stage::Refused(too_late(&entry));
        } else if self.queued() >= self.numbers.max_queue {
            entry.stage = Stage::Refused(Reason::QueueFull);
        }
        self.rejected += u64::from(matches!(entry.stage, Stage::Refused(_)));
        self.entries.push(entry);
        self.settle();
    }

    fn remove(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.at_server.retain(|number| *number != entry.number);
        self.settle();
    }

    /// What a poll gives, when the server has not answered.
    fn poll(&mut self, at: usize) -> Progress {
        let entry = self.entries[at];
        let refusal = match entry.stage {
            Stage::AtServer => return Progress::Pending,
            Stage::Refused(reason) => {
                self.remove(at);
                return Progress::Refused(reason);
            }
            Stage::Queued => (entry.until <= self.now).then(|| too_late(&entry)),
            Stage::Admitted => {
                let past = entry.deadline.is_some_and(|deadline| deadline <= self.now);
                let waits_on = self.closed && self.now < entry.until;
                match (past, self.closed, waits_on) {
                    (true, ..) => Some(Reason::DeadlineTooShort),
                    (false, true, false) => Some(Reason::WaitTooLong),
                    (false, true, true) => None,
                    (false, false, _) => {
                        self.entries[at].stage = Stage::AtServer;
                        self.at_server.push(entry.number);
                        None
                    }
                }
            }
        };
        let Some(reason) = refusal else {
            self.entries[at].polled |= entry.stage == Stage::Queued;
            return Progress::Pending;
        };
        self.rejected += 1;
        self.remove(at);
        Progress::Refused(reason)
    }
}

fn too_late(entry: &Entry) -> Reason {
    if entry.deadline == Some(entry.until) {
        Reason::DeadlineTooShort
    } else {
        Reason::WaitTooLong
    }
}

/// A rig and its model, side by side.
struct Pair {
    rig: Rig,
    model: Model,
    /// As the model's entries.
    calls: Vec<Call>,
    made: usize,
}

impl Pair {
    fn new(numbers: Numbers) -> Self {
        let config = SemaphoreConfig::builder()
            .permits(numbers.permits)
            .max_queue(numbers.max_queue)
            .max_wait(Duration::from_millis(numbers.max_wait))
            .build();
        Self {
            rig: Rig::new(config.unwrap()),
            model: Model::new(numbers),
            calls: Vec::new(),
            made: 0,
        }
    }

    async fn take(&mut self, step: Step) {
        let count = self.calls.len();
        match step {
            Step::Call(_) if self.model.closed => {}
            Step::Call(wait) => {
                self.made += 1;
                let deadline = wait.map(|wait| Instant::now() + Duration::from_millis(wait));
                self.calls.push(self.rig.call(self.made, deadline));
                self.model.call(self.made, wait);
            }
            Step::Poll(at) if count > 0 => self.poll(at % count),
            Step::Answer(at, answer) => self.answer(at, answer),
            Step::Drop(at) if count > 0 => {
                drop(self.calls.remove(at % count));
                self.rig.server.forget_cancelled();
                self.model.remove(at % count);
            }
            Step::Poll(_) | Step::Drop(_) => {}
            Step::Pass(time) => {
                self.model.now += time;
                advance(Duration::from_millis(time)).await;
            }
            Step::Resize(permits) => {
                self.rig.handle.resize(permits).unwrap();
                self.model.numbers.permits = permits;
                self.model.settle();
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

    fn poll(&mut self, at: usize) {
        let progress = self.calls[at].poll();
        assert_eq!(progress, self.model.poll(at));
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
        let expected = match answer {
            Answer::Done => Progress::Done(number),
            Answer::Fail => Progress::Failed("connection reset".into()),
            Answer::Panic => Progress::Panicked,
        };
        let mut call = self.calls.remove(at);
        assert_eq!(call.poll(), expected);
        self.model.remove(at);
        // While the future is still there: the permit was back before the answer came out.
        self.compare();
    }

    fn compare(&self) {
        let (state, model) = (self.rig.handle.state(), &self.model);
        assert_eq!(self.rig.server.calls(), model.at_server);
        assert_eq!(state.permits, model.numbers.permits);
        assert_eq!(state.in_flight, model.in_flight());
        assert_eq!(state.queued, model.queued());
        let mut queued = model.entries.iter().filter(|e| e.stage == Stage::Queued);
        let longest = queued.next().map(|entry| model.now - entry.since);
        assert_eq!(state.longest_wait_ms, longest);
        assert_eq!(state.peak_in_flight, model.peak_in_flight);
        assert_eq!(state.peak_queued, model.peak_queued);
        assert_eq!(state.admitted_calls, model.admitted);
        assert_eq!(state.rejected_calls, model.rejected);
        for (entry, call) in model.entries.iter().zip(&self.calls) {
            let woken = call.wakes() > 0;
            match entry.stage {
                Stage::Queued => assert_eq!(woken, entry.polled && entry.until <= model.now),
                Stage::Admitted => assert!(woken || !entry.polled),
                Stage::AtServer | Stage::Refused(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_semaphore_is_its_model(
        numbers in numbers(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(numbers);
            for step in steps {
                pair.take(step).await;
            }
            // Whatever has happened, nothing is held once all calls are gone.
            pair.calls.clear();
            let state = pair.rig.handle.state();
            assert_eq!((state.in_flight, state.queued), (0, 0));
            assert_eq!(pair.rig.server.readied(), 0);
        });
    }
}
