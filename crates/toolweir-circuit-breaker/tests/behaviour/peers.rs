//! What other breakers were seen to get wrong, row by row.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_count_window_slides_after_ten_thousand_successes() {
    let mut rig = rig(config());
    rig.answer(10_000, Answer::Success);
    rig.trip();
    assert_eq!(rig.handle.state().window.failures, 5);
}

#[tokio::test(start_paused = true)]
async fn the_minimum_number_of_calls_is_honoured_in_count_mode() {
    let mut rig = rig(config().minimum_number_of_calls(10));
    rig.answer(9, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Closed);
    rig.answer(1, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn half_open_does_not_wedge_when_probes_succeed_further_apart_than_the_time_window() {
    let mut rig = rig(CircuitBreakerConfig::builder()
        .sliding_window_duration(secs(1))
        .minimum_number_of_calls(2)
        .wait_duration_in_open_state(OPEN)
        .success_threshold(2)
        .jitter(0));
    rig.trip_and_wait().await;
    rig.answer(1, Answer::Success);
    advance(secs(10)).await;
    rig.answer(1, Answer::Success);
    assert_eq!(rig.circuit(), Circuit::Closed);
    rig.answer(1, Answer::Success);
}

#[tokio::test(start_paused = true)]
async fn a_success_from_before_the_trip_does_not_close_while_the_probe_is_failing() {
    let mut rig = rig(config().success_threshold(1));
    let early = rig.pass();
    rig.trip_and_wait().await;
    let probe = rig.pass();
    early.answer(Answer::Success);
    assert_eq!(rig.circuit(), Circuit::HalfOpen);
    probe.answer(Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Open);
    assert_eq!(rig.handle.state().stale_outcomes, 1);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_hung_calls_cut_by_an_outer_timeout_are_seen() {
    let config = config()
        .slow_call_duration_threshold(secs(5))
        .build()
        .unwrap();
    let layer = CircuitBreakerLayer::new(config);
    let calls = (0..200).map(|_| {
        let hung = service_fn(|()| std::future::pending::<Result<(), BoxError>>());
        timeout(secs(5), layer.layer(hung).call(()))
    });
    let calls: Vec<_> = calls.map(tokio::spawn).collect();
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    assert!(layer.handle().is_open());
    assert_eq!(layer.handle().state().window.slow_calls, 5);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_and_is_dropped_neither_wedges_half_open_nor_admits_all() {
    let mut rig = rig(config());
    rig.trip_and_wait().await;
    let hung = [rig.pass(), rig.pass()];
    let admitted = (0..100).filter(|_| rig.call().is_ok()).count();
    assert_eq!(admitted, 0);
    drop(hung);
    rig.answer(2, Answer::Success);
    assert_eq!(rig.circuit(), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn five_panicking_calls_are_five_failures() {
    let mut rig = rig(config());
    rig.answer(5, Answer::Panic);
    assert_eq!(rig.handle.state().window.failures, 5);
    assert_eq!(rig.circuit(), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn force_open_is_not_undone_by_the_clock() {
    let mut rig = rig(config());
    rig.handle.hold_open("database migration", None);
    advance(secs(86_400 * 365)).await;
    assert_eq!(rig.refused(), (Reason::HeldOpen, None));
}

#[tokio::test(start_paused = true)]
async fn reset_while_closed_clears() {
    let mut rig = rig(config());
    rig.answer(4, Answer::Failure);
    rig.handle.reset();
    assert_eq!(rig.handle.state().window.calls, 0);
    rig.answer(4, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_answer_is_no_failure_and_its_retry_after_is_kept() {
    let mut rig = rig(config().consecutive_failures(1));
    rig.answer(1, Answer::Throttled(Some(secs(3))));
    assert_eq!(rig.refused(), (Reason::Throttled, Some(secs(3))));
    advance(secs(3)).await;
    rig.answer(1, Answer::Success);
    assert_eq!(rig.handle.state().window.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn every_rejection_says_when_to_come_back_and_keeps_its_word() {
    let mut rig = rig(config().permitted_number_of_calls_in_half_open_state(1));
    rig.trip();
    let (_, wait) = rig.refused();
    advance(wait.unwrap()).await;
    let _hung = rig.pass();
    let (reason, wait) = rig.refused();
    assert_eq!(reason, Reason::ProbesOut);
    advance(wait.unwrap()).await;
    rig.pass().answer(Answer::Throttled(Some(secs(7))));
    let (_, wait) = rig.refused();
    advance(wait.unwrap()).await;
    rig.pass();
}

#[tokio::test(start_paused = true)]
async fn keyed_state_does_not_grow_without_bound() {
    let config = config().max_keys(10).build().unwrap();
    let layer = CircuitBreakerLayer::new(config)
        .with_facts(keys::Tool)
        .by_key();
    for number in 0..10_000 {
        keys::call(&layer, &number.to_string(), true).unwrap();
    }
    let figures = layer.handle().keys();
    assert_eq!((figures.keys, figures.evicted), (10, 9_990));
    assert_eq!(figures.overflowed, 0);
}
