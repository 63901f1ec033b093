//! A rate that is learned from when the server asks for fewer calls.

use super::*;

fn learner(first_rate: u32) -> Rig {
    let config = RateLimitConfig::builder()
        .learned()
        .first_rate(first_rate)
        .burst(1)
        .max_wait(Duration::ZERO);
    Rig::new(config.build().unwrap())
}

impl Rig {
    fn interval_ms(&self) -> u64 {
        self.handle.state().interval_us / 1000
    }

    /// A round in which more calls are made than pass.
    async fn round(&mut self, answer: Answer) {
        let mut call = self.pending(7);
        assert!(self.refused().is_some());
        advance(SECOND).await;
        self.server.answer(7, answer);
        assert_ne!(call.poll(), Progress::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_doubles_until_the_first_refusal_and_that_halves_it() {
    let mut rig = learner(1);
    for interval in [1000, 500, 250] {
        assert_eq!(rig.interval_ms(), interval);
        rig.round(Answer::Done).await;
    }
    assert_eq!(rig.interval_ms(), 125);
    rig.round(Answer::Throttled(Some(SECOND))).await;
    assert_eq!(rig.interval_ms(), 250);
    assert_eq!(rig.refused(), throttled(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_changes_in_a_pause_gives_no_cell_that_was_spent_before() {
    let mut rig = learner(1);
    rig.answered(Answer::Throttled(Some(10 * SECOND)));
    assert_eq!(rig.interval_ms(), 2000);
    rig.handle.resume();
    assert_eq!(rig.refused(), spent(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn after_it_the_rate_rises_by_a_step_and_falls_by_a_factor() {
    let mut rig = learner(20);
    rig.round(Answer::Throttled(Some(SECOND))).await;
    assert_eq!(rig.handle.state().interval_us, 100_000);
    advance(SECOND).await;
    for rate in [10.1, 10.2, 10.3] {
        rig.round(Answer::Done).await;
        let micros = 1e6 / rate;
        let found = f64::from(u32::try_from(rig.handle.state().interval_us).unwrap());
        assert!((found - micros).abs() < 1.0, "{found}, not {micros}");
    }
    rig.round(Answer::Throttled(Some(SECOND))).await;
    // 10.3 times 0.85.
    assert_eq!(rig.handle.state().interval_us, 114_220);
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_nobody_wants_to_exceed_does_not_rise() {
    let mut rig = learner(1);
    for _ in 0..5 {
        rig.answered(Answer::Done);
        advance(2 * SECOND).await;
    }
    assert_eq!(rig.interval_ms(), 1000);
}

#[tokio::test(start_paused = true)]
async fn only_an_answer_of_the_server_raises_the_rate() {
    for (answer, interval) in [
        (Answer::Fail(Delivery::Executed), 500),
        (Answer::Fail(Delivery::Ambiguous), 1000),
        (Answer::Refuse, 1000),
        (Answer::Panic, 1000),
    ] {
        let mut rig = learner(1);
        rig.round(answer).await;
        assert_eq!(rig.interval_ms(), interval, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_refusals_of_one_moment_are_one_sign() {
    let mut rig = learner(100);
    let mut calls = Vec::new();
    for number in 1..=3 {
        calls.push(rig.pending(number));
        advance(10 * MILLI).await;
    }
    for (call, number) in calls.iter_mut().zip(1..) {
        rig.server.answer(number, Answer::Throttled(Some(SECOND)));
        assert_ne!(call.poll(), Progress::Pending);
    }
    assert_eq!(rig.interval_ms(), 20);
    assert_eq!(rig.handle.state().throttled_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn long_waits_are_told_in_part_so_that_a_higher_rate_finds_callers() {
    let mut rig = learner(2);
    rig.round(Answer::Throttled(Some(SECOND))).await;
    let told: Vec<u128> = (0..10)
        .map(|number| {
            let call = rig.call_as(Some(&format!("{number}")), 0, 1, None).poll();
            call.refusal().unwrap().1.unwrap().as_millis()
        })
        .collect();
    // Slots are a second apart.
    assert_eq!(
        told,
        [1000, 2000, 2400, 3200, 4000, 4800, 5600, 6400, 7200, 8000]
    );
    let _handle = rig.handle.set_quota(1, SECOND).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn what_was_dealt_with_is_counted_in_cells() {
    let config = RateLimitConfig::builder().learned().first_rate(8);
    let mut rig = Rig::new(config.burst(2).max_wait(Duration::ZERO).build().unwrap());
    for number in 1..=4 {
        let mut call = rig.call_as(None, number, 2, None);
        assert_eq!(call.poll(), Progress::Pending);
        rig.server.answer(number, Answer::Done);
        assert_ne!(call.poll(), Progress::Pending);
        advance(250 * MILLI).await;
    }
    rig.answered(Answer::Throttled(Some(SECOND)));
    // Eight in a second, of which 85 % are left. Four calls were too few to tell.
    assert_eq!(rig.handle.state().interval_us, 147_058);
}

#[tokio::test(start_paused = true)]
async fn who_is_early_where_cells_are_left_does_not_want_to_go_faster() {
    let config = RateLimitConfig::builder().learned().first_rate(1).burst(1);
    let config = config.max_wait(Duration::ZERO).booking_grace(400 * MILLI);
    let mut rig = Rig::new(config.build().unwrap());
    let mut first = rig.pending(1);
    let told: Vec<_> = (1..=10)
        .map(|slot| {
            let call = rig.call_as(Some(&format!("{slot}")), 0, 1, None).poll();
            call.refusal().unwrap().1.unwrap()
        })
        .collect();
    assert_eq!(told[9], 5 * SECOND);
    advance(SECOND).await;
    rig.server.answer(1, Answer::Done);
    assert_ne!(first.poll(), Progress::Pending);
    assert_eq!(rig.interval_ms(), 500, "the tenth has the slot at 5.5 s");
    // All others stay away.
    advance(4 * SECOND).await;
    let mut tenth = |number| rig.call_as(Some("10"), number, 1, None);
    let told = tenth(2).poll().refusal().unwrap().1;
    assert_eq!(told, Some(500 * MILLI));
    advance(500 * MILLI).await;
    let mut tenth = tenth(2);
    assert_eq!(tenth.poll(), Progress::Pending);
    rig.server.answer(2, Answer::Done);
    assert_ne!(tenth.poll(), Progress::Pending);
    assert_eq!(rig.interval_ms(), 500);
}
