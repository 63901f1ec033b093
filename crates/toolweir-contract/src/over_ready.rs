//! The rules that are checked over a service that is ready at once.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use toolweir_core::Rejection;
use tower_layer::Layer;

use crate::{Always, Answer, Layered, Request, ready::REFUSAL};

/// Longer than any layer may wait in a contract test; it passes at once on a paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);

async fn call<S: Layered<Rejection>>(service: &mut S, answer: Answer) -> Result<(), Rejection> {
    poll_fn(|cx| service.poll_ready(cx)).await?;
    tokio::time::timeout(PATIENCE, service.call(Request::wanting(answer)))
        .await
        .expect("contract: a call over a ready service ends")
        .map(drop)
}

async fn assert_answers<S: Layered<Rejection>>(service: &mut S, what: &str) {
    call(service, Answer::Respond)
        .await
        .unwrap_or_else(|rejection| panic!("contract: {what} is answered: {rejection}"));
}

pub(crate) async fn inner_panics_leak_nothing<L>(layer: &L)
where
    L: Layer<Always>,
    L::Service: Layered<Rejection>,
{
    let mut service = layer.layer(Always);
    assert_answers(&mut service, "the first call").await;
    for answer in [
        Answer::PanicInCall,
        Answer::PanicInFuture,
        Answer::PanicInFuture,
    ] {
        let attempt = AssertUnwindSafe(call(&mut service, answer)).catch_unwind();
        assert!(
            attempt.await.is_err(),
            "contract: the inner service's panic comes out"
        );
    }
    for _ in 0..10 {
        assert_answers(&mut service, "a call after three panics").await;
    }
}

pub(crate) async fn inner_refusals_are_no_failures<L>(layer: &L)
where
    L: Layer<Always>,
    L::Service: Layered<Rejection>,
{
    let mut service = layer.layer(Always);
    assert_answers(&mut service, "the first call").await;
    for _ in 0..100 {
        assert_eq!(
            call(&mut service, Answer::Refuse).await,
            Err(REFUSAL),
            "contract: an inner layer's refusal comes out unchanged"
        );
    }
    assert_answers(&mut service, "a call after a hundred inner refusals").await;
}

pub(crate) async fn nothing_is_allocated_where_nothing_waits<L>(layer: &L)
where
    L: Layer<Always>,
    L::Service: Layered<Rejection>,
{
    let mut service = layer.layer(Always);
    for _ in 0..3 {
        assert_answers(&mut service, "the first call").await;
    }
    let measured = allocation_counter::measure(|| {
        for _ in 0..20 {
            call_at_once(&mut service);
        }
    });
    assert_eq!(
        measured.count_total, 0,
        "contract: a call that does not wait allocates nothing, but twenty calls allocated {} bytes",
        measured.bytes_total
    );
}

fn call_at_once<S: Layered<Rejection>>(service: &mut S) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))),
        "contract: a service over a ready one is ready"
    );
    let call = pin!(service.call(Request::new()));
    assert!(
        matches!(call.poll(&mut cx), Poll::Ready(Ok(_))),
        "contract: a call that need not wait ends at its first poll"
    );
}
