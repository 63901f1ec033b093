//! What the breaker does where others go wrong, and what its documentation promises.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{collections::HashSet, panic::AssertUnwindSafe, time::Duration};

use tokio::time::{advance, timeout};
use toolweir_circuit_breaker::{
    Cause, Circuit, CircuitBreakerConfig, CircuitBreakerConfigBuilder, CircuitBreakerHandle,
    CircuitBreakerLayer, OnThrottled,
};
use toolweir_core::{BoxError, Reason, ReportState};
use tower::{Layer, Service, service_fn};

mod keys;
mod peers;
#[path = "../server/mod.rs"]
mod server;
mod time_window;
use server::{Answer, Call, Job, Rig};

const MILLI: Duration = Duration::from_millis(1);
const OPEN: Duration = secs(30);
const LEASE: Duration = secs(20);
const STAY: Duration = secs(300);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .sliding_window_size(10)
        .minimum_number_of_calls(5)
        .failure_rate_threshold(50)
        .wait_duration_in_open_state(OPEN)
        .permitted_number_of_calls_in_half_open_state(2)
        .success_threshold(2)
        .probe_lease(LEASE)
        .max_wait_duration_in_half_open_state(STAY)
        .jitter(0)
}

fn rig(builder: CircuitBreakerConfigBuilder) -> Rig {
    Rig::new(builder.build().unwrap())
}

impl Rig {
    fn pass(&mut self) -> Call {
        self.call().unwrap_or_else(|refused| panic!("{refused}"))
    }

    fn answer(&mut self, times: usize, answer: Answer) {
        for _ in 0..times {
            self.pass().answer(answer);
        }
    }

    /// Why a call does not pass, and when it will.
    fn refused(&mut self) -> (Reason, Option<Duration>) {
        match self.call() {
            Ok(_) => panic!("the call passes"),
            Err(rejection) => (rejection.reason(), rejection.retry_after()),
        }
    }

    fn trip(&mut self) {
        for _ in 0..10 {
            if self.circuit() == Circuit::Closed {
                self.pass().answer(Answer::Failure);
            }
        }
        assert_eq!(self.circuit(), Circuit::Open);
    }

    async fn trip_and_wait(&mut self) {
        self.trip();
        advance(self.handle.retry_after().unwrap()).await;
    }

    fn circuit(&self) -> Circuit {
        self.handle.state().state
    }
}

mod closed {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_calls_open_it_whatever_came_before() {
        let mut rig = rig(config());
        rig.answer(10_000, Answer::Success);
        rig.answer(4, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Closed);
        rig.answer(1, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_number_of_calls_is_honoured() {
        let mut rig = rig(config());
        rig.answer(4, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Closed);
        rig.answer(1, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_that_completes_the_minimum_opens_it_too() {
        let mut rig = rig(config());
        rig.answer(4, Answer::Failure);
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_below_the_minimum() {
        let mut rig = rig(config().minimum_number_of_calls(10).consecutive_failures(3));
        rig.answer(2, Answer::Failure);
        rig.answer(1, Answer::Success);
        rig.answer(2, Answer::Failure);
        // Neither ends the row nor adds to it.
        rig.answer(3, Answer::Ignored);
        assert_eq!(rig.circuit(), Circuit::Closed);
        rig.answer(1, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn panics_are_failures() {
        let mut rig = rig(config());
        rig.answer(5, Answer::Panic);
        assert_eq!(rig.circuit(), Circuit::Open);
        assert_eq!(rig.handle.state().window.failures, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_before_there_is_a_future_is_a_failure() {
        let layer = CircuitBreakerLayer::new(config().build().unwrap());
        let mut service = layer.layer(service_fn(
            |()| -> std::future::Ready<Result<(), BoxError>> {
                std::panic::resume_unwind(Box::new("the client panics"))
            },
        ));
        for _ in 0..5 {
            let call = AssertUnwindSafe(|| service.call(()));
            assert!(std::panic::catch_unwind(call).is_err());
        }
        assert_eq!(layer.handle().state().window.failures, 5);
        assert!(layer.handle().is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn hung_calls_cut_by_a_timeout_are_slow() {
        let mut rig = rig(config().slow_call_duration_threshold(secs(10)));
        let hung: Vec<Call> = (0..200).map(|_| rig.pass()).collect();
        advance(secs(10)).await;
        drop(hung);
        assert_eq!(rig.circuit(), Circuit::Open);
        let window = rig.handle.state().window;
        assert_eq!((window.slow_calls, window.failures), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_dropped_early_count_as_nothing() {
        let mut rig = rig(config().slow_call_duration_threshold(secs(10)));
        let cancelled: Vec<Call> = (0..200).map(|_| rig.pass()).collect();
        advance(secs(10) - MILLI).await;
        drop(cancelled);
        assert_eq!(rig.handle.state().window.calls, 0);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_open_it_though_they_succeed() {
        let mut rig = rig(config()
            .slow_call_duration_threshold(secs(10))
            .slow_call_rate_threshold(60));
        for slow in [true, false, true, false, true] {
            let call = rig.pass();
            advance(secs(if slow { 10 } else { 9 })).await;
            call.answer(Answer::Success);
        }
        assert_eq!(rig.circuit(), Circuit::Open);
        let reason = rig.handle.state().reason.unwrap();
        assert_eq!(reason, "the slow call rate reached its threshold");
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_about_the_server_counts_as_nothing() {
        let mut rig = rig(config());
        for answer in [
            Answer::Unauthorized,
            Answer::Ignored,
            Answer::BusinessError,
            Answer::Refused,
        ] {
            rig.answer(100, answer);
        }
        assert_eq!(rig.handle.state().window.calls, 0);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_clears_the_window() {
        let mut rig = rig(config());
        rig.answer(4, Answer::Failure);
        let under_way = rig.pass();
        rig.handle.reset();
        assert_eq!(rig.handle.state().window.calls, 0);
        under_way.answer(Answer::Failure);
        assert_eq!(rig.handle.state().window.consecutive_failures, 0);
        rig.answer(4, Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }
}

mod open {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_refusal_says_when_to_come_back() {
        let mut rig = rig(config());
        rig.trip();
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(OPEN)));
        advance(OPEN - MILLI).await;
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(MILLI)));
        advance(MILLI).await;
        assert!(!rig.handle.is_open());
        rig.pass();
        assert_eq!(rig.handle.state().rejected_calls, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_server_and_cause() {
        let mut rig = rig(config());
        rig.trip();
        assert_eq!(
            rig.call().map(drop).unwrap_err().to_string(),
            "circuit-breaker refused the call for \"music\": the circuit is open (the failure \
             rate reached its threshold); retry after 30s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_period_doubles_up_to_its_longest() {
        let mut rig = rig(config().max_wait_duration_in_open_state(secs(100)));
        rig.trip();
        for seconds in [30, 60, 100, 100] {
            assert_eq!(rig.handle.retry_after(), Some(secs(seconds)));
            advance(secs(seconds)).await;
            rig.pass().answer(Answer::Failure);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_period_is_the_first_one_again_after_sustained_success_alone() {
        let mut rig = rig(config().max_wait_duration_in_open_state(secs(100)));
        for (closed_for, next) in [(99, 60), (100, 30)] {
            rig.handle.reset();
            rig.trip_and_wait().await;
            rig.answer(2, Answer::Success);
            advance(secs(closed_for)).await;
            rig.answer(1, Answer::Success);
            rig.trip();
            assert_eq!(rig.handle.retry_after(), Some(secs(next)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_shortens_the_period_and_lengthens_the_pause() {
        let (mut periods, mut pauses) = (HashSet::new(), HashSet::new());
        for _ in 0..50 {
            let mut tripped = rig(config().jitter(50));
            tripped.trip();
            let period = tripped.handle.retry_after().unwrap();
            assert!(period >= OPEN / 2 && period <= OPEN, "{period:?}");
            periods.insert(period);

            let mut paused = rig(config().jitter(50));
            paused.answer(1, Answer::Throttled(Some(secs(30))));
            let pause = paused.handle.retry_after().unwrap();
            assert!(pause >= secs(30) && pause <= secs(45), "{pause:?}");
            pauses.insert(pause);
        }
        assert!(periods.len() > 1 && pauses.len() > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_from_before_the_trip_change_nothing() {
        let mut rig = rig(config());
        let (success, failure) = (rig.pass(), rig.pass());
        rig.trip_and_wait().await;
        let probe = rig.pass();
        success.answer(Answer::Success);
        failure.answer(Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        assert_eq!(rig.handle.state().probes.successes, 0);
        assert_eq!(rig.handle.state().stale_outcomes, 2);
        probe.answer(Answer::Failure);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_earlier_probe_does_not_close_a_later_half_open() {
        let mut rig = rig(config().success_threshold(1));
        rig.trip_and_wait().await;
        let (slow, failing) = (rig.pass(), rig.pass());
        failing.answer(Answer::Failure);
        advance(secs(60)).await;
        let _probe = rig.pass();
        slow.answer(Answer::Success);
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
    }
}

mod half_open {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn enough_successes_close_it_with_an_empty_window() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
        assert_eq!(rig.handle.state().window.calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn successes_far_apart_close_it() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        advance(STAY - MILLI).await;
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_between_probes_keeps_nobody_out() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        advance(secs(86_400)).await;
        assert_eq!(rig.circuit(), Circuit::Closed);
        rig.answer(1, Answer::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_probes_than_permitted_are_out() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        let probes = [rig.pass(), rig.pass()];
        for _ in 0..100 {
            assert_eq!(rig.refused(), (Reason::ProbesOut, Some(LEASE)));
        }
        drop(probes);
        rig.pass();
    }

    #[tokio::test(start_paused = true)]
    async fn hung_probes_free_their_slots_when_their_leases_end() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        let hung = [rig.pass(), rig.pass()];
        advance(LEASE - MILLI).await;
        assert_eq!(rig.refused(), (Reason::ProbesOut, Some(MILLI)));
        advance(MILLI).await;
        let more = [rig.pass(), rig.pass()];
        assert_eq!(rig.refused().0, Reason::ProbesOut);
        // Late answers of the same half-open state count, and free nobody else's slot.
        for call in hung {
            call.answer(Answer::Ignored);
        }
        assert_eq!(rig.refused().0, Reason::ProbesOut);
        for call in more {
            call.answer(Answer::Success);
        }
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_success_counts() {
        let mut rig = rig(config().success_threshold(1));
        rig.trip_and_wait().await;
        let late = rig.pass();
        advance(LEASE * 2).await;
        late.answer(Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_are_dropped_again_and_again_open_it_in_the_end() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        for _ in 0..30 {
            let hung = rig.pass();
            advance(secs(10)).await;
            drop(hung);
        }
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(secs(60))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stay_that_taught_nothing_does_not_lengthen_the_period() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Ignored);
        drop(rig.admit().unwrap());
        advance(STAY).await;
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(OPEN)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_slow_probe_is_a_failed_one() {
        let mut rig = rig(config().slow_call_duration_threshold(secs(10)));
        rig.trip_and_wait().await;
        let hung = rig.pass();
        advance(secs(10)).await;
        drop(hung);
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(secs(60))));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_probes_do_not_close_it() {
        let mut rig = rig(config()
            .slow_call_duration_threshold(secs(10))
            .slow_call_rate_threshold(50));
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        let slow = rig.pass();
        advance(secs(10)).await;
        slow.answer(Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_slow_probes_than_the_threshold_do_not_keep_it_open() {
        let mut rig = rig(config()
            .slow_call_duration_threshold(secs(10))
            .slow_call_rate_threshold(51));
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        let slow = rig.pass();
        advance(secs(10)).await;
        slow.answer(Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_out_until_its_lease_ends() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        let _hung = rig.pass();
        advance(LEASE - MILLI).await;
        assert_eq!(rig.handle.state().probes.out, 1);
        advance(MILLI).await;
        assert_eq!(rig.handle.state().probes.out, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn panicking_probes_open_it_and_leak_no_slot() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        for seconds in [60, 120, 240, 480] {
            rig.answer(1, Answer::Panic);
            assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(secs(seconds))));
            advance(secs(seconds)).await;
        }
        rig.answer(2, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn business_errors_close_it_since_the_server_has_answered() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(2, Answer::BusinessError);
        assert_eq!(rig.circuit(), Circuit::Closed);
        // They have closed it, and are nothing to it from then on.
        rig.answer(4, Answer::Failure);
        rig.answer(4, Answer::BusinessError);
        assert_eq!(rig.handle.state().window.calls, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mistake_that_never_reached_the_server_proves_nothing() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(20, Answer::Ignored);
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        assert_eq!(rig.handle.state().probes.successes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_business_errors_do_not_close_it() {
        let mut rig = rig(config().slow_call_duration_threshold(secs(10)));
        rig.trip_and_wait().await;
        let probes = [rig.pass(), rig.pass()];
        advance(secs(10)).await;
        for probe in probes {
            probe.answer(Answer::BusinessError);
        }
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_further_in_frees_the_slot_uncounted() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(20, Answer::Refused);
        rig.answer(20, Answer::Unauthorized);
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        rig.answer(2, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }
}

mod throttled {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_pauses_until_the_servers_own_time_and_fails_nobody() {
        let mut rig = rig(config());
        rig.answer(4, Answer::Failure);
        for _ in 0..20 {
            rig.answer(1, Answer::Throttled(Some(secs(7))));
            assert_eq!(rig.refused(), (Reason::Throttled, Some(secs(7))));
            let reason = rig.handle.state().reason.unwrap();
            assert_eq!(reason, "the server asked for a pause");
            advance(secs(7)).await;
            assert_eq!(rig.circuit(), Circuit::Closed);
        }
        let state = rig.handle.state();
        assert_eq!((state.window.calls, state.openings), (4, 0));
        // The window is whole: the fifth failure opens it, for the first period.
        rig.answer(1, Answer::Failure);
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(OPEN)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_beyond_reason_is_cut_and_a_missing_one_filled_in() {
        let mut rig = rig(config()
            .max_retry_after(secs(60))
            .default_retry_after(secs(3)));
        rig.answer(1, Answer::Throttled(Some(Duration::MAX)));
        assert_eq!(rig.refused().1, Some(secs(60)));
        advance(secs(60)).await;
        rig.answer(1, Answer::Throttled(None));
        assert_eq!(rig.refused().1, Some(secs(3)));
        advance(secs(3)).await;
        rig.answer(1, Answer::Throttled(Some(Duration::ZERO)));
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_ignored() {
        let mut rig = rig(config().on_throttled(OnThrottled::Ignore));
        rig.answer(100, Answer::Throttled(Some(secs(7))));
        let state = rig.handle.state();
        assert_eq!(
            (state.state, state.window.calls, state.generation),
            (Circuit::Closed, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn left_to_a_rate_limit_it_is_reported_all_the_same() {
        let mut rig = rig(config()
            .on_throttled(OnThrottled::Ignore)
            .max_retry_after(secs(60)));
        assert_eq!(rig.handle.report().reason, None);
        for asked in [Some(secs(7)), None, Some(Duration::MAX), Some(secs(3))] {
            rig.answer(1, Answer::Throttled(asked));
        }
        advance(secs(20)).await;
        // The longest holds, cut to what is allowed.
        let report = rig.handle.report();
        assert!(report.ready);
        assert_eq!(
            report.reason.as_deref(),
            Some("the server asked for a pause, which is left to a rate limit")
        );
        assert_eq!(report.retry_after_ms, Some(40_000));
        assert_eq!(rig.handle.state().pause_left_ms, Some(40_000));
        advance(secs(40)).await;
        assert_eq!(rig.handle.report().reason, None);
        assert_eq!(rig.handle.state().pause_left_ms, None);

        rig.answer(1, Answer::Throttled(Some(secs(7))));
        rig.handle.reset();
        assert_eq!(rig.handle.state().pause_left_ms, None);
        rig.handle.observe_only("trying it out", None);
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        assert_eq!(rig.handle.state().pause_left_ms, Some(7_000));
    }

    #[tokio::test(start_paused = true)]
    async fn kept_by_the_circuit_it_is_reported_as_the_refusal() {
        let mut rig = rig(config());
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        let report = rig.handle.report();
        assert!(!report.ready);
        assert_eq!(report.retry_after_ms, Some(7_000));
        assert_eq!(rig.handle.state().pause_left_ms, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_half_open_goes_on_with_the_successes_it_had() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        assert_eq!(rig.refused(), (Reason::Throttled, Some(secs(7))));
        advance(secs(7)).await;
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_queued_before_the_pause_are_refused_at_dispatch() {
        let mut rig = rig(config());
        let queued = rig.admit().unwrap();
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        let rejection = rig.dispatch(queued).map(drop).unwrap_err();
        assert_eq!(rejection.reason(), Reason::Throttled);
        assert_eq!(rejection.retry_after(), Some(secs(7)));
    }
}

mod leases {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_probe_dropped_between_admission_and_observation_leaves_the_next_call_admitted() {
        let mut rig = rig(config().permitted_number_of_calls_in_half_open_state(1));
        rig.trip_and_wait().await;
        for _ in 0..10 {
            let probe = rig.admit().unwrap();
            assert_eq!(rig.admit().unwrap_err().reason(), Reason::ProbesOut);
            drop(probe);
        }
        let probe = rig.admit().unwrap();
        rig.dispatch(probe).unwrap().answer(Answer::Success);
        assert_eq!(rig.handle.state().probes.successes, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_starts_anew_at_dispatch() {
        let mut rig = rig(config().permitted_number_of_calls_in_half_open_state(1));
        rig.trip_and_wait().await;
        let probe = rig.admit().unwrap();
        advance(LEASE - MILLI).await;
        let _call = rig.dispatch(probe).unwrap();
        assert_eq!(rig.refused(), (Reason::ProbesOut, Some(LEASE)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_lease_is_admitted_anew_at_dispatch() {
        let mut rig = rig(config().permitted_number_of_calls_in_half_open_state(1));
        rig.trip_and_wait().await;
        let late = rig.admit().unwrap();
        advance(LEASE).await;
        let probe = rig.admit().unwrap();
        assert_eq!(
            rig.dispatch(late).map(drop).unwrap_err().reason(),
            Reason::ProbesOut
        );
        // The late one's end has not freed the other's slot.
        assert_eq!(rig.refused().0, Reason::ProbesOut);
        drop(probe);

        let late = rig.admit().unwrap();
        advance(LEASE).await;
        rig.dispatch(late).unwrap().answer(Answer::Success);
        assert_eq!(rig.handle.state().probes.successes, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_from_before_a_transition_is_admitted_anew_at_dispatch() {
        let mut rig = rig(config());
        let (first, second) = (rig.admit().unwrap(), rig.admit().unwrap());
        rig.trip();
        assert_eq!(
            rig.dispatch(first).map(drop).unwrap_err().reason(),
            Reason::CircuitOpen
        );
        advance(OPEN).await;
        let call = rig.dispatch(second).unwrap();
        assert_eq!(rig.handle.state().probes.out, 1);
        call.answer(Answer::Success);
        assert_eq!(rig.handle.state().probes.successes, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_our_own_queue_is_not_slow() {
        let mut rig = rig(config().slow_call_duration_threshold(secs(10)));
        let queued: Vec<Job> = (0..5).map(|_| rig.admit().unwrap()).collect();
        advance(secs(3600)).await;
        for job in queued {
            rig.dispatch(job).unwrap().answer(Answer::Success);
        }
        let window = rig.handle.state().window;
        assert_eq!((window.calls, window.slow_calls), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_lease_is_observed_and_never_counted_in_half_open() {
        let mut rig = rig(config());
        for _ in 0..5 {
            let call = rig.dispatch(Job::default()).unwrap();
            call.answer(Answer::Failure);
        }
        assert_eq!(rig.circuit(), Circuit::Open);
        rig.dispatch(Job::default())
            .unwrap()
            .answer(Answer::Success);
        advance(OPEN).await;
        let _probe = rig.pass();
        for answer in [
            Answer::Success,
            Answer::Success,
            Answer::Failure,
            Answer::Throttled(None),
        ] {
            rig.dispatch(Job::default()).unwrap().answer(answer);
        }
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        assert_eq!(rig.handle.state().probes.successes, 0);
    }
}

mod operator {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hold_lasts_until_it_is_released() {
        let mut rig = rig(config());
        let under_way = rig.pass();
        rig.handle.hold_open("database migration", None);
        advance(secs(365 * 86_400)).await;
        under_way.answer(Answer::Success);
        rig.handle.reset();
        assert_eq!(rig.refused(), (Reason::HeldOpen, None));
        assert_eq!(rig.circuit(), Circuit::HeldOpen);
        rig.handle.release();
        rig.pass();
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_tells_the_operators_reason() {
        let mut rig = rig(config());
        rig.handle.hold_open("database migration", Some(secs(600)));
        assert_eq!(
            rig.call().map(drop).unwrap_err().to_string(),
            "circuit-breaker refused the call for \"music\": the circuit is held open by an \
             operator (database migration); retry after 600s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_with_its_own_time() {
        let mut rig = rig(config());
        rig.handle.hold_open("database migration", Some(secs(600)));
        advance(secs(600) - MILLI).await;
        assert_eq!(rig.refused(), (Reason::HeldOpen, Some(MILLI)));
        advance(MILLI).await;
        rig.pass();
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_under_a_hold_goes_on_with_time() {
        let mut rig = rig(config());
        rig.trip();
        rig.handle.hold_open("database migration", Some(secs(10)));
        // Open for longer than it is held.
        assert_eq!(rig.refused(), (Reason::HeldOpen, Some(OPEN)));
        advance(secs(10)).await;
        assert_eq!(rig.refused(), (Reason::CircuitOpen, Some(secs(20))));
        rig.handle.hold_closed("it is urgent", None);
        advance(secs(20)).await;
        rig.handle.release();
        let _probe = rig.pass();
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_is_that_of_the_change_and_not_of_its_discovery() {
        let mut rig = rig(config());
        let since = |rig: &Rig| rig.handle.state().since_ms;
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        advance(secs(6)).await;
        assert_eq!(since(&rig), 6_000);
        advance(secs(3)).await;
        assert_eq!((rig.circuit(), since(&rig)), (Circuit::Closed, 2_000));

        // A pause that ended under a hold shows when the hold ends.
        rig.answer(1, Answer::Throttled(Some(secs(7))));
        rig.handle.hold_closed("it is urgent", Some(secs(20)));
        advance(secs(25)).await;
        assert_eq!((rig.circuit(), since(&rig)), (Circuit::Closed, 5_000));
    }

    #[tokio::test(start_paused = true)]
    async fn held_closed_lets_all_pass_and_counts_nothing() {
        let mut rig = rig(config());
        rig.trip();
        rig.handle.hold_closed("it is urgent", None);
        rig.answer(100, Answer::Failure);
        rig.answer(100, Answer::Throttled(None));
        assert_eq!(rig.circuit(), Circuit::HeldClosed);
        rig.handle.release();
        assert_eq!(rig.circuit(), Circuit::Open);
        assert_eq!(rig.handle.state().window.calls, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn observing_counts_and_decides_nothing_until_it_is_released() {
        let mut rig = rig(config());
        rig.handle.observe_only("trying it out", None);
        rig.answer(100, Answer::Failure);
        rig.answer(10, Answer::Throttled(None));
        assert_eq!(rig.circuit(), Circuit::ObserveOnly);
        assert_eq!(rig.handle.state().window.failures, 10);
        rig.handle.release();
        rig.answer(1, Answer::Ignored);
        assert_eq!(rig.circuit(), Circuit::Closed);
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn probing_starts_afresh_after_a_hold() {
        let mut rig = rig(config());
        rig.trip_and_wait().await;
        rig.answer(1, Answer::Success);
        let probes = [rig.pass(), rig.pass()];
        rig.handle.hold_open("a moment", None);
        rig.handle.release();
        assert!(!rig.handle.is_open());
        rig.answer(1, Answer::Success);
        for call in probes {
            call.answer(Answer::Success);
        }
        assert_eq!(rig.circuit(), Circuit::HalfOpen);
        rig.answer(1, Answer::Success);
        assert_eq!(rig.circuit(), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_is_the_rejection() {
        let mut rig = rig(config());
        let report = rig.handle.report();
        assert!(report.ready);
        rig.trip();
        let report = rig.handle.report();
        let rejection = rig.call().map(drop).unwrap_err();
        assert!(!report.ready);
        assert_eq!(report.reason, Some(rejection.to_string()));
        assert_eq!(report.retry_after_ms, Some(30_000));
    }

    #[cfg(feature = "serde")]
    #[tokio::test(start_paused = true)]
    async fn the_state_serialises_with_times_in_milliseconds() {
        let mut rig = rig(config());
        rig.trip();
        advance(secs(10)).await;
        assert_eq!(
            serde_json::to_value(rig.handle.state()).unwrap(),
            serde_json::json!({
                "state": "open",
                "since_ms": 10_000,
                "is_open": true,
                "reason": "the failure rate reached its threshold",
                "last_error": null,
                "retry_after_ms": 20_000,
                "pause_left_ms": null,
                "generation": 1,
                "window": {
                    "calls": 5, "failures": 5, "slow_calls": 0, "consecutive_failures": 5,
                },
                "probes": { "out": 0, "successes": 0 },
                "openings": 1,
                "stale_outcomes": 0,
                "rejected_calls": 0,
            })
        );
        assert_eq!(
            serde_json::to_value(Cause::HalfOpenTimedOut).unwrap(),
            Cause::HalfOpenTimedOut.as_str()
        );
        assert_eq!(
            serde_json::to_value(Circuit::ObserveOnly).unwrap(),
            Circuit::ObserveOnly.as_str()
        );
    }
}

mod last_error {
    use toolweir_core::{Delivery, ErrText, Observation, Outcome, Reason, Rejection};

    use super::*;

    type Answered = Result<(), BoxError>;

    fn poll(service: &mut impl Service<Answered, Future: Future>) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let call = std::pin::pin!(service.call(Ok(())));
        assert!(call.poll(&mut cx).is_ready());
    }

    /// A breaker whose server answers with each of `answers`.
    fn after(layer: &CircuitBreakerLayer<impl Clone + Describes>, answers: Vec<Answered>) {
        for answer in answers {
            let mut answer = Some(answer);
            let server =
                service_fn(move |_: Answered| std::future::ready(answer.take().expect("one call")));
            poll(&mut layer.layer(server));
        }
    }

    trait Describes: toolweir_core::Classify<(), BoxError> {}
    impl<C: toolweir_core::Classify<(), BoxError>> Describes for C {}

    fn failures(texts: &[&str]) -> Vec<Answered> {
        texts
            .iter()
            .map(|text| Err(BoxError::from(*text)))
            .collect()
    }

    fn layer() -> CircuitBreakerLayer<ErrText> {
        let config = config().build().unwrap();
        CircuitBreakerLayer::new(config).with_classifier(ErrText::new())
    }

    #[tokio::test(start_paused = true)]
    async fn the_reason_has_its_text_bounded_and_escaped() {
        let layer = layer();
        after(&layer, failures(&["a", "b", "c", "d"]));
        let state = layer.handle().state();
        assert_eq!(
            (state.reason, state.last_error.as_deref()),
            (None, Some("d"))
        );

        let hostile = "reset\n".repeat(1_000);
        after(&layer, failures(&[&hostile]));
        let reason = layer.handle().state().reason.unwrap();
        let (explanation, text) = reason.split_once(": ").unwrap();
        assert_eq!(explanation, "the failure rate reached its threshold");
        assert!(text.starts_with(r"reset\nreset\n"), "{text}");
        assert!(text.chars().count() <= 301, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_put_down_to_it() {
        let throttled = |result: Result<&(), &BoxError>| match result {
            Ok(()) => Observation::new(
                Outcome::Throttled {
                    retry_after: Some(secs(7)),
                },
                Delivery::NotSent,
            ),
            Err(_) => Observation::new(Outcome::Failure, Delivery::Ambiguous),
        };
        let layer = CircuitBreakerLayer::new(config().build().unwrap())
            .with_classifier(ErrText::of(throttled));
        after(&layer, failures(&["one"]));
        after(&layer, vec![Ok(())]);
        let state = layer.handle().state();
        assert_eq!(state.last_error.as_deref(), Some("one"));
        assert_eq!(
            state.reason.as_deref(),
            Some("the server asked for a pause")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_rejection_and_no_report_has_it() {
        let layer = layer();
        after(&layer, failures(&["token=hunter2"; 5]));
        let report = layer.handle().report().reason.unwrap();
        assert!(!report.contains("hunter2"), "{report}");
        assert!(layer.handle().state().reason.unwrap().contains("hunter2"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_that_of_the_last_failure_until_the_circuit_closes() {
        let layer = layer();
        after(&layer, failures(&["one", "two", "three", "four", "five"]));
        advance(OPEN).await;
        after(&layer, failures(&["six"]));
        let last = || layer.handle().state().last_error;
        assert_eq!(last().as_deref(), Some("six"));
        assert_eq!(
            layer.handle().state().reason.as_deref(),
            Some("a probe failed: six")
        );
        advance(secs(60)).await;
        after(&layer, vec![Ok(()), Ok(())]);
        assert_eq!((layer.handle().is_open(), last()), (false, None));
        // What is no failure says nothing.
        let refused = Rejection::new("semaphore", Reason::QueueFull);
        after(&layer, vec![Err(refused.into()), Ok(())]);
        assert_eq!(last(), None);
        after(&layer, failures(&["seven"]));
        after(&layer, vec![Ok(())]);
        assert_eq!(last().as_deref(), Some("seven"));
        layer.handle().reset();
        assert_eq!(last(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_classifier_that_describes_there_is_none() {
        let layer = CircuitBreakerLayer::new(config().build().unwrap());
        after(&layer, failures(&["one"; 5]));
        let state = layer.handle().state();
        assert_eq!(state.last_error, None);
        assert_eq!(
            state.reason.as_deref(),
            Some("the failure rate reached its threshold")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_failure_is_rendered() {
        #[derive(Clone)]
        struct Counts(std::rc::Rc<std::cell::Cell<u32>>);

        impl toolweir_core::Classify<(), BoxError> for Counts {
            fn classify(&self, result: Result<&(), &BoxError>) -> Observation {
                toolweir_core::ErrIsFailure.classify(result)
            }

            fn describe(&self, _: Result<&(), &BoxError>) -> Option<String> {
                self.0.set(self.0.get() + 1);
                None
            }
        }

        let rendered = std::rc::Rc::new(std::cell::Cell::new(0));
        let layer = CircuitBreakerLayer::new(config().build().unwrap())
            .with_classifier(Counts(rendered.clone()));
        let refused = Rejection::new("semaphore", Reason::QueueFull);
        after(&layer, vec![Ok(()), Err(refused.into()), Ok(())]);
        assert_eq!(rendered.get(), 0);
        after(&layer, failures(&["one"]));
        assert_eq!(rendered.get(), 1);
    }
}

mod threads {
    use super::*;

    type Ready = std::future::Ready<Result<(), BoxError>>;

    fn answer(fails: bool) -> Ready {
        std::future::ready(if fails {
            Err("connection reset".into())
        } else {
            Ok(())
        })
    }

    fn call(service: &mut impl Service<bool, Future: Future>, fails: bool) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let call = std::pin::pin!(service.call(fails));
        assert!(call.poll(&mut cx).is_ready());
    }

    #[test]
    fn they_lose_no_call() {
        let config = config().sliding_window_size(10_000);
        let layer = CircuitBreakerLayer::new(config.build().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut service = layer.layer(service_fn(answer));
                scope.spawn(move || (0..1_000).for_each(|_| call(&mut service, false)));
            }
        });
        assert_eq!(layer.handle().state().window.calls, 4_000);
    }

    #[test]
    fn they_and_an_operator_leave_it_whole() {
        // An open period so short that it is always over: every state comes up again and again.
        let config = config().wait_duration_in_open_state(Duration::from_nanos(1));
        let config = config.max_wait_duration_in_open_state(Duration::from_nanos(1));
        let layer = CircuitBreakerLayer::new(config.build().unwrap());
        let handle = layer.handle();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut service = layer.layer(service_fn(answer));
                scope.spawn(move || {
                    (0..2_000).for_each(|round| call(&mut service, (round + thread) % 3 > 0));
                });
            }
            for _ in 0..200 {
                handle.hold_open("database migration", None);
                handle.release();
                handle.reset();
            }
        });
        handle.reset();
        let state = handle.state();
        assert_eq!((state.state, state.probes.out), (Circuit::Closed, 0));
        let mut service = layer.layer(service_fn(answer));
        call(&mut service, false);
        assert_eq!(handle.state().window.calls, 1);
    }
}

mod events {
    use super::*;

    #[test]
    fn what_is_printed_is_the_stable_word() {
        assert_eq!(Circuit::HalfOpen.to_string(), "half-open");
        assert_eq!(Cause::ProbesSucceeded.to_string(), "probes-succeeded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_gets_each_transition_in_order() {
        let mut rig = rig(config());
        rig.handle.reset();
        let mut transitions = rig.handle.subscribe();
        rig.trip_and_wait().await;
        rig.answer(2, Answer::Success);
        for (generation, from, to, cause) in [
            (2, Circuit::Closed, Circuit::Open, Cause::FailureRate),
            (3, Circuit::Open, Circuit::HalfOpen, Cause::OpenPeriodOver),
            (
                4,
                Circuit::HalfOpen,
                Circuit::Closed,
                Cause::ProbesSucceeded,
            ),
        ] {
            let transition = transitions.try_next().unwrap();
            assert_eq!(transition.generation, generation);
            assert_eq!((transition.from, transition.to), (from, to));
            assert_eq!(transition.cause, cause);
        }
        assert_eq!(transitions.try_next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_listener_wakes_and_may_use_the_breaker() {
        let rig = rig(config());
        let handle = rig.handle.clone();
        let mut transitions = handle.subscribe();
        let listener = tokio::spawn(async move {
            let transition = transitions.next().await.unwrap();
            (transition.to, handle.state().state)
        });
        tokio::task::yield_now().await;
        rig.handle.hold_open("database migration", None);
        let seen = timeout(secs(1), listener).await.unwrap().unwrap();
        assert_eq!(seen, (Circuit::HeldOpen, Circuit::HeldOpen));
    }

    /// Uses the breaker in the very moment in which it is woken.
    struct Asks(CircuitBreakerHandle, std::sync::Mutex<Vec<Circuit>>);

    impl std::task::Wake for Asks {
        fn wake(self: std::sync::Arc<Self>) {
            let state = self.0.state().state;
            self.1.lock().unwrap().push(state);
        }
    }

    /// Were a lock of the breaker's held, this would never end.
    #[tokio::test(start_paused = true)]
    async fn a_listener_is_woken_without_a_lock() {
        let rig = rig(config());
        let mut transitions = rig.handle.subscribe();
        let asks = std::sync::Arc::new(Asks(rig.handle.clone(), std::sync::Mutex::default()));
        let waker = std::task::Waker::from(asks.clone());
        let mut next = std::pin::pin!(transitions.next());
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(next.as_mut().poll(&mut cx).is_pending());
        rig.handle.hold_open("database migration", None);
        assert_eq!(*asks.1.lock().unwrap(), [Circuit::HeldOpen]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_falls_behind_sees_the_gap() {
        let rig = rig(config());
        let mut transitions = rig.handle.subscribe();
        for _ in 0..100 {
            rig.handle.reset();
        }
        let mut generations = Vec::new();
        while let Some(transition) = transitions.try_next() {
            generations.push(transition.generation);
        }
        assert_eq!(generations, (37..=100).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_listener_gets_what_comes_after_its_own_subscription() {
        let rig = rig(config());
        let first = rig.handle.subscribe();
        rig.handle.reset();
        drop(first);
        let mut second = rig.handle.subscribe();
        rig.handle.reset();
        assert_eq!(second.try_next().unwrap().generation, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_breaker() {
        let rig = rig(config());
        let mut transitions = rig.handle.subscribe();
        drop(rig);
        assert_eq!(transitions.next().await, None);
    }
}
