//! The rules that are checked over a mock, which panics when it is called unreadied.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use toolweir_core::{AsRejection, BoxError};
use tower_layer::Layer;
use tower_service::Service as _;
use tower_test::mock::{self, Handle};

use crate::{Layered, Mock, Request, Response};

/// Longer than any layer may wait in a contract test; it passes at once on a paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Counts the wakes of a task that is polled by hand.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn pair() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (wakes.clone(), Waker::from(wakes))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A layered mock that has answered one call already, so that what happens once has happened.
async fn primed<L>(layer: &L) -> (L::Service, Handle<Request, Response>)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mock, mut handle) = mock::pair();
    let mut service = layer.layer(mock);
    assert_answers(&mut service, &mut handle, 0, "the first call").await;
    (service, handle)
}

/// Bounds a wait, so that a broken layer fails the test and does not hang it.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("contract: {what}, but it never did"))
}

async fn ready<S: Layered<BoxError>>(service: &mut S) {
    let ready = poll_fn(|cx| service.poll_ready(cx));
    within("`poll_ready` is ready when the inner service is", ready)
        .await
        .expect("contract: `poll_ready` fails only when the inner service does");
}

/// Makes one call to its end.
async fn assert_answers<S: Layered<BoxError>>(
    service: &mut S,
    handle: &mut Handle<Request, Response>,
    number: u64,
    what: &str,
) {
    ready(service).await;
    let call = service.call(Request::new());
    let answer = async {
        let (_, send) = handle.next_request().await.expect("the service is alive");
        send.send_response(Response(number));
    };
    let both = async { tokio::join!(call, answer).0 };
    let response = within(&format!("{what} reaches the inner service"), both)
        .await
        .unwrap_or_else(|error| panic!("contract: {what} is answered, not refused: {error}"));
    assert_eq!(
        response,
        Response(number),
        "contract: the inner response comes back unchanged"
    );
}

pub(crate) async fn readiness_is_the_inner_services<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (service, mut handle) = primed(layer).await;
    let mut service = service.clone();
    handle.allow(0);
    let (wakes, waker) = Wakes::pair();
    let mut cx = Context::from_waker(&waker);
    assert!(
        service.poll_ready(&mut cx).is_pending(),
        "contract: a service is not ready while its inner service is not"
    );
    handle.allow(1);
    assert!(
        wakes.count() > 0,
        "contract: the inner service's readiness wakes the caller"
    );
    assert!(
        matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))),
        "contract: a service is ready as soon as its inner service is"
    );
}

pub(crate) async fn readiness_errors_pass<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    handle.send_error("out of order");
    let error = within("`poll_ready` ends", poll_fn(|cx| service.poll_ready(cx)))
        .await
        .expect_err("contract: the inner service's readiness error comes out");
    assert_eq!(
        error.to_string(),
        "out of order",
        "contract: the inner service's readiness error comes out unchanged"
    );
}

pub(crate) async fn a_clone_is_readied_for_itself<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    ready(&mut service).await;
    // The mock panics if either is called without having been readied itself.
    let mut clone = service.clone();
    let call = service.call(Request::new());
    let (_, send) = handle.next_request().await.expect("the service is alive");
    send.send_response(Response(1));
    within("a cloned service's call ends", call)
        .await
        .unwrap_or_else(|error| panic!("contract: a cloned service still works: {error}"));
    assert_answers(&mut clone, &mut handle, 2, "the clone's call").await;
    assert_answers(&mut service, &mut handle, 3, "the next call").await;
}

pub(crate) async fn an_idle_readied_clone_blocks_nobody<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut clone = service.clone();
        ready(&mut clone).await;
        idle.push(clone);
    }
    assert_answers(
        &mut service,
        &mut handle,
        4,
        "a call beside a hundred idle, readied clones",
    )
    .await;
    drop(idle);
    assert_answers(
        &mut service,
        &mut handle,
        5,
        "a call after a hundred readied clones were dropped unused",
    )
    .await;
}

/// Drops a call's future after 0, 1 and 2 polls, and once more after its request arrived.
pub(crate) async fn dropped_futures_give_everything_back<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    for polls in (0..3).cycle().take(99) {
        ready(&mut service).await;
        let call = service.call(Request::new());
        drop_after(polls, call);
        // What was dispatched before the drop is of no interest any more.
        while let Poll::Ready(Some(_)) = handle.poll_request() {}
    }
    assert_answers(
        &mut service,
        &mut handle,
        6,
        "a call after ninety-nine dropped ones",
    )
    .await;
}

fn drop_after(polls: usize, call: impl Future) {
    let mut call = pin!(call);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        assert!(
            call.as_mut().poll(&mut cx).is_pending(),
            "contract: dropped calls give everything back, but the next one ended at once"
        );
    }
}

pub(crate) async fn inner_errors_pass<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    for _ in 0..3 {
        ready(&mut service).await;
        let call = service.call(Request::new());
        let answer = async {
            let (_, send) = handle.next_request().await.expect("the service is alive");
            send.send_error("broken pipe");
        };
        let both = async { tokio::join!(call, answer).0 };
        let error = within("a failed call ends", both)
            .await
            .expect_err("contract: the inner service's error comes out");
        assert!(
            error.as_rejection().is_none() && error.to_string() == "broken pipe",
            "contract: the inner service's error comes out unchanged, but it is: {error}"
        );
    }
    assert_answers(&mut service, &mut handle, 7, "a call after three errors").await;
}

pub(crate) async fn the_answer_wakes_the_caller<L>(layer: &L)
where
    L: Layer<Mock>,
    L::Service: Layered<BoxError>,
{
    let (mut service, mut handle) = primed(layer).await;
    ready(&mut service).await;
    let mut call = pin!(service.call(Request::new()));
    let (wakes, waker) = Wakes::pair();
    let mut cx = Context::from_waker(&waker);
    assert!(
        call.as_mut().poll(&mut cx).is_pending(),
        "contract: a call is pending until the inner service answers"
    );
    let Poll::Ready(Some((_, send))) = handle.poll_request() else {
        panic!("contract: a call that need not wait reaches the inner service at its first poll");
    };
    let before = wakes.count();
    send.send_response(Response(8));
    assert!(
        wakes.count() > before,
        "contract: the inner service's answer wakes the caller"
    );
    let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
        panic!("contract: a call ends as soon as the inner service has answered");
    };
    assert_eq!(
        response,
        Response(8),
        "contract: the inner response comes back unchanged"
    );
}
