//! Random histories, held against a model that keeps everything in plain lists.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, advance};
use toolweir_semaphore::SemaphoreConfig;

mod model;
mod server;
use model::{Model, Numbers, Stage};
use server::{Answer, Call, Key, Progress, Rig};

const KEYS: [&str; 4] = ["anna", "ben", "cleo", "dora"];

fn numbers() -> impl Strategy<Value = Numbers> {
    let max_per_key = prop::option::weighted(0.3, 1_usize..4);
    let numbers = (1_usize..5, 0_usize..8, 0_u64..200, max_per_key);
    numbers.prop_map(|(permits, max_queue, max_wait, max_per_key)| Numbers {
        permits,
        max_queue,
        max_wait,
        max_per_key,
    })
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// With a deadline so many milliseconds ahead. The future is not polled.
    Call {
        key: Key,
        /// Whether the layer is bound to the key, instead of reading it.
        bound: bool,
        deadline: Option<u64>,
    },
    /// Numbers are taken modulo what there is.
    Poll(usize),
    /// The server answers, and the caller is polled.
    Answer(usize, Answer),
    Drop(usize),
    Pass(u64),
    Resize(usize),
    ResetPeaks,
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
    // One key calls more than all others.
    let key = prop_oneof![
        4 => Just(Some(KEYS[0])),
        4 => prop::sample::select(&KEYS[1..]).prop_map(Some),
        1 => Just(None),
    ];
    let call = (key, any::<bool>(), prop::option::weighted(0.3, 0_u64..200));
    prop_oneof![
        12 => call.prop_map(|(key, bound, deadline)| Step::Call { key, bound, deadline }),
        12 => at.clone().prop_map(Step::Poll),
        8 => (at.clone(), answer).prop_map(|(at, answer)| Step::Answer(at, answer)),
        3 => at.prop_map(Step::Drop),
        4 => time.prop_map(Step::Pass),
        1 => (1_usize..6).prop_map(Step::Resize),
        1 => Just(Step::ResetPeaks),
        1 => any::<bool>().prop_map(Step::Close),
    ]
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
            .max_per_key(numbers.max_per_key)
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
            Step::Call { .. } if self.model.closed => {}
            Step::Call {
                key,
                bound,
                deadline,
            } => self.call(key, bound, deadline),
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
            Step::ResetPeaks => {
                let before = self.rig.handle.reset_peaks();
                assert_eq!(before.peak_in_flight, self.model.peak_in_flight);
                assert_eq!(before.peak_queued, self.model.peak_queued);
                self.model.reset_peaks();
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

    fn call(&mut self, key: Key, bound: bool, wait: Option<u64>) {
        self.made += 1;
        let deadline = wait.map(|wait| Instant::now() + Duration::from_millis(wait));
        let call = match key {
            Some(key) if bound => self.rig.call_bound(key, self.made, deadline),
            _ => self.rig.call_of(key, self.made, deadline),
        };
        self.calls.push(call);
        self.model.call(self.made, key, wait);
    }

    fn poll(&mut self, at: usize) {
        let key = self.model.entries[at].key;
        let progress = self.calls[at].poll();
        let (expected, retry_after) = self.model.poll(at);
        assert_eq!(progress, expected);
        if progress == Progress::Pending {
            return;
        }
        let call = self.calls.remove(at);
        let rejection = call.rejection().unwrap();
        assert_eq!(rejection.key(), key.or(Some("music")));
        let retry_after = retry_after.map(Duration::from_nanos);
        assert_eq!(rejection.retry_after(), retry_after);
    }

    fn answer(&mut self, at: usize, answer: Answer) {
        let under_way = self.rig.server.calls();
        if under_way.is_empty() {
            return;
        }
        let number = under_way[at % under_way.len()];
        let entries = &self.model.entries;
        let at = entries.iter().position(|entry| entry.number == number);
        self.rig.server.answer(number, answer);
        let expected = match answer {
            Answer::Done => Progress::Done(number),
            Answer::Fail => Progress::Failed("connection reset".into()),
            Answer::Panic => Progress::Panicked,
        };
        let mut call = self.calls.remove(at.unwrap());
        assert_eq!(call.poll(), expected);
        self.model.remove(at.unwrap());
        // While the future is still there: the permit was back before the answer came out.
        self.compare();
    }

    fn compare(&self) {
        self.compare_figures();
        for key in KEYS {
            let state = self.rig.handle.for_key(key);
            assert_eq!(state.queued, self.model.queued_of(Some(key)));
            assert_eq!(state.in_flight, self.model.running_of(Some(key)));
        }
        for (entry, call) in self.model.entries.iter().zip(&self.calls) {
            let woken = call.wakes() > 0;
            match entry.stage {
                Stage::Queued => {
                    assert_eq!(woken, entry.polled && entry.until <= self.model.now);
                }
                Stage::Admitted | Stage::PushedOut => assert!(woken || !entry.polled),
                Stage::AtServer | Stage::Refused(..) => {}
            }
        }
    }

    fn compare_figures(&self) {
        let (state, model) = (self.rig.handle.state(), &self.model);
        assert_eq!(self.rig.server.calls(), model.at_server);
        assert_eq!(state.permits, model.numbers.permits);
        assert_eq!(state.in_flight, model.in_flight());
        assert_eq!(state.queued, model.queued());
        assert_eq!(state.keys, model.known.len());
        assert_eq!(state.longest_wait_ms, model.longest_wait());
        assert_eq!(state.usual_hold_ms, model.usual_hold());
        assert_eq!(state.peak_in_flight, model.peak_in_flight);
        assert_eq!(state.peak_queued, model.peak_queued);
        assert_eq!(state.peaks_age_ms, model.now - model.peaks_since);
        assert_eq!(state.admitted_calls, model.admitted);
        assert_eq!(state.rejected_calls, model.rejected);
        assert_eq!(state.pushed_out_calls, model.pushed_out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

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
            assert_eq!((state.in_flight, state.queued, state.keys), (0, 0, 0));
            assert_eq!(pair.rig.server.readied(), 0);
        });
    }
}
