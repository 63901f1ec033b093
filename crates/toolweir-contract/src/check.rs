//! The whole contract, and what a layer must produce to be held to it.

use tower_layer::Layer;
use tower_service::Service;

use toolweir_core::{BoxError, Rejection};

use crate::{Always, Mock, Request, Response, over_mock, over_ready};

/// A service that a layer made: it can be cloned, shared and sent, and so can its futures be sent.
///
/// Implemented for every service that fits; the bounds are the contract's rule on auto traits.
pub trait Layered<E>:
    Service<Request, Response = Response, Error = E, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, E> Layered<E> for S where
    S: Service<Request, Response = Response, Error = E, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Holds a layer to the contract.
///
/// `make` gives a new layer, with a new state, each time it is called. Configure it so that a call
/// passes without waiting, at the latest the second one, and so that a hundred calls and three
/// failures are within its limits.
///
/// Run it in a paused, current-thread runtime: `#[tokio::test(start_paused = true)]`.
///
/// # Panics
///
/// Panics on the first broken rule, and names it.
pub async fn check<L, F>(make: F)
where
    F: Fn() -> L,
    L: Layer<Mock> + Layer<Always>,
    <L as Layer<Mock>>::Service: Layered<BoxError>,
    <L as Layer<Always>>::Service: Layered<Rejection>,
{
    over_mock::readiness_is_the_inner_services(&make()).await;
    over_mock::readiness_errors_pass(&make()).await;
    over_mock::a_clone_is_readied_for_itself(&make()).await;
    over_mock::an_idle_readied_clone_blocks_nobody(&make()).await;
    over_mock::dropped_futures_give_everything_back(&make()).await;
    over_mock::inner_errors_pass(&make()).await;
    over_mock::the_answer_wakes_the_caller(&make()).await;
    over_ready::inner_panics_leak_nothing(&make()).await;
    over_ready::inner_refusals_are_no_failures(&make()).await;
    over_ready::nothing_is_allocated_where_nothing_waits(&make()).await;
}
