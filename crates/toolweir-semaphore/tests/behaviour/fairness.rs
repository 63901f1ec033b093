//! Whose call is next, and whose is in the queue at all.

use super::*;

fn rig(permits: usize, max_queue: usize) -> Rig {
    Rig::new(patient(permits, max_queue).build().unwrap())
}

fn patient(permits: usize, max_queue: usize) -> SemaphoreConfigBuilder {
    config(permits, max_queue).max_wait(Duration::from_secs(3600))
}

impl Rig {
    /// Ends the call that came to the server first, and lets those go there whose turn it is.
    fn end_first(&mut self, calls: &mut Vec<(usize, Call)>) {
        let first = self.server.calls()[0];
        self.end(first, calls);
    }

    fn end(&mut self, number: usize, calls: &mut Vec<(usize, Call)>) {
        self.server.answer(number, Answer::Done);
        let at = calls.iter().position(|call| call.0 == number).unwrap();
        assert_eq!(calls.remove(at).1.poll(), Progress::Done(number));
        for (_, call) in calls {
            let _ = call.poll();
        }
    }

    fn of_key(&mut self, key: &'static str, numbers: std::ops::Range<usize>) -> Vec<(usize, Call)> {
        let calls = numbers.map(|number| (number, self.pending_of(key, number)));
        calls.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn one_users_thousand_calls_do_not_delay_anothers_first() {
    let mut rig = rig(1, 2_000);
    let mut calls = rig.of_key("anna", 0..1_000);
    calls.extend(rig.of_key("ben", 1_000..1_001));
    // Her turn came before his, and then it is his.
    rig.end_first(&mut calls);
    assert_eq!(rig.server.calls(), [1]);
    rig.end_first(&mut calls);
    assert_eq!(rig.server.calls(), [1_000]);
    rig.end_first(&mut calls);
    assert_eq!(rig.server.calls(), [2]);
}

/// Also where hers came long before his, and she is the only one who was served meanwhile.
#[tokio::test(start_paused = true)]
async fn a_first_call_is_next_when_another_has_had_her_turn() {
    let mut rig = rig(3, 2_000);
    let mut calls = rig.of_key("anna", 0..1_000);
    for _ in 0..100 {
        rig.end_first(&mut calls);
    }
    calls.extend(rig.of_key("ben", 1_000..1_001));
    rig.end_first(&mut calls);
    assert!(rig.server.calls().contains(&1_000));
}

/// The same, with the layer bound to its key.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_bound_is_as_good_as_one_that_is_read() {
    let mut rig = rig(1, 10);
    let mut calls = rig.of_key("anna", 0..4);
    let mut bound = rig.call_bound("ben", 4, None);
    assert_eq!(bound.poll(), Progress::Pending);
    let also_anna = rig.call_bound("anna", 5, None);
    calls.push((4, bound));
    calls.push((5, also_anna));
    assert_eq!(rig.handle.for_key("anna").queued, 4);
    let mut order = Vec::new();
    while !calls.is_empty() {
        order.push(rig.server.calls()[0]);
        rig.end_first(&mut calls);
    }
    assert_eq!(order, [0, 1, 4, 2, 3, 5]);
}

#[tokio::test(start_paused = true)]
async fn within_a_key_it_is_first_come_first_served_and_keys_take_turns() {
    let mut rig = rig(1, 100);
    let mut calls = rig.of_key("anna", 0..5);
    calls.extend(rig.of_key("ben", 10..14));
    calls.extend(rig.of_key("cleo", 20..22));
    let mut order = Vec::new();
    while !calls.is_empty() {
        order.push(rig.server.calls()[0]);
        rig.end_first(&mut calls);
    }
    assert_eq!(order, [0, 1, 10, 20, 2, 11, 21, 3, 12, 4, 13]);
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_key_are_those_of_one_key() {
    let mut rig = rig(1, 100);
    let mut calls: Vec<_> = (0..3).map(|number| (number, rig.pending(number))).collect();
    calls.extend(rig.of_key("anna", 3..5));
    let mut order = Vec::new();
    while !calls.is_empty() {
        order.push(rig.server.calls()[0]);
        rig.end_first(&mut calls);
    }
    assert_eq!(order, [0, 1, 3, 2, 4]);
}

/// Turns alone would give every second permit to slow calls, which then hold nearly all of them.
#[tokio::test(start_paused = true)]
async fn one_users_slow_calls_take_no_more_than_their_share_of_the_permits() {
    let mut rig = rig(4, 1_000);
    let mut calls = rig.of_key("slow", 0..100);
    calls.extend(rig.of_key("quick", 100..200));
    // Those that found a permit free end; from here on all have waited.
    for number in 0..4 {
        rig.end(number, &mut calls);
    }
    let share = |rig: &Rig| {
        (
            rig.handle.for_key("slow").in_flight,
            rig.handle.for_key("quick").in_flight,
        )
    };
    assert_eq!(share(&rig), (2, 2));
    // Quick calls end again and again while slow ones stay.
    for _ in 0..50 {
        let quick = rig.server.calls().into_iter().find(|number| *number >= 100);
        rig.end(quick.unwrap(), &mut calls);
        assert_eq!(share(&rig), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn permits_go_to_the_key_with_the_fewest_under_way() {
    let mut rig = rig(1, 100);
    let _holder = rig.pending(0);
    let mut calls = rig.of_key("anna", 1..4);
    rig.handle.resize(3).unwrap();
    // Two of hers go ahead; then another has none, and two calls waiting.
    calls.iter_mut().for_each(|(_, call)| drop(call.poll()));
    assert_eq!(rig.server.calls(), [0, 1, 2]);
    calls.extend(rig.of_key("ben", 10..12));
    rig.handle.resize(5).unwrap();
    calls.iter_mut().for_each(|(_, call)| drop(call.poll()));
    assert_eq!(rig.server.calls()[3..], [10, 11]);
}

mod full_queue {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_users_thousand_calls_do_not_fill_the_queue_for_another() {
        let mut rig = rig(1, 100);
        let mut annas: Vec<Call> = (0..1_000)
            .map(|number| rig.call_of(Some("anna"), number, None))
            .collect();
        assert_eq!(rig.queued(), 100);
        let mut waiting: Vec<Call> = annas.drain(..101).collect();
        for call in &mut annas {
            assert_eq!(call.poll(), Progress::Refused(Reason::QueueFull));
        }
        assert!(
            waiting
                .iter_mut()
                .all(|call| call.poll() == Progress::Pending)
        );

        let _ben = rig.pending_of("ben", 2_000);
        assert_eq!(rig.queued(), 100);
        assert_eq!(rig.handle.for_key("anna").queued, 99);
        assert_eq!(rig.handle.for_key("ben").queued, 1);
        // The newest of hers had to go, is told at once, and nobody else is woken.
        let wakes: usize = waiting.iter().map(Call::wakes).sum();
        assert_eq!((wakes, waiting[100].wakes()), (1, 1));
        assert_eq!(waiting[100].poll(), Progress::Refused(Reason::QueueFull));
        let rejection = waiting[100].rejection().unwrap();
        assert_eq!(rejection.key(), Some("anna"));
        assert!(
            rejection.to_string().contains("its place went to"),
            "{rejection}"
        );
        assert_eq!(rig.handle.state().pushed_out_calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_made_until_the_shares_are_equal() {
        let mut rig = rig(1, 6);
        let _annas = rig.of_key("anna", 0..7);
        let _bens = rig.of_key("ben", 10..13);
        assert_eq!(rig.handle.for_key("anna").queued, 3);
        // With as many each, nobody makes room: it would only go to and fro.
        let mut fourth = rig.call_of(Some("ben"), 13, None);
        assert_eq!(fourth.poll(), Progress::Refused(Reason::QueueFull));
        let mut annas = rig.call_of(Some("anna"), 7, None);
        assert_eq!(annas.poll(), Progress::Refused(Reason::QueueFull));
        let _cleos = rig.of_key("cleo", 20..22);
        let queued = ["anna", "ben", "cleo"].map(|key| rig.handle.for_key(key).queued);
        assert_eq!(queued, [2, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_keys_nobody_is_pushed_out() {
        let mut rig = rig(1, 2);
        let _calls: Vec<Call> = (0..3).map(|number| rig.pending(number)).collect();
        let mut late = rig.call(3, None);
        assert_eq!(late.poll(), Progress::Refused(Reason::QueueFull));
        assert_eq!(rig.handle.state().pushed_out_calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_pushed_out_and_is_dropped_takes_nothing_with_it() {
        let mut rig = rig(1, 2);
        let mut annas = rig.of_key("anna", 0..3);
        let mut ben = rig.pending_of("ben", 10);
        drop(annas.pop());
        assert_eq!((rig.in_flight(), rig.queued()), (1, 2));
        rig.end_first(&mut annas);
        rig.end_first(&mut annas);
        assert_eq!(ben.poll(), Progress::Pending);
        assert_eq!(rig.server.calls(), [10]);
        drop(ben);
        assert_eq!(
            (rig.in_flight(), rig.queued(), rig.handle.keys()),
            (0, 0, 0)
        );
    }

    /// Wakers are foreign code, and may panic.
    #[tokio::test(start_paused = true)]
    async fn a_waker_that_panics_leaves_no_place_without_a_call() {
        struct Panics;

        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("the runtime panics"));
            }
        }

        let mut rig = rig(1, 2);
        let mut annas = rig.of_key("anna", 0..3);
        let panics = Waker::from(Arc::new(Panics));
        assert_eq!(annas[2].1.poll_with(&panics), Progress::Pending);
        let ben = AssertUnwindSafe(|| rig.call_of(Some("ben"), 10, None));
        assert!(catch_unwind(ben).is_err());
        assert_eq!(rig.handle.for_key("ben").queued, 0);
        drop(annas);
        rig.server.forget_cancelled();
        assert_eq!((rig.in_flight(), rig.queued()), (0, 0));
        let _next = rig.pending(11);
        assert_eq!(rig.server.calls(), [11]);
    }

    /// Where a user's own calls fill the queue, a preflight of another's must not say so.
    #[tokio::test(start_paused = true)]
    async fn the_report_is_for_the_handles_own_key() {
        let mut rig = rig(1, 2);
        let _annas = rig.of_key("anna", 0..3);
        let of = |key: &str| rig.layer.clone().for_key(key).handle().report();
        assert!(of("ben").ready);
        let annas = of("anna");
        assert!(!annas.ready);
        let reason = annas.reason.unwrap();
        assert!(
            reason.starts_with("semaphore refused the call for \"anna\": the queue is full"),
            "{reason}"
        );
    }
}

mod keys {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_go_with_their_calls() {
        let mut rig = rig(1, 10);
        let mut calls = rig.of_key("anna", 0..1);
        assert_eq!(rig.handle.keys(), 0);
        calls.extend(rig.of_key("ben", 1..2));
        assert_eq!(rig.handle.keys(), 1);
        rig.end_first(&mut calls);
        assert_eq!(
            (rig.handle.keys(), rig.handle.for_key("ben").in_flight),
            (1, 1)
        );
        rig.end_first(&mut calls);
        assert_eq!(rig.handle.keys(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_users_leave_nothing_behind() {
        let config = patient(1, 1).max_per_key(1).build().unwrap();
        let layer = SemaphoreLayer::new(config);
        for user in 0..10_000 {
            // Each has a call that is made and dropped.
            let ready = service_fn(|()| async { Ok::<_, BoxError>(()) });
            drop(
                layer
                    .clone()
                    .for_key(user.to_string())
                    .layer(ready)
                    .call(()),
            );
        }
        assert_eq!(layer.handle().state().admitted_calls, 10_000);
        assert_eq!(layer.handle().keys(), 0);
    }

    /// The key of a call that need not wait is not looked at.
    #[tokio::test(start_paused = true)]
    async fn a_key_is_read_only_where_its_call_must_wait() {
        #[derive(Clone)]
        struct Reads(Arc<AtomicUsize>);

        impl toolweir_core::Facts<()> for Reads {
            fn key<'r>(&self, (): &'r ()) -> Option<&'r str> {
                self.0.fetch_add(1, SeqCst);
                Some("anna")
            }
        }

        let reads = Reads(Arc::default());
        let layer = SemaphoreLayer::new(patient(1, 1).build().unwrap());
        let layer = layer.with_facts(reads.clone()).by_key();
        let never = service_fn(|()| std::future::pending::<Result<(), BoxError>>());
        let mut service = layer.layer(never);
        let _first = service.call(());
        assert_eq!(reads.0.load(SeqCst), 0);
        let _second = service.call(());
        assert_eq!(reads.0.load(SeqCst), 1);
    }
}

mod max_per_key {
    use super::*;

    fn rig(permits: usize, max_per_key: usize) -> Rig {
        let config = patient(permits, 10).max_per_key(max_per_key);
        Rig::new(config.build().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_has_no_more_than_it_may_and_others_go_past_it() {
        let mut rig = rig(4, 2);
        let mut calls = rig.of_key("anna", 0..4);
        assert_eq!(rig.server.calls(), [0, 1]);
        calls.extend(rig.of_key("ben", 10..11));
        assert_eq!(rig.server.calls(), [0, 1, 10]);
        assert_eq!((rig.in_flight(), rig.queued()), (3, 2));
        rig.end(10, &mut calls);
        assert_eq!(rig.server.calls(), [0, 1]);
        rig.end(0, &mut calls);
        assert_eq!(rig.server.calls(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn new_permits_do_not_go_to_a_key_that_has_all_it_may_have() {
        let mut rig = rig(1, 1);
        let mut calls = rig.of_key("anna", 0..2);
        calls.extend(rig.of_key("ben", 10..12));
        rig.handle.resize(10).unwrap();
        calls.iter_mut().for_each(|(_, call)| drop(call.poll()));
        assert_eq!(rig.server.calls(), [0, 10]);
        rig.end(0, &mut calls);
        assert_eq!(rig.server.calls(), [10, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_may_have_more_than_there_are_permits_which_counts_once_there_are_more() {
        let mut rig = rig(1, 2);
        let mut calls = rig.of_key("anna", 0..4);
        assert_eq!(rig.server.calls(), [0]);
        rig.handle.resize(10).unwrap();
        calls.iter_mut().for_each(|(_, call)| drop(call.poll()));
        assert_eq!(rig.server.calls(), [0, 1]);
        assert_eq!((rig.in_flight(), rig.queued()), (2, 2));
    }
}
