//! Random histories of calls that are booked and come back, or do not, held against plain lists.

use std::{future::ready, num::NonZeroU32, time::Duration};

use proptest::prelude::*;
use tokio::time::advance;
use toolweir_core::{AsRejection, BoxError, Facts, Reason};
use toolweir_rate_limit::{RateLimitConfig, RateLimitHandle, RateLimitLayer};
use tower::{Layer, ServiceExt, service_fn};

use super::{assert_within_quota, config, in_a_paused_runtime};

const MILLI: i128 = 1_000_000;
const MOST: usize = 4;

/// Who calls, and what it costs.
type Caller = (Option<u8>, u32);

#[derive(Debug, Clone, Copy)]
struct Numbers {
    interval: i128,
    burst: u32,
    grace: i128,
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (1..200 * MILLI, 1_u32..6, 1..400 * MILLI).prop_map(|(interval, burst, grace)| Numbers {
        interval,
        burst,
        grace,
    })
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Call(Caller),
    /// So many nanoseconds after the time that it was told, which of those that have a booking.
    Return(usize, i128),
    Pass(i128),
    Pause(i128),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![
        2 => 0_i128..2,
        6 => 0..60 * MILLI,
        3 => 60 * MILLI..600 * MILLI,
        // A suspended machine.
        1 => Just(400 * 24 * 3_600_000 * MILLI),
    ];
    let late = prop_oneof![3 => Just(0), 1 => 0..30 * MILLI, 1 => 0..500 * MILLI];
    let cost = prop_oneof![4 => Just(1_u32), 2 => 1_u32..4];
    prop_oneof![
        12 => (prop::option::weighted(0.8, 0_u8..6), cost).prop_map(Step::Call),
        10 => (0..MOST, late).prop_map(|(which, late)| Step::Return(which, late)),
        5 => time.prop_map(Step::Pass),
        1 => (1..400 * MILLI).prop_map(Step::Pause),
        1 => Just(Step::Resume),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Booked {
    caller: Caller,
    cost: i128,
    slot: i128,
    told: i128,
    is_due: bool,
}

struct Model {
    numbers: Numbers,
    now: i128,
    /// Cells times the interval. In a pause less than one, and below zero.
    level: i128,
    /// Its end, and what the level would be without it.
    pause: Option<(i128, i128)>,
    booked: Vec<Booked>,
    made: u64,
    redeemed: u64,
    lapsed: u64,
    passed: Vec<(i128, i128)>,
}

impl Model {
    fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            now: 0,
            level: numbers.interval * i128::from(numbers.burst),
            pause: None,
            booked: Vec::new(),
            made: 0,
            redeemed: 0,
            lapsed: 0,
            passed: Vec::new(),
        }
    }

    fn full(&self) -> i128 {
        self.numbers.interval * i128::from(self.numbers.burst)
    }

    fn pass_time(&mut self, time: i128) {
        self.now += time;
        self.level = self.full().min(self.level + time);
        if let Some((end, without)) = self.pause {
            let without = self.full().min(without + time);
            self.pause = (end > self.now).then_some((end, without));
        }
        let (now, grace) = (self.now, self.numbers.grace);
        let before = self.booked.len();
        self.booked.retain(|booked| booked.told + grace >= now);
        self.lapsed += (before - self.booked.len()) as u64;
        for booked in &mut self.booked {
            booked.is_due |= booked.slot <= now;
        }
    }

    /// When so many cells are there.
    fn there_at(&self, cells: i128) -> i128 {
        self.now + cells * self.numbers.interval - self.level
    }

    fn due(&self) -> i128 {
        let due = self.booked.iter().filter(|booked| booked.is_due);
        due.map(|booked| booked.cost).sum()
    }

    fn first_ahead(&self) -> Option<Booked> {
        self.booked.iter().find(|booked| !booked.is_due).copied()
    }

    fn next_slot(&self, cost: i128) -> i128 {
        let slot = match self.booked.iter().rfind(|booked| !booked.is_due) {
            Some(last) => last.slot + cost * self.numbers.interval,
            None => self.there_at(self.due() + cost),
        };
        slot.max(self.now)
    }

    fn admits(&self, cost: i128) -> bool {
        let cells = self.due() + cost;
        let first = self.first_ahead();
        self.there_at(cells) <= self.now
            && first.is_none_or(|first| self.there_at(cells + first.cost) <= first.slot)
    }

    /// Slots that cannot be kept move away, all by the same time.
    fn move_away(&mut self, cells: i128) {
        if let Some(first) = self.first_ahead() {
            let by = (self.there_at(cells + first.cost) - first.slot).max(0);
            self.move_by(by);
        }
    }

    fn move_by(&mut self, by: i128) {
        let ahead = self.booked.iter_mut().filter(|booked| !booked.is_due);
        ahead.for_each(|booked| booked.slot += by);
    }

    fn take(&mut self, cost: i128) {
        self.level -= cost * self.numbers.interval;
        assert!(self.level >= 0, "it takes cells that are not there");
        self.passed.push((self.now, cost));
        self.move_away(0);
    }

    /// For how long it is refused.
    fn call(&mut self, caller: Caller) -> Option<i128> {
        let cost = i128::from(caller.1);
        let known = |booked: &Booked| caller.0.is_some() && booked.caller == caller;
        if let Some(at) = self.booked.iter().position(known) {
            let booked = self.booked[at];
            let slot = booked.slot.max(self.there_at(cost));
            if slot <= self.now {
                self.booked.remove(at);
                self.redeemed += 1;
                self.take(cost);
                return None;
            }
            let earlier = self.booked[..at].iter().filter(|_| booked.is_due);
            let before: i128 = earlier.map(|booked| booked.cost).sum();
            let told = slot.max(self.there_at(before + cost));
            self.booked[at].told = told;
            return Some(told - self.now);
        }
        if self.admits(cost) {
            self.take(cost);
            return None;
        }
        let slot = self.next_slot(cost);
        if caller.0.is_some() && self.booked.len() < MOST && slot > self.now {
            self.made += 1;
            self.booked.push(Booked {
                caller,
                cost,
                slot,
                told: slot,
                is_due: false,
            });
        }
        Some(slot - self.now)
    }

    fn pause(&mut self, time: i128) {
        let end = self.now + time;
        if self.pause.is_some_and(|(old, _)| old >= end) {
            return;
        }
        let without = self.pause.map_or(self.level, |(_, without)| without);
        self.pause = Some((end, without));
        self.level = self.level.min(self.numbers.interval - time);
        self.move_away(self.due());
    }

    fn resume(&mut self) {
        if let Some((_, without)) = self.pause.take() {
            let level = without.min(self.numbers.interval);
            self.move_by(self.level - level);
            self.level = level;
        }
    }
}

#[derive(Debug, Clone)]
struct ByCaller;

impl Facts<(String, u32)> for ByCaller {
    fn call_id<'r>(&self, (id, _): &'r (String, u32)) -> Option<&'r str> {
        (!id.is_empty()).then_some(id)
    }

    fn cost(&self, (_, cost): &(String, u32)) -> NonZeroU32 {
        NonZeroU32::new(*cost).unwrap()
    }
}

/// A limit and its model, side by side.
struct Pair {
    layer: RateLimitLayer<toolweir_core::ErrIsFailure, ByCaller>,
    handle: RateLimitHandle,
    model: Model,
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

impl Pair {
    fn new(numbers: Numbers) -> Self {
        let config = RateLimitConfig::builder()
            .quota(1, duration(numbers.interval))
            .burst(numbers.burst)
            .max_wait(Duration::ZERO)
            .max_bookings(MOST)
            .booking_grace(duration(numbers.grace));
        let layer = RateLimitLayer::new(config.build().unwrap()).with_facts(ByCaller);
        Self {
            handle: layer.handle(),
            layer,
            model: Model::new(numbers),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Call(caller) => self.call(caller).await,
            Step::Return(which, late) => {
                let booked = self.model.booked.get(which).copied();
                if let Some(booked) = booked {
                    let wait = (booked.told - self.model.now).max(0);
                    self.pass(wait + late).await;
                    self.call(booked.caller).await;
                }
            }
            Step::Pass(time) => self.pass(time).await,
            Step::Pause(time) => {
                self.handle.pause(duration(time));
                self.model.pause(time);
            }
            Step::Resume => {
                self.handle.resume();
                self.model.resume();
            }
        }
        // A slot that has come is due from then on, whoever looks.
        self.model.pass_time(0);
        self.compare();
    }

    async fn pass(&mut self, time: i128) {
        advance(duration(time)).await;
        self.model.pass_time(time);
        self.compare();
    }

    async fn call(&mut self, caller: Caller) {
        let caller = (caller.0, caller.1.min(self.model.numbers.burst));
        let id = caller.0.map_or_else(String::new, |id| id.to_string());
        let server = service_fn(|_: (String, u32)| ready(Ok::<_, BoxError>(())));
        let result = self.layer.layer(server).oneshot((id, caller.1)).await;
        let refused = result.err().map(|error| {
            let rejection = error.as_rejection().unwrap();
            assert!(matches!(
                rejection.reason(),
                Reason::QuotaSpent | Reason::Paused
            ));
            i128::try_from(rejection.retry_after().unwrap().as_nanos()).unwrap()
        });
        assert_eq!(refused, self.model.call(caller));
    }

    fn compare(&self) {
        let (state, model) = (self.handle.state(), &self.model);
        assert_eq!(state.bookings, model.booked.len());
        assert_eq!(state.booked_calls, model.made);
        assert_eq!(state.redeemed_bookings, model.redeemed);
        assert_eq!(state.lapsed_bookings, model.lapsed);
        assert_eq!(state.passed_calls, model.passed.len() as u64);
        assert_eq!(state.paused_ms.is_some(), model.pause.is_some());
        let cells = model.level.max(0) / model.numbers.interval;
        assert_eq!(i128::from(state.available), cells);
        let wait = if model.admits(1) {
            0
        } else {
            model.next_slot(1) - model.now
        };
        let found = self.handle.retry_after().map(|wait| wait.as_nanos());
        assert_eq!(found, (wait > 0).then(|| u128::try_from(wait).unwrap()));
    }

    fn check_windows(&self) {
        let numbers = &self.model.numbers;
        assert_within_quota(&self.model.passed, numbers.burst, numbers.interval);
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn bookings_are_their_model(
        numbers in numbers(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        in_a_paused_runtime(async {
            let mut pair = Pair::new(numbers);
            for step in steps {
                pair.take(step).await;
            }
            pair.check_windows();
        });
    }

    /// However many others come meanwhile, with and without an identity.
    #[test]
    fn a_caller_that_returns_at_its_time_is_served(
        interval in 1..200 * MILLI,
        burst in 1_u32..6,
        costs in prop::collection::vec(1_u32..6, 1..30),
        others in prop::collection::vec((0..300 * MILLI, 1_u32..6, any::<bool>()), 0..30),
    ) {
        in_a_paused_runtime(async {
            let numbers = Numbers { interval, burst, grace: 1 };
            let config = RateLimitConfig::builder()
                .quota(1, duration(interval))
                .burst(burst)
                .max_wait(Duration::ZERO)
                .booking_grace(duration(numbers.grace));
            let layer = RateLimitLayer::new(config.build().unwrap()).with_facts(ByCaller);
            let server = service_fn(|_: (String, u32)| ready(Ok::<_, BoxError>(())));
            let service = layer.layer(server);
            let call = |id: String, cost: u32| {
                let call = service.clone().oneshot((id, cost.min(burst)));
                async move {
                    let refusal = call.await.err()?;
                    refusal.as_rejection().unwrap().retry_after()
                }
            };
            let mut comers: Vec<(i128, String, u32, bool)> = Vec::new();
            for (number, cost) in costs.iter().enumerate() {
                comers.push((0, format!("{number}"), *cost, true));
            }
            for (number, (at, cost, has_id)) in others.iter().enumerate() {
                let id = if *has_id { format!("other-{number}") } else { String::new() };
                comers.push((*at, id, *cost, true));
            }
            let mut now = 0;
            while !comers.is_empty() {
                comers.sort_by_key(|comer| comer.0);
                let (at, id, cost, is_new) = comers.remove(0);
                advance(duration(at - now)).await;
                now = at;
                if let Some(wait) = call(id.clone(), cost).await {
                    assert!(is_new, "{id} is told again");
                    if !id.is_empty() {
                        let wait = i128::try_from(wait.as_nanos()).unwrap();
                        comers.push((now + wait, id, cost, false));
                    }
                }
            }
            let state = layer.handle().state();
            assert_eq!((state.bookings, state.lapsed_bookings), (0, 0));
        });
    }
}
