//! Each rule finds the layer that breaks it, and lets sound layers pass.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use toolweir_contract::{Request, Response, check};
use toolweir_core::{AsRejection, Reason, Rejection};
use tower_layer::{Identity, Layer, layer_fn};
use tower_service::Service;

type Boxed<E> = Pin<Box<dyn Future<Output = Result<Response, E>> + Send>>;

/// A layer whose faults can be switched on one at a time.
#[derive(Clone)]
struct Faulty<S> {
    inner: S,
    fault: Fault,
    permits: Arc<Semaphore>,
    failures: Arc<AtomicUsize>,
    readied_with: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Allocates,
    AlwaysReady,
    CallsAnUnreadiedClone,
    ForgetsItsPermit,
    ReservesInReadiness,
    CountsRefusals,
    WrapsErrors,
    LeaksInAPanic,
    LosesTheWaker,
}

fn faulty<S>(fault: Fault) -> impl Layer<S, Service = Faulty<S>> {
    let permits = Arc::new(Semaphore::new(2));
    layer_fn(move |inner| Faulty {
        inner,
        fault,
        permits: permits.clone(),
        failures: Arc::default(),
        readied_with: Arc::default(),
    })
}

impl<S> Service<Request> for Faulty<S>
where
    S: Service<Request, Response = Response, Future: Send + 'static> + Clone,
    S::Error: From<Rejection> + AsRejection + Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Boxed<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.fault {
            Fault::AlwaysReady => return Poll::Ready(Ok(())),
            Fault::ReservesInReadiness => {
                let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                    return Poll::Pending;
                };
                // An idle clone keeps its permit, as `ConcurrencyLimit`'s does.
                self.readied_with = Arc::new(Mutex::new(Some(permit)));
            }
            _ => {}
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let fault = self.fault;
        drop(self.readied_with.lock().map(|mut held| held.take()));
        let call = match fault {
            Fault::CallsAnUnreadiedClone => self.inner.clone().call(request),
            _ => self.inner.call(request),
        };
        let takes = matches!(fault, Fault::ForgetsItsPermit | Fault::LeaksInAPanic);
        let permit = takes.then(|| {
            self.permits
                .try_acquire()
                .map(tokio::sync::SemaphorePermit::forget)
        });
        let refused = matches!(permit, Some(Err(_)));
        let failures = self.failures.clone();
        let permits = self.permits.clone();
        let leaks = fault == Fault::LeaksInAPanic && !refused;
        let leak = PanicLeak(leaks.then(|| self.permits.clone()));
        Box::pin(async move {
            // A captured value outlives the panic; a local is dropped by it.
            let leak = leak;
            if refused {
                return Err(Rejection::new("faulty", Reason::QueueFull).into());
            }
            if failures.load(Ordering::SeqCst) > 50 {
                return Err(Rejection::new("faulty", Reason::CircuitOpen).into());
            }
            let result = match fault {
                Fault::LosesTheWaker => unwoken(call).await,
                _ => call.await,
            };
            drop(leak);
            if fault == Fault::ForgetsItsPermit {
                permits.add_permits(1);
            }
            match result {
                Err(error) if fault == Fault::CountsRefusals => {
                    failures.fetch_add(1, Ordering::SeqCst);
                    Err(error)
                }
                Err(error) if fault == Fault::WrapsErrors && error.as_rejection().is_none() => {
                    Err(Rejection::new("faulty", Reason::Unhealthy).into())
                }
                result => result,
            }
        })
    }
}

/// Gives a permit back when it is dropped, unless that happens in a panic.
struct PanicLeak(Option<Arc<Semaphore>>);

impl Drop for PanicLeak {
    fn drop(&mut self) {
        if let Some(permits) = self.0.take().filter(|_| !std::thread::panicking()) {
            permits.add_permits(1);
        }
    }
}

/// Polls `call` with a waker that wakes nobody.
async fn unwoken<F: Future>(call: F) -> F::Output {
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|_| call.as_mut().poll(&mut Context::from_waker(Waker::noop()))).await
}

#[tokio::test(start_paused = true)]
async fn a_sound_layer_passes() {
    check(Identity::new).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "allocates nothing")]
async fn an_allocation_is_found() {
    check(|| faulty_both(Fault::Allocates)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not ready")]
async fn a_layer_that_is_always_ready_is_found() {
    check(|| faulty_both(Fault::AlwaysReady)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "service not ready; poll_ready must be called first")]
async fn a_call_on_an_unreadied_clone_is_found() {
    check(|| faulty_both(Fault::CallsAnUnreadiedClone)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "dropped calls give everything back")]
async fn a_permit_lost_with_a_dropped_future_is_found() {
    check(|| faulty_both(Fault::ForgetsItsPermit)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "`poll_ready` is ready when the inner service is")]
async fn a_permit_held_by_an_idle_clone_is_found() {
    check(|| faulty_both(Fault::ReservesInReadiness)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "an inner layer's refusal comes out unchanged")]
async fn a_refusal_taken_for_a_failure_is_found() {
    check(|| faulty_both(Fault::CountsRefusals)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "error comes out unchanged")]
async fn an_error_that_is_replaced_is_found() {
    check(|| faulty_both(Fault::WrapsErrors)).await;
}

/// `impl Layer<S>` is for one `S`; the contract wants a layer for two.
fn faulty_both(fault: Fault) -> FaultyLayer {
    FaultyLayer(fault)
}

struct FaultyLayer(Fault);

impl<S> Layer<S> for FaultyLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        faulty(self.0).layer(inner)
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a call after three panics is answered")]
async fn a_permit_lost_in_a_panic_is_found() {
    check(|| faulty_both(Fault::LeaksInAPanic)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the inner service's answer wakes the caller")]
async fn a_lost_waker_is_found() {
    check(|| faulty_both(Fault::LosesTheWaker)).await;
}
