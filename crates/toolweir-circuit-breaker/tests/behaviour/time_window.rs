//! Windows of time.

use super::*;

fn timed() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .sliding_window_duration(secs(10))
        .minimum_number_of_calls(5)
        .wait_duration_in_open_state(OPEN)
        .jitter(0)
}

#[tokio::test(start_paused = true)]
async fn the_last_seconds_open_it_whatever_came_before() {
    let mut rig = rig(timed());
    rig.answer(10_000, Answer::Success);
    advance(secs(10)).await;
    rig.answer(4, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Closed);
    rig.answer(1, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn it_slides_by_the_bucket_and_does_not_jump() {
    let mut rig = rig(timed());
    // One call in each second.
    for _ in 0..10 {
        rig.answer(1, Answer::Success);
        advance(secs(1)).await;
    }
    // The first is ten seconds old: it is left out, and the nine others are not.
    for left in (0..10).rev() {
        assert_eq!(rig.handle.state().window.calls, left);
        advance(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_too_old_do_not_open_it() {
    let mut rig = rig(timed());
    rig.answer(4, Answer::Failure);
    advance(secs(10)).await;
    rig.answer(4, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Closed);
    assert_eq!(rig.handle.state().window.failures, 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_until_its_bucket_is_too_old() {
    let mut rig = rig(timed().sliding_window_buckets(2));
    advance(secs(4)).await;
    rig.answer(1, Answer::Failure);
    advance(secs(6) - MILLI).await;
    assert_eq!(rig.handle.state().window.failures, 1);
    advance(MILLI).await;
    assert_eq!(rig.handle.state().window.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it() {
    let mut rig = rig(timed().slow_call_duration_threshold(secs(2)));
    let calls: Vec<Call> = (0..5).map(|_| rig.pass()).collect();
    advance(secs(2)).await;
    for call in calls {
        call.answer(Answer::Success);
    }
    assert_eq!(
        rig.handle.state().reason.as_deref(),
        Some("the slow call rate reached its threshold")
    );
}

#[tokio::test(start_paused = true)]
async fn what_it_held_when_the_circuit_opened_can_be_read_while_it_is_open() {
    let mut rig = rig(timed());
    rig.answer(5, Answer::Failure);
    advance(secs(25)).await;
    assert_eq!(rig.handle.state().window.failures, 5);
    advance(secs(5)).await;
    rig.answer(2, Answer::Success);
    assert_eq!(rig.circuit(), Circuit::Closed);
    assert_eq!(rig.handle.state().window.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_for_a_year_wakes_with_an_empty_one() {
    let mut rig = rig(timed());
    rig.answer(4, Answer::Failure);
    advance(secs(365 * 86_400)).await;
    assert_eq!(rig.handle.state().window.calls, 0);
    rig.answer(5, Answer::Failure);
    assert_eq!(rig.circuit(), Circuit::Open);
}
