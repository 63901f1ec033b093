//! What the semaphore does where others go wrong, and what its documentation promises.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, poll_fn},
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
use toolweir_core::{AsRejection, BoxError, Reason, Rejection, ReportState};
use toolweir_semaphore::{
    SemaphoreConfig, SemaphoreConfigBuilder, SemaphoreHandle, SemaphoreLayer,
};
use tower::{Layer, Service, ServiceExt, service_fn};

#[path = "../server/mod.rs"]
mod server;
use server::{Answer, Call, Key, Progress, Rig};

mod estimates;
mod fairness;

const MILLI: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(100);

fn config(permits: usize, max_queue: usize) -> SemaphoreConfigBuilder {
    SemaphoreConfig::builder()
        .permits(permits)
        .max_queue(max_queue)
        .max_wait(PATIENCE)
}

fn rig(permits: usize, max_queue: usize) -> Rig {
    Rig::new(config(permits, max_queue).build().unwrap())
}

impl Rig {
    /// A call without a key. It is not polled yet.
    fn call(&mut self, number: usize, deadline: Option<Instant>) -> Call {
        self.call_of(None, number, deadline)
    }

    /// A call that has been polled and waits, here or at the server.
    fn pending(&mut self, number: usize) -> Call {
        let mut call = self.call(number, None);
        assert_eq!(call.poll(), Progress::Pending);
        call
    }

    fn pending_of(&mut self, key: &'static str, number: usize) -> Call {
        let mut call = self.call_of(Some(key), number, None);
        assert_eq!(call.poll(), Progress::Pending);
        call
    }

    fn in_flight(&self) -> usize {
        self.handle.state().in_flight
    }

    fn queued(&self) -> usize {
        self.handle.state().queued
    }
}

mod permits {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_calls_are_under_way_and_no_more() {
        let mut rig = rig(2, 10);
        let _calls: Vec<Call> = (0..5).map(|number| rig.pending(number)).collect();
        assert_eq!(rig.server.calls(), [0, 1]);
        assert_eq!((rig.in_flight(), rig.queued()), (2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_back_before_the_answer_is_out() {
        for answer in [Answer::Done, Answer::Fail, Answer::Panic] {
            let mut rig = rig(1, 10);
            let mut call = rig.pending(0);
            rig.server.answer(0, answer);
            assert_eq!(rig.in_flight(), 1);
            let progress = call.poll();
            // The future is still there, and so might its permit be.
            assert_eq!(rig.in_flight(), 0, "{answer:?}");
            match answer {
                Answer::Done => assert_eq!(progress, Progress::Done(0)),
                Answer::Fail => assert_eq!(progress, Progress::Failed("connection reset".into())),
                Answer::Panic => assert_eq!(progress, Progress::Panicked),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_before_there_is_a_future_loses_no_permit() {
        let layer = SemaphoreLayer::new(config(1, 0).build().unwrap());
        let mut service = layer.layer(service_fn(
            |()| -> std::future::Ready<Result<(), BoxError>> {
                std::panic::resume_unwind(Box::new("the client panics"))
            },
        ));
        for _ in 0..3 {
            let call = AssertUnwindSafe(|| service.call(()));
            assert!(catch_unwind(call).is_err());
        }
        let state = layer.handle().state();
        assert_eq!((state.in_flight, state.admitted_calls), (0, 3));
    }

    /// Panics when it is readied, once that is asked for.
    #[derive(Clone)]
    struct Breaks(Arc<AtomicBool>);

    impl Service<()> for Breaks {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Pending<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            if self.0.load(SeqCst) {
                std::panic::resume_unwind(Box::new("the client panics"));
            }
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_while_the_service_is_readied_loses_no_permit() {
        let layer = SemaphoreLayer::new(config(1, 1).build().unwrap());
        let breaks = Arc::new(AtomicBool::new(false));
        let mut service = layer.layer(Breaks(breaks.clone()));
        let holder = service.call(());
        let mut waiting = Box::pin(service.call(()));
        drop(holder);
        breaks.store(true, SeqCst);
        let mut cx = Context::from_waker(Waker::noop());
        let poll = AssertUnwindSafe(|| waiting.as_mut().poll(&mut cx));
        assert!(catch_unwind(poll).is_err());
        // The future is still there, and so might its permit be.
        let state = layer.handle().state();
        assert_eq!((state.in_flight, state.queued), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_readied_idle_clone_holds_no_permit() {
        let mut rig = rig(1, 0);
        let mut idle = Vec::new();
        for _ in 0..100 {
            let mut clone = rig.service.clone();
            poll_fn(|cx| clone.poll_ready(cx)).await.unwrap();
            idle.push(clone);
        }
        assert_eq!(rig.in_flight(), 0);
        let mut call = rig.pending(0);
        rig.server.answer(0, Answer::Done);
        assert_eq!(call.poll(), Progress::Done(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_readied_clone_dropped_unused_loses_no_permit() {
        let mut rig = rig(1, 0);
        for _ in 0..100 {
            let mut clone = rig.service.clone();
            poll_fn(|cx| clone.poll_ready(cx)).await.unwrap();
        }
        let _call = rig.pending(0);
        assert_eq!(rig.server.calls(), [0]);
    }

    /// A future that is pending because its task has used up its turn says nothing about permits.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_turn_is_not_saturation() {
        let mut rig = rig(1, 0);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(&mut cx) {
            turn.made_progress();
        }
        let mut call = rig.pending(0);
        assert_eq!(rig.server.calls(), [0]);
        rig.server.answer(0, Answer::Done);
        assert_eq!(call.poll(), Progress::Done(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_taken_whatever_the_deadline() {
        let mut rig = rig(1, 0);
        let mut call = rig.call(0, Some(Instant::now()));
        assert_eq!(call.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_services_of_a_layer_and_its_clones_share_the_permits() {
        let layer = SemaphoreLayer::new(config(1, 0).build().unwrap());
        let never = || service_fn(|()| std::future::pending::<Result<(), BoxError>>());
        let _call = layer.layer(never()).call(());
        let mut other = layer.clone().layer(never());
        let error = other.call(()).await.unwrap_err();
        let rejection = error.as_rejection().unwrap();
        assert_eq!(rejection.reason(), Reason::QueueFull);
    }
}

mod queue {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_come_first_served() {
        let mut rig = rig(1, 10);
        let mut calls: Vec<Call> = (0..5).map(|number| rig.pending(number)).collect();
        for number in 0..5 {
            assert_eq!(rig.server.calls(), [number]);
            rig.server.answer(number, Answer::Done);
            assert_eq!(calls[number].poll(), Progress::Done(number));
            // Polled from the back, so that it is not the order of polls that decides.
            for call in calls[number + 1..].iter_mut().rev() {
                assert_eq!(call.poll(), Progress::Pending);
            }
        }
    }

    /// Calls queue as they are made, not as they are polled.
    #[tokio::test(start_paused = true)]
    async fn a_call_has_its_place_before_its_first_poll() {
        let mut rig = rig(1, 10);
        let holder = rig.pending(0);
        let mut first = rig.call(1, None);
        let mut second = rig.pending(2);
        drop(holder);
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(first.poll(), Progress::Pending);
        rig.server.forget_cancelled();
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_call_does_not_overtake_one_whose_turn_has_come() {
        let mut rig = rig(1, 10);
        let holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        drop(holder);
        rig.server.forget_cancelled();
        // The permit has gone to the waiting call, which has not been polled since.
        let mut late = rig.pending(2);
        assert_eq!((rig.in_flight(), rig.queued()), (1, 1));
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(late.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once() {
        let mut rig = rig(1, 2);
        let _calls: Vec<Call> = (0..3).map(|number| rig.pending(number)).collect();
        let mut call = rig.call(3, None);
        assert_eq!(call.poll(), Progress::Refused(Reason::QueueFull));
        let state = rig.handle.state();
        assert_eq!((state.queued, state.rejected_calls), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_nobody_waits() {
        let mut rig = rig(1, 0);
        let _call = rig.pending(0);
        let mut refused = rig.call(1, None);
        assert_eq!(refused.poll(), Progress::Refused(Reason::QueueFull));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_leaves_its_place() {
        let mut rig = rig(1, 2);
        let holder = rig.pending(0);
        let first = rig.pending(1);
        let mut second = rig.pending(2);
        drop(first);
        assert_eq!(rig.queued(), 1);
        drop(holder);
        rig.server.forget_cancelled();
        assert_eq!(second.wakes(), 1);
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_after_its_turn_has_come_passes_it_on() {
        let mut rig = rig(1, 2);
        let holder = rig.pending(0);
        let first = rig.pending(1);
        let mut second = rig.pending(2);
        drop(holder);
        rig.server.forget_cancelled();
        assert_eq!((first.wakes(), second.wakes()), (1, 0));
        drop(first);
        assert_eq!(second.wakes(), 1);
        assert_eq!(second.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [2]);
        drop(second);
        assert_eq!((rig.in_flight(), rig.queued()), (0, 0));
    }

    /// Whoever is woken may use the semaphore at once, on the same thread.
    #[tokio::test(start_paused = true)]
    async fn wakers_are_woken_without_a_lock() {
        struct Asks(SemaphoreHandle, AtomicUsize);

        impl Wake for Asks {
            fn wake(self: Arc<Self>) {
                self.1.store(self.0.state().in_flight + 1, SeqCst);
            }
        }

        let layer = SemaphoreLayer::new(config(1, 1).build().unwrap());
        let never = service_fn(|()| std::future::pending::<Result<(), BoxError>>());
        let mut service = layer.layer(never);
        let holder = service.call(());
        let mut waiting = pin!(service.call(()));
        let asks = Arc::new(Asks(layer.handle(), AtomicUsize::new(0)));
        let waker = Waker::from(asks.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        drop(holder);
        assert_eq!(asks.1.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_the_queue_keeps_no_instance_ready() {
        let mut rig = rig(1, 1);
        let holder = rig.pending(0);
        assert_eq!(rig.server.readied(), 0);
        let mut waiting = rig.pending(1);
        assert_eq!(rig.server.readied(), 0);
        let mut refused = rig.call(2, None);
        assert_eq!(refused.poll(), Progress::Refused(Reason::QueueFull));
        assert_eq!(rig.server.readied(), 0);
        drop(holder);
        // It readies an instance of its own before it calls it; the server insists.
        assert_eq!(waiting.poll(), Progress::Pending);
        rig.server.forget_cancelled();
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_not_ready_in_time_is_not_waited_for() {
        let mut rig = rig(1, 1);
        let holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        rig.server.close();
        drop(holder);
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!((rig.in_flight(), rig.queued()), (1, 0));
        advance(PATIENCE).await;
        assert_eq!(waiting.poll(), Progress::Refused(Reason::WaitTooLong));
        assert_eq!(rig.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_services_readiness_wakes_the_call() {
        let mut rig = rig(1, 1);
        let holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        rig.server.close();
        drop(holder);
        rig.server.forget_cancelled();
        assert_eq!(waiting.poll(), Progress::Pending);
        let wakes = waiting.wakes();
        rig.server.open();
        assert_eq!(waiting.wakes(), wakes + 1);
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_readiness_error_comes_out_and_keeps_no_permit() {
        let layer = SemaphoreLayer::new(config(1, 1).build().unwrap());
        let (mock, mut server) = tower_test::mock::pair::<(), ()>();
        let mut service = layer.layer(mock);
        let holder = service.ready().await.unwrap().call(());
        let waiting = service.ready().await.unwrap().call(());
        server.send_error("out of order");
        drop(holder);
        assert_eq!(waiting.await.unwrap_err().to_string(), "out of order");
        let state = layer.handle().state();
        assert_eq!((state.in_flight, state.queued), (0, 0));
    }

    /// tower's mock panics where a clone is called that was not readied.
    #[tokio::test(start_paused = true)]
    async fn no_clone_is_called_that_was_not_readied() {
        let layer = SemaphoreLayer::new(config(1, 2).build().unwrap());
        let (mock, mut server) = tower_test::mock::pair::<usize, usize>();
        let mut service = layer.layer(mock);
        server.allow(3);
        let mut calls = Vec::new();
        for number in 0..3 {
            calls.push(tokio::spawn(service.ready().await.unwrap().call(number)));
        }
        for number in 0..3 {
            let (request, respond) = server.next_request().await.unwrap();
            assert_eq!(request, number);
            respond.send_response(10 * request);
        }
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), 10 * number);
        }
    }

    /// While others come and go, a waiting call is polled to begin its wait and to end it.
    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_is_woken_for_its_permit_alone() {
        let config = SemaphoreConfig::builder()
            .permits(1)
            .max_queue(1000)
            .max_wait(Duration::from_secs(10))
            .build();
        let layer = SemaphoreLayer::new(config.unwrap());
        let busy = |time| async move {
            tokio::time::sleep(time).await;
            Ok::<_, BoxError>(())
        };
        let service = layer.layer(service_fn(busy));
        let ahead: Vec<_> = (0..400)
            .map(|_| tokio::spawn(service.clone().oneshot(2 * MILLI)))
            .collect();
        tokio::task::yield_now().await;
        let (counted, polls) = Counted::new(service.clone().oneshot(Duration::ZERO));
        let counted = tokio::spawn(counted);
        let behind: Vec<_> = (0..200)
            .map(|_| tokio::spawn(service.clone().oneshot(2 * MILLI)))
            .collect();
        for task in ahead.into_iter().chain([counted]) {
            task.await.unwrap().unwrap();
        }
        for task in behind {
            task.abort();
        }
        // To wait, to call, and to sleep for the zero milliseconds that the server takes.
        let polls = polls.load(SeqCst);
        assert!(polls <= 3, "{polls} polls");
    }
}

/// Counts the polls of a future.
struct Counted<F> {
    future: Pin<Box<F>>,
    polls: Arc<AtomicUsize>,
}

impl<F> Counted<F> {
    fn new(future: F) -> (Self, Arc<AtomicUsize>) {
        let polls = Arc::<AtomicUsize>::default();
        let counted = Self {
            future: Box::pin(future),
            polls: polls.clone(),
        };
        (counted, polls)
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.fetch_add(1, SeqCst);
        self.future.as_mut().poll(cx)
    }
}

mod time {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_longest_wait() {
        let mut rig = rig(1, 1);
        let _holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        advance(PATIENCE - MILLI).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(waiting.wakes(), 0);
        advance(MILLI).await;
        assert_eq!(waiting.wakes(), 1);
        assert_eq!(waiting.poll(), Progress::Refused(Reason::WaitTooLong));
        assert_eq!(rig.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_calls_deadline() {
        let mut rig = rig(1, 2);
        let _holder = rig.pending(0);
        let mut soon = rig.call(1, Some(Instant::now() + 30 * MILLI));
        let mut late = rig.call(2, Some(Instant::now() + 2 * PATIENCE));
        assert_eq!(soon.poll(), Progress::Pending);
        assert_eq!(late.poll(), Progress::Pending);
        advance(30 * MILLI).await;
        assert_eq!(soon.poll(), Progress::Refused(Reason::DeadlineTooShort));
        advance(PATIENCE - 30 * MILLI).await;
        assert_eq!(late.poll(), Progress::Refused(Reason::WaitTooLong));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_past_its_deadline_does_not_begin_to_wait() {
        let mut rig = rig(1, 1);
        let _holder = rig.pending(0);
        let mut past = rig.call(1, Some(Instant::now()));
        assert_eq!(rig.queued(), 0);
        assert_eq!(past.poll(), Progress::Refused(Reason::DeadlineTooShort));
        assert_eq!(rig.server.readied(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_no_wait_allowed_nobody_waits() {
        let config = config(1, 1).max_wait(Duration::ZERO).build().unwrap();
        let mut rig = Rig::new(config);
        let _holder = rig.pending(0);
        let mut refused = rig.call(1, None);
        assert_eq!(refused.poll(), Progress::Refused(Reason::WaitTooLong));
        assert!(!rig.handle.report().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_came_in_time_is_used_by_a_late_poll() {
        let mut rig = rig(1, 1);
        let holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        drop(holder);
        rig.server.forget_cancelled();
        advance(2 * PATIENCE).await;
        assert_eq!(waiting.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_made_past_its_deadline_after_a_wait() {
        let mut rig = rig(1, 1);
        let holder = rig.pending(0);
        let mut waiting = rig.call(1, Some(Instant::now() + 30 * MILLI));
        assert_eq!(waiting.poll(), Progress::Pending);
        drop(holder);
        rig.server.forget_cancelled();
        advance(30 * MILLI).await;
        assert_eq!(waiting.poll(), Progress::Refused(Reason::DeadlineTooShort));
        assert_eq!((rig.in_flight(), rig.queued()), (0, 0));
        assert!(rig.server.calls().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_that_can_be_told_does_not_overflow() {
        let config = config(1, 1).max_wait(Duration::MAX).build().unwrap();
        let mut rig = Rig::new(config);
        let holder = rig.pending(0);
        let mut waiting = rig.pending(1);
        drop(holder);
        assert_eq!(waiting.poll(), Progress::Pending);
        rig.server.forget_cancelled();
        assert_eq!(rig.server.calls(), [1]);
    }
}

mod resize {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_permits_wake_those_who_wait_in_their_order() {
        let mut rig = rig(1, 10);
        let mut calls: Vec<Call> = (0..5).map(|number| rig.pending(number)).collect();
        rig.handle.resize(3).unwrap();
        let wakes: Vec<usize> = calls.iter().map(Call::wakes).collect();
        assert_eq!(wakes, [0, 1, 1, 0, 0]);
        for call in &mut calls {
            assert_eq!(call.poll(), Progress::Pending);
        }
        assert_eq!(rig.server.calls(), [0, 1, 2]);
        rig.handle.resize(100).unwrap();
        assert_eq!((rig.in_flight(), rig.queued()), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_permits_go_as_they_come_back() {
        let mut rig = rig(3, 10);
        let mut calls: Vec<Call> = (0..4).map(|number| rig.pending(number)).collect();
        rig.handle.resize(1).unwrap();
        let state = rig.handle.state();
        assert_eq!((state.permits, state.in_flight, state.queued), (1, 3, 1));
        for number in 0..2 {
            rig.server.answer(number, Answer::Done);
            assert_eq!(calls[number].poll(), Progress::Done(number));
            assert_eq!(calls[3].wakes(), 0);
        }
        rig.server.answer(2, Answer::Done);
        assert_eq!(calls[2].poll(), Progress::Done(2));
        assert_eq!(calls[3].wakes(), 1);
        assert_eq!(calls[3].poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [3]);
        assert_eq!(rig.in_flight(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_away_and_given_again_is_not_given_twice() {
        let mut rig = rig(3, 10);
        let _calls: Vec<Call> = (0..6).map(|number| rig.pending(number)).collect();
        rig.handle.resize(1).unwrap();
        rig.handle.resize(3).unwrap();
        assert_eq!((rig.in_flight(), rig.queued()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn no_permits_at_all_are_refused() {
        let rig = rig(3, 10);
        let error = rig.handle.resize(0).unwrap_err();
        assert_eq!(error.field(), "permits");
        assert_eq!(rig.handle.state().permits, 3);
    }
}

mod reading {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_high_water_marks_stay() {
        let mut rig = rig(3, 10);
        let calls: Vec<Call> = (0..7).map(|number| rig.pending(number)).collect();
        drop(calls);
        let state = rig.handle.state();
        assert_eq!((state.in_flight, state.queued), (0, 0));
        assert_eq!((state.peak_in_flight, state.peak_queued), (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_is_that_of_the_first_in_the_queue() {
        let mut rig = rig(1, 10);
        let _holder = rig.pending(0);
        assert_eq!(rig.handle.state().longest_wait_ms, None);
        let first = rig.pending(1);
        advance(30 * MILLI).await;
        let _second = rig.pending(2);
        advance(20 * MILLI).await;
        assert_eq!(rig.handle.state().longest_wait_ms, Some(50));
        drop(first);
        assert_eq!(rig.handle.state().longest_wait_ms, Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_refuses_where_a_call_would_be_refused() {
        let mut rig = rig(1, 1);
        let ready = |handle: &SemaphoreHandle| handle.report().ready;
        assert!(ready(&rig.handle));
        let _holder = rig.pending(0);
        assert!(ready(&rig.handle));
        let _waiting = rig.pending(1);
        let report = rig.handle.report();
        assert!(!report.ready);
        assert_eq!(report.layer, "semaphore");
        assert_eq!(
            report.reason.unwrap(),
            "semaphore refused the call for \"music\": the queue is full \
             (1 call under way with 1 permit, 1 waiting)"
        );
        assert_eq!(report.retry_after_ms, None);
        // It has refused nothing.
        assert_eq!(rig.handle.state().rejected_calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_without_a_key_names_the_server() {
        let layer = SemaphoreLayer::new(config(1, 0).build().unwrap()).name("music");
        let never = service_fn(|()| std::future::pending::<Result<(), Rejection>>());
        let mut service = layer.layer(never);
        let mut holder = pin!(service.call(()));
        assert!(
            holder
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        let rejection = service.call(()).await.unwrap_err();
        assert_eq!(rejection.layer(), "semaphore");
        assert_eq!(rejection.key(), Some("music"));
        assert_eq!(rejection.retry_after(), None);
    }

    #[cfg(feature = "serde")]
    #[tokio::test(start_paused = true)]
    async fn the_state_serialises() {
        let mut rig = rig(1, 10);
        let _calls: Vec<Call> = (0..2).map(|number| rig.pending(number)).collect();
        assert_eq!(
            serde_json::to_value(rig.handle.state()).unwrap(),
            serde_json::json!({
                "permits": 1,
                "in_flight": 1,
                "max_queue": 10,
                "queued": 1,
                "keys": 1,
                "longest_wait_ms": 0,
                "usual_hold_ms": null,
                "peak_in_flight": 1,
                "peak_queued": 1,
                "peaks_age_ms": 0,
                "admitted_calls": 1,
                "rejected_calls": 0,
                "pushed_out_calls": 0,
            })
        );
    }
}

/// Calls from many threads at once: the count never goes over the limit, and all end.
#[test]
fn threads_share_the_permits() {
    const THREADS: usize = 4;
    const CALLS: usize = 2_000;
    let config = SemaphoreConfig::builder()
        .permits(2)
        .max_queue(THREADS)
        // Real time, which passes only where a wake was lost.
        .max_wait(Duration::from_secs(10))
        .build();
    let layer = SemaphoreLayer::new(config.unwrap());
    let under_way = AtomicUsize::new(0);
    let under_way = &under_way;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let layer = layer.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let mut service = layer.layer(service_fn(|()| async move {
                        assert!(under_way.fetch_add(1, SeqCst) < 2);
                        tokio::task::yield_now().await;
                        under_way.fetch_sub(1, SeqCst);
                        Ok::<_, BoxError>(())
                    }));
                    for _ in 0..CALLS {
                        service.ready().await.unwrap().call(()).await.unwrap();
                    }
                });
            });
        }
    });
    let state = layer.handle().state();
    assert_eq!((state.in_flight, state.queued), (0, 0));
    assert_eq!(state.admitted_calls, (THREADS * CALLS) as u64);
    assert!(state.peak_in_flight <= 2);
}
