//! Nothing is allocated where nothing waits.

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use toolweir_core::{BoxError, Facts};
use toolweir_rate_limit::{RateLimitConfig, RateLimitConfigBuilder, RateLimitLayer};
use tower::{Layer, Service, service_fn};

#[derive(Clone)]
struct Known;

impl Facts<()> for Known {
    fn call_id<'r>(&self, (): &'r ()) -> Option<&'r str> {
        Some("call-1")
    }
}

fn allocations(builder: RateLimitConfigBuilder) -> u64 {
    let config = builder.build().expect("all values are in range");
    let layer = RateLimitLayer::new(config).name("music").with_facts(Known);
    let answer = |()| -> Ready<Result<(), BoxError>> { ready(Ok(())) };
    let mut service = layer.layer(service_fn(answer));
    let mut cx = Context::from_waker(Waker::noop());
    let measured = allocation_counter::measure(|| {
        for _ in 0..10_000 {
            assert!(service.poll_ready(&mut cx).is_ready());
            let call = pin!(service.call(()));
            assert!(matches!(call.poll(&mut cx), Poll::Ready(Ok(()))));
        }
    });
    assert_eq!(layer.handle().state().passed_calls, 10_000);
    measured.count_total
}

#[test]
fn a_call_that_need_not_wait_allocates_nothing() {
    let known = RateLimitConfig::builder().quota(10_000, Duration::from_secs(60));
    assert_eq!(allocations(known), 0);
    let learned = RateLimitConfig::builder().learned().burst(10_000);
    assert_eq!(allocations(learned), 0);
}
