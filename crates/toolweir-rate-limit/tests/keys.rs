//! A limiter for each key: how they keep apart, how many there are, and which of them go.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{Future, poll_fn, ready},
    num::NonZeroU32,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::advance};
use toolweir_core::{
    AsRejection, BoxError, Delivery, Facts, Observation, Outcome, Reason, Rejection,
};
use toolweir_rate_limit::{RateLimitConfig, RateLimitConfigBuilder, RateLimitLayer};
use tower::{Layer, Service, ServiceBuilder, service_fn};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// In which one cell comes back.
const INTERVAL: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(3_000);

#[derive(Debug, Clone, Default)]
struct Job {
    user: String,
    id: Option<String>,
    cost: u32,
    /// How the server answers.
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Answer {
    #[default]
    Served,
    Throttled,
    /// A layer in front of the server refuses.
    Refused,
    Failed,
}

/// The key is the user, and without one there is none.
#[derive(Debug, Clone, Copy)]
struct User;

impl Facts<Job> for User {
    fn key<'r>(&self, job: &'r Job) -> Option<&'r str> {
        (!job.user.is_empty()).then_some(&job.user)
    }

    fn call_id<'r>(&self, job: &'r Job) -> Option<&'r str> {
        job.id.as_deref()
    }

    fn cost(&self, job: &Job) -> NonZeroU32 {
        NonZeroU32::new(job.cost).unwrap_or(NonZeroU32::MIN)
    }
}

type Answered = Result<Answer, BoxError>;
type Classifier = fn(Result<&Answer, &BoxError>) -> Observation;
type Keyed = RateLimitLayer<Classifier, User>;

fn classify(result: Result<&Answer, &BoxError>) -> Observation {
    let outcome = match result {
        Ok(Answer::Throttled) => Outcome::Throttled {
            retry_after: Some(PAUSE),
        },
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    };
    Observation::new(outcome, Delivery::Executed)
}

/// Ten a second, and nobody waits.
fn config(burst: u32) -> RateLimitConfigBuilder {
    let config = RateLimitConfig::builder().calls_per_second(10).burst(burst);
    config.max_wait(Duration::ZERO)
}

fn layer(config: RateLimitConfigBuilder) -> Keyed {
    RateLimitLayer::new(config.build().unwrap())
        .name("music")
        .with_facts(User)
        .with_classifier(classify as Classifier)
        .by_key()
}

fn job(user: &str) -> Job {
    let user = user.into();
    Job {
        user,
        ..Job::default()
    }
}

fn answer(answer: Answer) -> Answered {
    match answer {
        Answer::Refused => Err(Rejection::new("inner-layer", Reason::QueueFull).into()),
        Answer::Failed => Err("connection reset".into()),
        answer => Ok(answer),
    }
}

fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Makes a call that is answered at once. An answer that is no refusal of the rate limit is `Ok`.
fn ask(layer: &Keyed, job: Job) -> Result<(), Rejection> {
    let server = service_fn(|job: Job| ready(answer(job.answer)));
    let Poll::Ready(answered) = poll(layer.layer(server).call(job)) else {
        panic!("it answers at once");
    };
    match answered {
        Err(error) => match error.as_rejection() {
            Some(rejection) if rejection.layer() == "rate-limit" => Err(rejection.clone()),
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

fn call(layer: &Keyed, user: &str) -> Result<(), Rejection> {
    ask(layer, job(user))
}

/// A call that is under way until it is dropped, or that waits.
fn begin(layer: &Keyed, user: &str) -> Pin<Box<dyn Future<Output = Answered>>> {
    let hung = service_fn(|_: Job| std::future::pending::<Answered>());
    let mut call = Box::pin(layer.layer(hung).call(job(user)));
    assert!(poll(call.as_mut()).is_pending());
    call
}

/// Makes calls until one is refused.
fn passed(layer: &Keyed, user: &str) -> usize {
    (0..10_000)
        .take_while(|_| call(layer, user).is_ok())
        .count()
}

mod apart {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thousand_calls_of_one_user_cost_another_nothing() {
        let layer = layer(config(3));
        let passed = (0..1_000).filter(|_| call(&layer, "anna").is_ok()).count();
        assert_eq!(passed, 3);
        assert_eq!(super::passed(&layer, "berta"), 3);
        // Without a key it is the server's own limiter.
        assert_eq!(super::passed(&layer, ""), 3);
        assert_eq!(layer.handle().keys().keys, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_names_the_key() {
        let layer = layer(config(1));
        for (user, key) in [("anna", "anna"), ("", "music")] {
            call(&layer, user).unwrap();
            let rejection = call(&layer, user).unwrap_err();
            assert_eq!(rejection.key(), Some(key));
            assert_eq!(rejection.reason(), Reason::QuotaSpent);
            assert_eq!(rejection.retry_after(), Some(INTERVAL));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_after_a_wait_names_the_key() {
        let layer = layer(config(1).max_wait(250 * MILLI));
        call(&layer, "anna").unwrap();
        let mut waiting = begin(&layer, "anna");
        layer.handle().for_key("anna").pause(PAUSE);
        let Poll::Ready(Err(error)) = poll(waiting.as_mut()) else {
            panic!("it has no chance")
        };
        assert_eq!(error.as_rejection().unwrap().key(), Some("anna"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_waits_and_pauses_for_itself() {
        let layer = layer(config(1).max_wait(250 * MILLI));
        call(&layer, "anna").unwrap();
        let waiting = begin(&layer, "anna");
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().for_key("anna").state().waiting, 1);
        assert_eq!(layer.handle().for_key("berta").state().waiting, 0);
        drop(waiting);

        let throttled = Job {
            answer: Answer::Throttled,
            ..job("clara")
        };
        ask(&layer, throttled).unwrap();
        let rejection = call(&layer, "clara").unwrap_err();
        assert_eq!(rejection.reason(), Reason::Throttled);
        assert_eq!(rejection.retry_after(), Some(PAUSE));
        call(&layer, "dora").unwrap();
        assert_eq!(layer.handle().paused_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_own_bookings() {
        let layer = layer(config(1));
        let identified = |user, id: &str| Job {
            id: Some(id.into()),
            ..job(user)
        };
        for user in ["anna", "berta"] {
            call(&layer, user).unwrap();
            // The same name is another call's where the key is another.
            let rejection = ask(&layer, identified(user, "1")).unwrap_err();
            assert_eq!(rejection.retry_after(), Some(INTERVAL));
            let rejection = ask(&layer, identified(user, "2")).unwrap_err();
            assert_eq!(rejection.retry_after(), Some(2 * INTERVAL));
        }
        advance(INTERVAL).await;
        ask(&layer, identified("berta", "1")).unwrap();
        assert_eq!(layer.handle().for_key("anna").state().bookings, 2);
        assert_eq!(layer.handle().for_key("berta").state().bookings, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_for_a_key_shares_the_limiter_that_requests_find() {
        let layer = layer(config(2));
        let anna = layer.for_key("anna");
        call(&layer, "anna").unwrap();
        // Whatever the request says.
        call(&anna, "berta").unwrap();
        assert_eq!(call(&anna, "berta").unwrap_err().key(), Some("anna"));
        assert_eq!(anna.handle().key(), Some("anna"));
        assert_eq!(anna.handle().state().passed_calls, 2);
        assert_eq!(layer.handle().key(), None);
        assert_eq!(anna.handle().for_server().key(), None);
        assert_eq!(passed(&layer, "berta"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn by_default_all_share_one_limiter() {
        let layer = RateLimitLayer::new(config(2).build().unwrap())
            .with_facts(User)
            .with_classifier(classify as Classifier);
        call(&layer, "anna").unwrap();
        call(&layer, "berta").unwrap();
        assert!(call(&layer, "clara").is_err());
        assert_eq!(layer.handle().keys().keys, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_handle_reads_each_key() {
        let layer = layer(config(3));
        call(&layer, "anna").unwrap();
        passed(&layer, "berta");
        let mut states = layer.handle().key_states();
        states.sort_by(|one, other| one.0.cmp(&other.0));
        let available: Vec<(&str, u32)> = states
            .iter()
            .map(|(key, state)| (&**key, state.available))
            .collect();
        assert_eq!(available, [("anna", 2), ("berta", 0)]);
        assert_eq!(layer.handle().state().available, 3);
    }
}

mod leaving {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_keys_leave_while_others_are_called() {
        let layer = layer(config(1));
        for number in 0..100 {
            call(&layer, &number.to_string()).unwrap();
        }
        assert_eq!(layer.handle().keys().keys, 100);
        advance(IDLE).await;
        for _ in 0..101 {
            call(&layer, "busy").unwrap();
            advance(INTERVAL).await;
        }
        let figures = layer.handle().keys();
        assert_eq!((figures.keys, figures.evicted), (1, 100));
        assert!(figures.most_keys >= 100, "{figures:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_no_more_than_may_be_whoever_calls() {
        let layer = layer(config(1).max_keys(100));
        for number in 0..10_000 {
            let _ = call(&layer, &number.to_string());
            advance(MILLI).await;
            assert!(layer.handle().keys().keys <= 100);
        }
        let figures = layer.handle().keys();
        assert_eq!((figures.keys, figures.max_keys), (100, 100));
        assert_eq!(figures.most_keys, 100);
        // A key is full again after a hundred others.
        assert_eq!((figures.evicted, figures.overflowed), (9_900, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_has_spent_its_quota_gets_none_by_leaving() {
        let layer = layer(config(10).max_keys(2));
        assert_eq!(passed(&layer, "anna"), 10);
        // It is the one that was not used for longest when the others come.
        for number in 0..50 {
            let _ = call(&layer, &format!("other-{number}"));
        }
        assert_eq!(call(&layer, "anna").unwrap_err().key(), Some("anna"));
        assert_eq!(layer.handle().for_key("anna").state().available, 0);
        // It is full, and one made anew is the same.
        advance(SECOND).await;
        call(&layer, "other-50").unwrap();
        assert_eq!(layer.handle().keys().evicted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_waits_long_for_its_quota_outlives_the_idle_time() {
        let slow = RateLimitConfig::builder().quota(1, 10 * IDLE).burst(1);
        let layer = layer(slow.max_wait(Duration::ZERO).key_idle(IDLE));
        call(&layer, "anna").unwrap();
        advance(9 * IDLE).await;
        let rejection = call(&layer, "anna").unwrap_err();
        assert_eq!(rejection.retry_after(), Some(IDLE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_paused_stays_paused() {
        let layer = layer(config(2).max_keys(2));
        let throttled = Job {
            answer: Answer::Throttled,
            ..job("anna")
        };
        ask(&layer, throttled).unwrap();
        layer.handle().for_key("berta").pause(PAUSE);
        for number in 0..50 {
            let _ = call(&layer, &number.to_string());
        }
        advance(IDLE).await;
        for (user, reason) in [("anna", Reason::Throttled), ("berta", Reason::Paused)] {
            let rejection = call(&layer, user).unwrap_err();
            assert_eq!((rejection.key(), rejection.reason()), (Some(user), reason));
            assert_eq!(rejection.retry_after(), Some(PAUSE - IDLE));
        }
        // A pause drains the burst: that too must come back first.
        advance(PAUSE - IDLE).await;
        call(&layer, "other").unwrap();
        assert_eq!(layer.handle().keys().evicted, 0);
        advance(INTERVAL).await;
        call(&layer, "other").unwrap();
        assert_eq!(layer.handle().keys().evicted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_that_was_changed_is_not_forgotten() {
        let layer = layer(config(2).max_keys(1));
        layer.handle().for_key("anna").set_quota(1, SECOND).unwrap();
        advance(2 * IDLE).await;
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 0);
        let anna = layer.handle().for_key("anna");
        assert_eq!(anna.state().calls, Some(1));
        // It is what one made anew would be again.
        anna.set_quota(10, SECOND).unwrap();
        drop(anna);
        call(&layer, "clara").unwrap();
        assert_eq!(layer.handle().keys().evicted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_with_a_booking_keeps_it() {
        let layer = layer(config(1).max_keys(1));
        call(&layer, "anna").unwrap();
        let again = Job {
            id: Some("1".into()),
            ..job("anna")
        };
        assert!(ask(&layer, again.clone()).is_err());
        // Full again, but for whom?
        advance(3 * INTERVAL).await;
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 0);
        assert_eq!(layer.handle().for_key("anna").state().bookings, 1);
        ask(&layer, again).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stays_while_a_call_of_it_is_under_way() {
        let layer = layer(config(1).max_keys(1));
        let under_way = begin(&layer, "anna");
        advance(2 * IDLE).await;
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 0);
        drop(under_way);
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_learned_is_not_given_up_for_room() {
        let learned = RateLimitConfig::builder()
            .learned()
            .max_wait(Duration::ZERO);
        let layer = layer(learned.max_keys(1).key_idle(IDLE));
        call(&layer, "anna").unwrap();
        advance(IDLE / 2).await;
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 0);
        advance(IDLE / 2).await;
        call(&layer, "berta").unwrap();
        assert_eq!(layer.handle().keys().evicted, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_find_no_room_share_one_limiter_and_that_is_no_pass() {
        let layer = layer(config(3).max_keys(2));
        call(&layer, "anna").unwrap();
        call(&layer, "berta").unwrap();
        assert!(layer.handle().overflow().is_none());
        let users: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let passed = users.iter().filter(|user| call(&layer, user).is_ok());
        assert_eq!(passed.count(), 3);
        let rejection = call(&layer, "100").unwrap_err();
        assert_eq!(rejection.key(), Some("(other keys)"));
        assert_eq!(rejection.retry_after(), Some(INTERVAL));
        let overflow = layer.handle().overflow().unwrap();
        assert_eq!(overflow.key(), Some("(other keys)"));
        assert_eq!(overflow.state().rejected_calls, 98);
        assert_eq!(layer.handle().keys().overflowed, 101);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_too_long_to_be_kept_shares_the_limiter_too() {
        let layer = layer(config(1));
        call(&layer, &"k".repeat(257)).unwrap();
        assert!(call(&layer, &"l".repeat(1_000)).is_err());
        let figures = layer.handle().keys();
        assert_eq!((figures.keys, figures.overflowed), (0, 2));
    }
}

mod refunds {
    use super::*;

    fn ending(answer: Answer, cost: u32) -> Job {
        Job {
            answer,
            cost,
            ..job("anna")
        }
    }

    fn available(layer: &Keyed) -> u32 {
        layer.handle().for_key("anna").state().available
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_a_layer_further_in_refuses_costs_nothing() {
        let layer = layer(config(5));
        for _ in 0..100 {
            ask(&layer, ending(Answer::Refused, 3)).unwrap();
            assert_eq!(available(&layer), 5);
        }
        let state = layer.handle().for_key("anna").state();
        assert_eq!((state.passed_calls, state.refunded_calls), (100, 100));
        // A failure does cost: the server may have seen it.
        ask(&layer, ending(Answer::Failed, 3)).unwrap();
        assert_eq!(available(&layer), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn per_key_outside_and_per_server_inside_are_two_layers() {
        let each = layer(config(2));
        let server = RateLimitLayer::new(config(3).build().unwrap())
            .name("music")
            .with_facts(User)
            .with_classifier(classify as Classifier);
        let mut stack = ServiceBuilder::new()
            .layer(each.clone())
            .layer(server.clone())
            .service_fn(|job: Job| ready(answer(job.answer)));
        let mut call = |user: &str| match poll(stack.call(job(user))) {
            Poll::Ready(Ok(_)) => None,
            Poll::Ready(Err(error)) => {
                Some(error.as_rejection().unwrap().key().unwrap().to_owned())
            }
            Poll::Pending => panic!("nobody waits"),
        };
        assert_eq!([call("anna"), call("anna")], [None, None]);
        // Her own quota refuses her, and the server's knows nothing of it.
        assert_eq!(call("anna").as_deref(), Some("anna"));
        assert_eq!(server.handle().state().available, 1);
        assert_eq!(call("berta"), None);
        // The server's refuses the others, and that costs nothing of their own.
        for _ in 0..10 {
            assert_eq!(call("berta").as_deref(), Some("music"));
        }
        assert_eq!(each.handle().for_key("berta").state().available, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refund_lets_the_next_in_line_go_at_once() {
        let layer = layer(config(1).max_wait(INTERVAL)).for_key("anna");
        let refused = Arc::new(Notify::new());
        let until = refused.clone();
        let refuses = service_fn(move |_: Job| {
            let until = until.clone();
            async move {
                until.notified().await;
                answer(Answer::Refused)
            }
        });
        let mut first = Box::pin(layer.layer(refuses).call(job("anna")));
        assert!(poll(first.as_mut()).is_pending());

        let serves = service_fn(|_: Job| ready(answer(Answer::Served)));
        let second = tokio::spawn(layer.layer(serves).call(job("anna")));
        tokio::task::yield_now().await;
        assert_eq!(layer.handle().state().waiting, 1);
        let start = tokio::time::Instant::now();
        refused.notify_one();
        assert!(first.await.is_err());
        second.await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// A call that is refused further in after this time.
    async fn refused_after(layer: &Keyed, time: Duration) {
        let refuses = service_fn(move |_: Job| async move {
            tokio::time::sleep(time).await;
            answer(Answer::Refused)
        });
        layer.layer(refuses).call(job("anna")).await.unwrap_err();
    }

    /// Later calls may be refused sooner: where calls wait further in, or find no room to.
    #[tokio::test(start_paused = true)]
    async fn all_get_their_cells_back_in_whichever_order_they_are_refused() {
        let layer = layer(config(10)).for_key("anna");
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
            let refuses = service_fn(|_: Job| {
                let mut polls = 0;
                poll_fn(move |_| {
                    polls += 1;
                    match polls {
                        1 => Poll::Pending,
                        _ => Poll::Ready(answer(Answer::Refused)),
                    }
                })
            });
            let mut service = layer.layer(refuses);
            let mut calls: Vec<_> = (0..5)
                .map(|_| Box::pin(service.call(ending(Answer::Refused, 2))))
                .collect();
            for call in &mut calls {
                assert!(poll(call.as_mut()).is_pending());
            }
            assert_eq!(layer.handle().state().available, 0);
            for at in order {
                assert!(poll(calls[at].as_mut()).is_ready());
            }
            assert_eq!(layer.handle().state().available, 10, "{order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_time_has_given_back_is_not_given_twice() {
        let layer = layer(config(10)).for_key("anna");
        let late: Vec<_> = (0..10)
            .map(|_| {
                let layer = layer.clone();
                tokio::spawn(async move { refused_after(&layer, SECOND).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(layer.handle().state().available, 0);
        advance(SECOND - MILLI).await;
        assert_eq!(passed(&layer, "anna"), 9);
        for call in late {
            call.await.unwrap();
        }
        // Nine have been made, and the tenth's time has come.
        assert_eq!(passed(&layer, "anna"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refund_never_ends_a_pause_or_undoes_its_drain() {
        let layer = layer(config(5)).for_key("anna");
        let late = tokio::spawn({
            let layer = layer.clone();
            async move { refused_after(&layer, INTERVAL / 2).await }
        });
        tokio::task::yield_now().await;
        layer.handle().pause(SECOND);
        late.await.unwrap();
        let rejection = call(&layer, "anna").unwrap_err();
        assert_eq!(rejection.retry_after(), Some(SECOND - INTERVAL / 2));
        advance(SECOND - INTERVAL / 2).await;
        assert_eq!(passed(&layer, "anna"), 1);
    }
}
