//! What the rate limit does where others go wrong, and what its documentation promises.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, poll_fn},
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::time::{Instant, advance};
use toolweir_core::{AsRejection, BoxError, Delivery, Reason, ReportState};
use toolweir_rate_limit::{
    PausedBy, RateLimitConfig, RateLimitConfigBuilder, RateLimitHandle, RateLimitLayer,
};
use tower::{Layer, Service, ServiceExt, service_fn};

mod bookings;
mod learning;
#[path = "../server/mod.rs"]
mod server;
use server::{Answer, Call, Job, Progress, Rig, Server};

const NANO: Duration = Duration::from_nanos(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// In which one cell comes back.
const INTERVAL: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_millis(250);

/// Ten a second.
fn config(burst: u32) -> RateLimitConfigBuilder {
    RateLimitConfig::builder().calls_per_second(10).burst(burst)
}

fn rig(burst: u32) -> Rig {
    Rig::new(config(burst).build().unwrap())
}

fn impatient(burst: u32) -> Rig {
    Rig::new(config(burst).max_wait(Duration::ZERO).build().unwrap())
}

type Refusal = Option<(Reason, Option<Duration>)>;

const fn spent(retry_after: Duration) -> Refusal {
    Some((Reason::QuotaSpent, Some(retry_after)))
}

const fn throttled(retry_after: Duration) -> Refusal {
    Some((Reason::Throttled, Some(retry_after)))
}

impl Rig {
    /// A call that has been polled and waits, here or at the server.
    fn pending(&mut self, number: usize) -> Call {
        let mut call = self.call(number, 1, None);
        assert_eq!(call.poll(), Progress::Pending);
        call
    }

    /// A call that passes and is answered.
    fn answered(&mut self, answer: Answer) {
        let mut call = self.pending(0);
        self.server.answer(0, answer);
        assert_ne!(call.poll(), Progress::Pending);
    }

    /// Why a call does not pass now, and when it will.
    fn refused(&mut self) -> Refusal {
        self.call(0, 1, None).poll().refusal()
    }

    fn waiting(&self) -> usize {
        self.handle.state().waiting
    }

    fn available(&self) -> u32 {
        self.handle.state().available
    }
}

mod quota {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_burst_passes_and_then_one_for_each_interval() {
        let mut rig = impatient(3);
        let mut passed = Vec::new();
        for at in 0..10 {
            while rig.refused().is_none() {
                passed.push(at);
            }
            advance(INTERVAL / 2).await;
        }
        assert_eq!(passed, [0, 0, 0, 2, 4, 6, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_come_back_is_exact() {
        let mut rig = impatient(1);
        assert_eq!(rig.refused(), None);
        advance(7 * MILLI + 3 * NANO).await;
        let retry_after = INTERVAL - 7 * MILLI - 3 * NANO;
        assert_eq!(rig.refused(), spent(retry_after));
        assert_eq!(rig.handle.retry_after(), Some(retry_after));
        advance(retry_after - NANO).await;
        assert_eq!(rig.refused(), spent(NANO));
        advance(NANO).await;
        assert_eq!(rig.handle.retry_after(), None);
        assert_eq!(rig.refused(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_call_costs_nothing() {
        let mut rig = impatient(1);
        assert_eq!(rig.refused(), None);
        for _ in 0..100 {
            assert_eq!(rig.refused(), spent(INTERVAL));
        }
        advance(INTERVAL).await;
        assert_eq!(rig.refused(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_costs_what_its_facts_say() {
        let mut rig = impatient(5);
        assert_eq!(rig.call(0, 4, None).poll(), Progress::Pending);
        assert_eq!(rig.available(), 1);
        let refusal = rig.call(0, 3, None).poll().refusal();
        assert_eq!(refusal, spent(2 * INTERVAL));
        assert_eq!(rig.available(), 1);
        assert_eq!(rig.call(0, 1, None).poll(), Progress::Pending);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_can_never_pass_is_told_so() {
        let mut rig = rig(5);
        for cost in [6, u32::MAX] {
            let Progress::Refused(rejection) = rig.call(0, cost, None).poll() else {
                panic!("the call costs more than the burst");
            };
            assert_eq!(rejection.reason(), Reason::CostTooHigh);
            assert!(rejection.reason().is_terminal());
            assert_eq!(rejection.retry_after(), None);
            let detail = format!("it costs {cost}, and the burst is 5");
            assert_eq!(rejection.detail(), Some(detail.as_str()));
        }
        assert_eq!(rig.available(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_readied_clone_costs_nothing_idle_or_dropped() {
        let mut rig = impatient(1);
        let mut idle = Vec::new();
        for _ in 0..100 {
            let mut clone = rig.service.clone();
            poll_fn(|cx| clone.poll_ready(cx)).await.unwrap();
            idle.push(clone);
        }
        idle.truncate(50);
        assert_eq!(rig.available(), 1);
        assert_eq!(rig.refused(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_finds_the_burst_and_no_more() {
        let mut rig = impatient(3);
        while rig.refused().is_none() {}
        advance(400 * 24 * 3600 * SECOND).await;
        assert_eq!(rig.available(), 3);
        for _ in 0..3 {
            assert_eq!(rig.refused(), None);
        }
        assert_eq!(rig.refused(), spent(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn all_services_of_a_layer_and_its_clones_share_the_quota() {
        let layer = RateLimitLayer::new(config(1).max_wait(Duration::ZERO).build().unwrap());
        let service = || service_fn(|()| async { Ok::<_, BoxError>(()) });
        layer.layer(service()).call(()).await.unwrap();
        let error = layer.clone().layer(service()).call(()).await.unwrap_err();
        let rejection = error.as_rejection().unwrap();
        assert_eq!(rejection.reason(), Reason::QuotaSpent);
        assert_eq!((rejection.layer(), rejection.key()), ("rate-limit", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_service_leaves_the_limit_working() {
        let layer = RateLimitLayer::new(config(3).max_wait(Duration::ZERO).build().unwrap());
        let mut service = layer.layer(service_fn(
            |()| -> std::future::Ready<Result<(), BoxError>> {
                std::panic::resume_unwind(Box::new("the client panics"))
            },
        ));
        for _ in 0..3 {
            let call = AssertUnwindSafe(|| service.call(()));
            assert!(catch_unwind(call).is_err());
        }
        let error = service.call(()).await.unwrap_err();
        assert!(error.as_rejection().is_some());
        assert_eq!(layer.handle().retry_after(), Some(INTERVAL));
    }

    /// A future that is pending because its task has used up its turn says nothing about quotas.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_turn_is_not_refused() {
        let mut rig = impatient(1);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(&mut cx) {
            turn.made_progress();
        }
        rig.answered(Answer::Done);
    }
}

mod waiting {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_a_moment_too_early_waits() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut call = rig.pending(1);
        assert!(rig.server.calls().is_empty());
        advance(INTERVAL - NANO).await;
        assert_eq!(call.poll(), Progress::Pending);
        assert!(rig.server.calls().is_empty());
        advance(NANO).await;
        assert_eq!(call.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
        assert_eq!(rig.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_longer_than_allowed_is_not_begun() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let _waiting = [rig.pending(1), rig.pending(2)];
        // The third would wait for 300 milliseconds, and 250 are allowed.
        assert_eq!(rig.refused(), spent(3 * INTERVAL));
        assert_eq!(rig.waiting(), 2);
        assert_eq!(rig.handle.state().rejected_calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_deadline_is_not_begun() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let deadline = Instant::now() + INTERVAL;
        let mut late = rig.call(1, 1, Some(deadline - NANO));
        assert_eq!(late.poll().refusal(), spent(INTERVAL));
        drop(late);
        let mut in_time = rig.call(2, 1, Some(deadline + MILLI));
        assert_eq!(in_time.poll(), Progress::Pending);
        advance(INTERVAL).await;
        assert_eq!(in_time.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_need_not_wait_passes_whatever_its_deadline() {
        let mut rig = rig(1);
        let mut call = rig.call(1, 1, Some(Instant::now()));
        assert_eq!(call.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_made_past_its_deadline_after_a_wait() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut call = rig.call(1, 1, Some(Instant::now() + INTERVAL + MILLI));
        assert_eq!(call.poll(), Progress::Pending);
        advance(INTERVAL + MILLI).await;
        let refusal = call.poll().refusal();
        assert_eq!(refusal, Some((Reason::DeadlineTooShort, None)));
        assert!(rig.server.calls().is_empty());
        drop(call);
        assert_eq!(rig.available(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn first_come_first_served() {
        let mut rig = Rig::new(config(1).max_wait(SECOND).build().unwrap());
        rig.answered(Answer::Done);
        let mut first = rig.pending(1);
        let mut second = rig.pending(2);
        advance(2 * INTERVAL).await;
        // Both were to go by now, but there is one cell, and it is the first one's.
        assert_eq!(second.poll(), Progress::Pending);
        assert!(rig.server.calls().is_empty());
        assert_eq!(first.poll(), Progress::Pending);
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
        advance(INTERVAL).await;
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1, 2]);
    }

    /// A cheap call does not pass a dear one for which the cells are being saved up.
    #[tokio::test(start_paused = true)]
    async fn a_new_call_does_not_overtake() {
        let mut rig = rig(3);
        rig.answered(Answer::Done);
        let mut dear = rig.call(1, 3, None);
        assert_eq!(dear.poll(), Progress::Pending);
        assert_eq!(rig.available(), 2);
        let mut cheap = rig.pending(2);
        assert!(rig.server.calls().is_empty());
        advance(INTERVAL).await;
        assert_eq!(cheap.poll(), Progress::Pending);
        assert_eq!(dear.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
        advance(INTERVAL).await;
        assert_eq!(cheap.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_has_taken_nothing_and_those_behind_move_up() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let first = rig.pending(1);
        let mut second = rig.pending(2);
        assert_eq!(rig.handle.retry_after(), Some(3 * INTERVAL));
        drop(first);
        assert_eq!(rig.handle.retry_after(), Some(2 * INTERVAL));
        assert_eq!(second.wakes(), 1);
        assert_eq!(second.poll(), Progress::Pending);
        advance(INTERVAL).await;
        assert_eq!(second.wakes(), 2);
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_wakes_nobody_ahead() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let first = rig.pending(1);
        drop(rig.pending(2));
        assert_eq!(first.wakes(), 0);
        assert_eq!(rig.handle.retry_after(), Some(2 * INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_its_place_before_its_first_poll() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut first = rig.call(1, 1, None);
        let mut second = rig.pending(2);
        advance(INTERVAL).await;
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(first.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_polls_blocks_the_others_for_a_while_only() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut forgotten = rig.pending(1);
        advance(MAX_WAIT).await;
        let mut waiting = rig.pending(2);
        assert!(rig.server.calls().is_empty());
        advance(51 * MILLI).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
        let refusal = forgotten.poll().refusal();
        assert_eq!(refusal, spent(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_call_puts_out_an_abandoned_one_too() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut forgotten = rig.pending(1);
        advance(MAX_WAIT + 51 * MILLI).await;
        let _passes = rig.pending(2);
        assert_eq!(rig.server.calls(), [2]);
        advance(INTERVAL).await;
        // There would be a cell for it now, but it has lost its place.
        let refusal = forgotten.poll().refusal();
        assert_eq!(refusal, Some((Reason::WaitTooLong, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_a_little_late_still_passes() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut waiting = rig.pending(1);
        advance(2 * MAX_WAIT).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    /// However many wait and come and go, each is polled to begin its wait and to end it.
    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_is_woken_for_its_turn_alone() {
        let config = RateLimitConfig::builder()
            .calls_per_second(1000)
            .burst(1)
            .max_wait(SECOND);
        let layer = RateLimitLayer::new(config.build().unwrap());
        let polls = Arc::new(AtomicUsize::new(0));
        let service = layer.layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
        let calls: Vec<_> = (0..500)
            .map(|_| {
                let polls = polls.clone();
                let call = service.clone().oneshot(());
                tokio::spawn(Counted(Box::pin(call), polls))
            })
            .collect();
        let start = Instant::now();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        // Cells are exact, timers are not: a wake may come with the millisecond after.
        assert!(start.elapsed() >= 499 * MILLI && start.elapsed() <= 501 * MILLI);
        let polls = polls.load(SeqCst);
        assert!(polls <= 1_000, "{polls} polls of 500 calls");
    }

    /// Whoever is woken may use the limit at once, on the same thread.
    #[tokio::test(start_paused = true)]
    async fn wakers_are_woken_without_a_lock() {
        struct Asks(RateLimitHandle, AtomicUsize);

        impl Wake for Asks {
            fn wake(self: Arc<Self>) {
                self.1.store(self.0.state().waiting + 1, SeqCst);
            }
        }

        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let first = rig.pending(1);
        let mut second = Box::pin(rig.service.clone().oneshot(Job {
            number: 2,
            cost: NonZeroU32::MIN,
            deadline: None,
            id: None,
        }));
        let asks = Arc::new(Asks(rig.handle.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(asks.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert_eq!(asks.1.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_keeps_no_instance_ready() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut waiting = rig.pending(1);
        assert_eq!(rig.server.readied(), 0);
        let _another = rig.pending(2);
        assert_eq!(rig.refused(), spent(3 * INTERVAL));
        assert_eq!(rig.server.readied(), 0);
        advance(INTERVAL).await;
        // It readies an instance of its own before it calls it; the server insists.
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
        assert_eq!(rig.server.readied(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_spent_while_the_inner_service_is_not_ready() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut waiting = rig.pending(1);
        rig.server.close();
        advance(INTERVAL).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.available(), 1);
        let wakes = waiting.wakes();
        rig.server.open();
        assert_eq!(waiting.wakes(), wakes + 1);
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
        assert_eq!(rig.available(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_inner_service_that_is_not_ready_in_time_is_not_waited_for() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut waiting = rig.pending(1);
        rig.server.close();
        advance(INTERVAL).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        let wakes = waiting.wakes();
        advance(MAX_WAIT - INTERVAL).await;
        assert_eq!(waiting.wakes(), wakes + 1);
        let refusal = waiting.poll().refusal();
        assert_eq!(refusal, Some((Reason::WaitTooLong, None)));
        drop(waiting);
        assert_eq!((rig.waiting(), rig.available()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_refused_in_the_queue_wakes_those_behind() {
        let mut rig = Rig::new(config(1).max_wait(SECOND).build().unwrap());
        rig.answered(Answer::Done);
        let mut first = rig.pending(1);
        let mut short = rig.call(2, 1, Some(Instant::now() + 250 * MILLI));
        assert_eq!(short.poll(), Progress::Pending);
        let mut last = rig.pending(3);
        rig.server.close();
        advance(INTERVAL).await;
        assert_eq!(first.poll(), Progress::Pending);
        advance(INTERVAL - MILLI).await;
        assert_eq!(last.poll(), Progress::Pending);
        let wakes = last.wakes();
        // The first is not ready, and the second cannot have a cell after it by 250 milliseconds.
        advance(MILLI).await;
        assert_eq!(short.poll().refusal(), spent(2 * INTERVAL));
        assert_eq!(last.wakes(), wakes + 1);
        assert_eq!(last.poll(), Progress::Pending);
        rig.server.open();
        assert_eq!(first.poll(), Progress::Pending);
        advance(INTERVAL).await;
        assert_eq!(last.wakes(), wakes + 2);
        assert_eq!(last.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_readiness_error_comes_out_and_has_cost_nothing() {
        let layer = RateLimitLayer::new(config(1).build().unwrap());
        let (mock, mut server) = tower_test::mock::pair::<(), ()>();
        let mut service = layer.layer(mock);
        drop(service.ready().await.unwrap().call(()));
        let waiting = service.ready().await.unwrap().call(());
        server.send_error("out of order");
        assert_eq!(waiting.await.unwrap_err().to_string(), "out of order");
        let state = layer.handle().state();
        assert_eq!((state.waiting, state.available), (0, 1));
    }
}

/// Counts the polls of a future.
struct Counted<F>(Pin<Box<F>>, Arc<AtomicUsize>);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.1.fetch_add(1, SeqCst);
        self.0.as_mut().poll(cx)
    }
}

mod pauses {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_throttled_answer_pauses_everybody_until_the_server_says() {
        let mut rig = rig(10);
        rig.answered(Answer::Throttled(Some(3 * SECOND)));
        assert_eq!(rig.refused(), throttled(3 * SECOND));
        assert_eq!(rig.handle.paused_for(), Some(3 * SECOND));
        let state = rig.handle.state();
        assert_eq!(state.paused_ms, Some(3000));
        assert_eq!(state.paused_by, Some(PausedBy::Server));
        assert_eq!(state.throttled_calls, 1);
        advance(3 * SECOND - MAX_WAIT - NANO).await;
        assert_eq!(rig.refused(), throttled(MAX_WAIT + NANO));
        advance(NANO).await;
        let mut waiting = rig.pending(1);
        advance(MAX_WAIT).await;
        assert_eq!(rig.handle.paused_for(), None);
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_drains_the_burst() {
        let mut rig = impatient(10);
        rig.answered(Answer::Throttled(Some(3 * SECOND)));
        advance(3 * SECOND).await;
        assert_eq!(rig.available(), 1);
        assert_eq!(rig.refused(), None);
        assert_eq!(rig.refused(), spent(INTERVAL));
        advance(INTERVAL).await;
        assert_eq!(rig.refused(), None);
        assert_eq!(rig.refused(), spent(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_pause_gives_no_cell_before_its_time() {
        let mut rig = impatient(1);
        rig.answered(Answer::Throttled(Some(30 * MILLI)));
        // The cell that the throttled call took is back later than the pause is over.
        assert_eq!(rig.refused(), throttled(INTERVAL));
        advance(30 * MILLI).await;
        assert_eq!(rig.refused(), spent(70 * MILLI));
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_after_of_zero_is_no_pause_and_drains_the_burst() {
        let mut rig = impatient(10);
        rig.answered(Answer::Throttled(Some(Duration::ZERO)));
        assert_eq!(rig.handle.paused_for(), None);
        assert_eq!(rig.refused(), None);
        assert_eq!(rig.refused(), spent(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_the_default_pause_is_taken() {
        let mut rig = Rig::new(config(1).default_pause(7 * SECOND).build().unwrap());
        rig.answered(Answer::Throttled(None));
        assert_eq!(rig.refused(), throttled(7 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_pause_bounds_what_a_server_may_ask_for() {
        for asked in [61 * SECOND, Duration::MAX] {
            let mut rig = Rig::new(config(1).max_pause(60 * SECOND).build().unwrap());
            rig.answered(Answer::Throttled(Some(asked)));
            assert_eq!(rig.refused(), throttled(60 * SECOND));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_grows_and_never_shrinks() {
        let mut rig = rig(10);
        let mut calls: Vec<Call> = (0..3).map(|number| rig.pending(number)).collect();
        for (number, asked, paused) in [(0, 3, 3), (1, 1, 3), (2, 5, 5)] {
            rig.server
                .answer(number, Answer::Throttled(Some(asked * SECOND)));
            assert_ne!(calls[number].poll(), Progress::Pending);
            assert_eq!(rig.refused(), throttled(paused * SECOND));
        }
        rig.handle.pause(5 * SECOND);
        assert_eq!(rig.handle.state().paused_by, Some(PausedBy::Server));
    }

    /// Between the turn of a call and its taking the cells stands the inner service, which may do
    /// what it likes.
    #[tokio::test(start_paused = true)]
    async fn a_pause_that_comes_while_the_inner_service_is_readied_holds() {
        let layer = RateLimitLayer::new(config(1).build().unwrap());
        let (server, armed) = (Server::default(), Arc::new(AtomicBool::new(false)));
        let mut service = layer.layer(Interrupts {
            server: server.clone(),
            handle: layer.handle(),
            armed: armed.clone(),
        });
        let job = |number| Job {
            number,
            cost: NonZeroU32::MIN,
            deadline: None,
            id: None,
        };
        drop(service.ready().await.unwrap().call(job(1)));
        server.forget_cancelled();
        let mut waiting = Box::pin(service.ready().await.unwrap().call(job(2)));
        armed.store(true, SeqCst);
        advance(INTERVAL).await;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert_eq!(layer.handle().paused_for(), Some(50 * MILLI));
        assert_eq!(server.readied(), 0);
        advance(50 * MILLI).await;
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert_eq!(server.calls(), [2]);
    }

    /// Pauses all calls while it is readied.
    #[derive(Clone)]
    struct Interrupts {
        server: Server,
        handle: RateLimitHandle,
        armed: Arc<AtomicBool>,
    }

    impl Service<Job> for Interrupts {
        type Response = Answer;
        type Error = BoxError;
        type Future = server::Reply;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            if self.armed.swap(false, SeqCst) {
                self.handle.pause(50 * MILLI);
            }
            self.server.poll_ready(cx)
        }

        fn call(&mut self, job: Job) -> server::Reply {
            self.server.call(job)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_left_without_a_chance_is_refused_at_once() {
        let mut rig = rig(2);
        let mut throttler = rig.pending(0);
        drop(rig.pending(9));
        let mut short = rig.pending(1);
        let mut long = rig.pending(2);
        rig.server.answer(0, Answer::Throttled(Some(200 * MILLI)));
        assert_ne!(throttler.poll(), Progress::Pending);
        // The first may wait for the end of the pause, the second not for the cell after it.
        assert_eq!((short.wakes(), long.wakes()), (0, 1));
        assert_eq!(long.poll().refusal(), throttled(3 * INTERVAL));
        assert_eq!(rig.waiting(), 1);
        advance(200 * MILLI).await;
        assert_eq!(short.poll(), Progress::Pending);
        rig.server.forget_cancelled();
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_still_has_a_chance_is_put_off() {
        let mut rig = rig(1);
        let mut throttler = rig.pending(0);
        let mut waiting = rig.pending(1);
        rig.server.answer(0, Answer::Throttled(Some(200 * MILLI)));
        assert_ne!(throttler.poll(), Progress::Pending);
        advance(INTERVAL).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert!(rig.server.calls().is_empty());
        advance(INTERVAL).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    /// Who is left of a queue may have a sooner turn than before the pause, if others have to go.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_moves_up_in_a_pause_is_woken() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut short = rig.call(1, 1, Some(Instant::now() + INTERVAL));
        assert_eq!(short.poll(), Progress::Pending);
        let mut long = rig.pending(2);
        rig.handle.pause(150 * MILLI);
        assert_eq!((short.wakes(), long.wakes()), (1, 1));
        assert_eq!(long.poll(), Progress::Pending);
        advance(150 * MILLI).await;
        assert_eq!(long.wakes(), 2);
        assert_eq!(long.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_throttled_answers_pause() {
        let mut rig = rig(10);
        for answer in [
            Answer::Done,
            Answer::Fail(Delivery::Executed),
            Answer::Fail(Delivery::Ambiguous),
            Answer::Refuse,
            Answer::Panic,
        ] {
            rig.answered(answer);
        }
        let state = rig.handle.state();
        assert_eq!((state.paused_ms, state.throttled_calls), (None, 0));
        // What was refused further in costs nothing.
        assert_eq!(state.available, 6);
    }

    /// The pause is there before the caller learns of it.
    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_throttled_cannot_be_faster_than_the_pause() {
        let mut rig = rig(10);
        let mut call = rig.pending(0);
        let throttled_answer = Answer::Throttled(Some(SECOND));
        rig.server.answer(0, throttled_answer);
        assert_eq!(call.poll(), Progress::Answered(throttled_answer));
        assert_eq!(rig.refused(), throttled(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_pauses_and_resumes() {
        let mut rig = impatient(10);
        rig.handle.pause(SECOND);
        assert_eq!(rig.refused(), Some((Reason::Paused, Some(SECOND))));
        assert_eq!(rig.handle.state().paused_by, Some(PausedBy::Operator));
        advance(SECOND / 2).await;
        rig.handle.resume();
        assert_eq!(rig.handle.paused_for(), None);
        // As after a pause that has run its time.
        assert_eq!(rig.refused(), None);
        assert_eq!(rig.refused(), spent(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operators_pause_outlasts_the_longest_that_a_server_may_ask_for() {
        let mut rig = Rig::new(config(1).max_pause(SECOND).build().unwrap());
        rig.handle.pause(Duration::MAX);
        let year = 365 * 24 * 3600 * SECOND;
        advance(year).await;
        assert!(rig.handle.paused_for() > Some(year));
        assert_eq!(rig.refused().map(|refusal| refusal.0), Some(Reason::Paused));
    }

    #[tokio::test(start_paused = true)]
    async fn resuming_gives_no_cell_that_was_spent_before() {
        let mut rig = impatient(3);
        while rig.refused().is_none() {}
        rig.handle.pause(SECOND);
        rig.handle.resume();
        assert_eq!(rig.refused(), spent(INTERVAL));
        // Without a pause there is nothing to resume.
        rig.handle.resume();
        assert_eq!(rig.refused(), spent(INTERVAL));
        advance(SECOND).await;
        assert_eq!(rig.available(), 3);
        rig.handle.resume();
        assert_eq!(rig.available(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn resuming_wakes_those_who_wait_for_the_end() {
        let mut rig = rig(2);
        rig.handle.pause(200 * MILLI);
        let mut waiting = rig.pending(1);
        rig.handle.resume();
        assert_eq!(waiting.wakes(), 1);
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }
}

mod reading {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_quota_holds_from_then_on_whenever_it_comes() {
        let mut rig = impatient(2);
        advance(Duration::from_secs(100)).await;
        let _calls = (rig.pending(1), rig.pending(2));
        rig.handle.set_quota(1, Duration::from_secs(1)).unwrap();
        assert_eq!(rig.refused(), spent(Duration::from_secs(1)));
        advance(Duration::from_secs(1)).await;
        let _third = rig.pending(3);
        assert_eq!(rig.refused(), spent(Duration::from_secs(1)));
        assert_eq!(rig.handle.state().interval_us, 1_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_in_a_pause_gives_no_cell_that_was_spent_before() {
        let hour = 3600 * SECOND;
        for is_resumed in [false, true] {
            let config = RateLimitConfig::builder().quota(1, hour).burst(1);
            let mut rig = Rig::new(config.build().unwrap());
            rig.answered(Answer::Done);
            rig.handle.pause(2 * SECOND);
            rig.handle.set_quota(2, hour).unwrap();
            advance(SECOND).await;
            rig.handle.set_quota(4, hour).unwrap();
            if is_resumed {
                rig.handle.resume();
            } else {
                assert_eq!(rig.handle.paused_for(), Some(SECOND));
                advance(SECOND).await;
            }
            let at = if is_resumed { SECOND } else { 2 * SECOND };
            // Half of the hour was left, and a second later half of the rest.
            let spent_until = (hour / 2 - SECOND) / 2 + SECOND;
            assert_eq!(rig.refused(), spent(spent_until - at));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_in_a_pause_changes_neither_its_end_nor_its_drain() {
        for (calls, interval) in [(5, 200 * MILLI), (20, 50 * MILLI)] {
            let mut rig = impatient(3);
            rig.handle.pause(SECOND);
            rig.handle.set_quota(calls, SECOND).unwrap();
            assert_eq!(rig.refused(), Some((Reason::Paused, Some(SECOND))));
            advance(SECOND).await;
            assert_eq!(rig.refused(), None);
            assert_eq!(rig.refused(), spent(interval));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_takes_nothing_and_is_not_ready_where_a_call_would_be_refused() {
        let mut rig = rig(1);
        for _ in 0..100 {
            assert!(rig.handle.report().ready);
        }
        rig.answered(Answer::Done);
        let _waiting = rig.pending(1);
        // A call would wait for 200 milliseconds, which is allowed.
        assert!(rig.handle.report().ready);
        let _waiting_too = rig.pending(2);
        let report = rig.handle.report();
        assert!(!report.ready);
        assert_eq!(report.layer, "rate-limit");
        assert_eq!(report.retry_after_ms, Some(300));
        assert_eq!(
            report.reason.unwrap(),
            "rate-limit refused the call for \"music\": the quota is spent for now; \
             retry after 300ms"
        );
        assert_eq!(rig.handle.state().rejected_calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_counts_tell_what_became_of_the_calls() {
        let mut rig = rig(1);
        rig.answered(Answer::Done);
        let mut passes = rig.pending(1);
        let gives_up = rig.pending(2);
        assert!(rig.refused().is_some());
        drop(gives_up);
        advance(INTERVAL).await;
        assert_eq!(passes.poll(), Progress::Pending);
        let state = rig.handle.state();
        assert_eq!(state.passed_calls, 2);
        assert_eq!(state.waited_calls, 2);
        assert_eq!(state.rejected_calls, 1);
        assert_eq!(state.waiting, 0);
    }

    #[cfg(feature = "serde")]
    #[tokio::test(start_paused = true)]
    async fn the_state_serialises() {
        let mut rig = rig(4);
        rig.answered(Answer::Throttled(Some(1500 * MILLI + NANO)));
        assert_eq!(
            serde_json::to_value(rig.handle.state()).unwrap(),
            serde_json::json!({
                "calls": 10,
                "interval_us": 100_000,
                "most_waiting": 0,
                "bookings": 0,
                "most_bookings": 0,
                "booked_calls": 0,
                "redeemed_bookings": 0,
                "lapsed_bookings": 0,
                "per_ms": 1000,
                "burst": 4,
                "available": 0,
                "waiting": 0,
                "retry_after_ms": 1501,
                "paused_ms": 1501,
                "paused_by": "server",
                "passed_calls": 1,
                "waited_calls": 0,
                "refunded_calls": 0,
                "rejected_calls": 0,
                "throttled_calls": 1,
            })
        );
    }
}

/// The table of two hundred calls over a limit of 10 a second with a burst of 10, whose ideal is
/// 19 seconds: callers that come back when they are told.
#[tokio::test(start_paused = true)]
async fn two_hundred_calls_that_come_back_when_told_are_as_fast_as_can_be() {
    let layer = RateLimitLayer::new(config(10).build().unwrap());
    let passed = Arc::new(AtomicUsize::new(0));
    let service = layer.layer(service_fn({
        let passed = passed.clone();
        move |()| {
            passed.fetch_add(1, SeqCst);
            async { Ok::<_, BoxError>(()) }
        }
    }));
    let start = Instant::now();
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let mut service = service.clone();
            tokio::spawn(async move {
                while let Err(error) = service.ready().await.unwrap().call(()).await {
                    let retry_after = error.as_rejection().unwrap().retry_after().unwrap();
                    tokio::time::sleep(retry_after).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(passed.load(SeqCst), 200);
    assert!(start.elapsed() >= 19 * SECOND);
    assert!(start.elapsed() < 19 * SECOND + INTERVAL);
}

/// Calls from many threads at once: the burst passes, and not one call more.
#[test]
fn threads_share_the_quota() {
    const THREADS: usize = 4;
    const CALLS: usize = 2_000;
    const BURST: usize = 5_000;
    let config = RateLimitConfig::builder()
        .quota(1, 3600 * SECOND)
        .burst(u32::try_from(BURST).unwrap())
        .build();
    let layer = RateLimitLayer::new(config.unwrap());
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| passed_at_once(&layer, CALLS)))
            .collect();
        let passed = threads.into_iter().map(|thread| thread.join().unwrap());
        passed.sum()
    });
    assert_eq!(passed, BURST);
    let state = layer.handle().state();
    assert_eq!(state.passed_calls, BURST as u64);
    assert_eq!(state.rejected_calls, (THREADS * CALLS - BURST) as u64);
}

fn passed_at_once(layer: &RateLimitLayer, calls: usize) -> usize {
    let mut service = layer.layer(service_fn(|()| std::future::ready(Ok::<_, BoxError>(()))));
    let mut cx = Context::from_waker(Waker::noop());
    let passes = (0..calls).filter(|_| match pin!(service.call(())).poll(&mut cx) {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => panic!("nobody waits for an hour"),
    });
    passes.count()
}
