//! What the goodput bench shows holds on every machine, because its time is simulated.

#[expect(dead_code, reason = "the names are for the bench's table")]
#[path = "../benches/goodput/simulation/mod.rs"]
mod simulation;

use std::time::Duration;

use simulation::{BURST, CALLS, PER_SECOND, Run, Way, run};

fn served(run: &Run) -> Vec<Duration> {
    let served = run.events.iter().filter(|event| event.served);
    served.map(|event| event.at).collect()
}

#[test]
fn every_call_is_served_once_and_never_more_than_the_server_allows() {
    for way in Way::ALL {
        let run = run(way).unwrap();
        let served = served(&run);
        let calls = CALLS as usize;
        assert_eq!(
            (served.len(), run.attempts.len()),
            (calls, calls),
            "{way:?}"
        );
        let least = Duration::from_secs(1) / PER_SECOND * (CALLS - BURST);
        assert!(run.makespan() - served[0] >= least, "{way:?}");
    }
}

#[test]
fn with_the_quota_known_no_call_is_one_too_many() {
    let run = run(Way::QuotaKnown).unwrap();
    assert_eq!(run.throttled(), 0);
    assert!(run.of_ideal() <= 1.05, "{}", run.of_ideal());
    assert_eq!(run.most_attempts(), 2, "each comes back once, at its time");
}

#[test]
fn with_the_rate_to_be_learned_few_calls_are_too_many() {
    let run = run(Way::Learned).unwrap();
    assert!(run.throttled() <= CALLS / 50, "{}", run.throttled());
    assert!(run.of_ideal() <= 1.15, "{}", run.of_ideal());
    assert!(run.mean_attempts() <= 4.0, "{}", run.mean_attempts());
}

#[test]
fn with_the_rate_learned_before_each_comes_back_once() {
    let run = run(Way::LearnedBefore).unwrap();
    assert!(run.throttled() <= CALLS / 50, "{}", run.throttled());
    assert!(run.of_ideal() <= 1.15, "{}", run.of_ideal());
    assert_eq!(run.most_attempts(), 2, "the rate was known all the time");
}

#[test]
fn without_a_limit_calls_meet_429_far_more_often_than_they_are_served() {
    assert!(run(Way::Backoff).unwrap().throttled() > 10 * CALLS);
    assert!(run(Way::BackoffJitter).unwrap().throttled() > CALLS);
}
