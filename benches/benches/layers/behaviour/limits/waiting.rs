use std::{future::poll_fn, pin::pin, time::Duration};

use anyhow::Result;
use tokio::time::timeout;
use tower::Layer as _;
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

use super::super::{
    Behaviour, PASSED, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Tool, ask, begin},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a call that waits is woken only when there is something to do";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

/// How often a call may be polled that waits in vain: when it begins, and when its time is over.
const ENOUGH: usize = 3;

async fn ours() -> Result<bool> {
    Ok(waits_quietly(super::semaphore(1)?.layer(Server::default())).await)
}

/// Its breaker, where calls wait until there is room for another probe.
async fn tower_resilience() -> Result<bool> {
    let (layer, handle) = CircuitBreakerLayer::builder()
        .wait_duration_in_open(PASSED)
        .permitted_calls_in_half_open(1)
        .backpressure()
        .build_with_handle()?;
    handle.force_open().await;
    Ok(waits_quietly(layer.layer(Server::default())).await)
}

async fn waits_quietly(tool: impl Tool) -> bool {
    let first = begin(&tool, Ask::Hang).await;
    let mut polls = 0;
    let mut waiter = pin!(ask(&tool, Ask::Answer));
    let counted = poll_fn(|cx| {
        polls += 1;
        waiter.as_mut().poll(cx)
    });
    let waited = timeout(Duration::from_millis(900), counted).await.is_err();
    waited && !first.is_finished() && polls <= ENOUGH
}
