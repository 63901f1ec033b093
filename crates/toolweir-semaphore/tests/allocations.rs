//! Nothing is allocated where nothing waits.

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use toolweir_core::{BoxError, Facts};
use toolweir_semaphore::{SemaphoreConfig, SemaphoreLayer};
use tower::{Layer, Service, service_fn};

#[derive(Clone)]
struct Anna;

impl Facts<()> for Anna {
    fn key<'r>(&self, (): &'r ()) -> Option<&'r str> {
        Some("anna")
    }
}

fn allocations<F: Facts<()> + Clone>(layer: &SemaphoreLayer<F>) -> u64 {
    let answer = |()| -> Ready<Result<(), BoxError>> { ready(Ok(())) };
    let mut service = layer.layer(service_fn(answer));
    let mut cx = Context::from_waker(Waker::noop());
    let measured = allocation_counter::measure(|| {
        // More than the calls whose numbers the way past the lock has room for.
        for _ in 0..100_000 {
            assert!(service.poll_ready(&mut cx).is_ready());
            let call = pin!(service.call(()));
            assert!(matches!(call.poll(&mut cx), Poll::Ready(Ok(()))));
        }
    });
    assert_eq!(layer.handle().state().admitted_calls, 100_000);
    measured.count_total
}

#[test]
fn a_call_that_need_not_wait_allocates_nothing() {
    for permits in [1, 10] {
        let config = SemaphoreConfig::builder().permits(permits).build();
        let layer = || SemaphoreLayer::new(config.clone().unwrap()).name("music");
        assert_eq!(allocations(&layer()), 0);
        assert_eq!(allocations(&layer().for_key("anna")), 0);
        assert_eq!(allocations(&layer().with_facts(Anna).by_key()), 0);
    }
}
