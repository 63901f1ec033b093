use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::Result;
use tokio::sync::oneshot;
use toolweir_circuit_breaker::{CircuitBreakerConfig, CircuitBreakerLayer};
use toolweir_rate_limit::{RateLimitConfig, RateLimitLayer};
use tower::{Layer, Service};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker as tr;
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::super::{
    Behaviour, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Tool, begin, pass},
};
use super::A_MOMENT;

pub(crate) fn behaviour() -> Behaviour {
    let what = "the instance that is called is the one that was ready, also after a wait";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

/// Remembers whether it was ready when it was called. A clone of it is not.
#[derive(Debug, Default)]
struct Strict {
    inner: Server,
    ready: bool,
    called_unready: Arc<AtomicBool>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            ready: false,
            called_unready: self.called_unready.clone(),
        }
    }
}

impl Service<Ask> for Strict {
    type Response = <Server as Service<Ask>>::Response;
    type Error = <Server as Service<Ask>>::Error;
    type Future = <Server as Service<Ask>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        if !std::mem::take(&mut self.ready) {
            self.called_unready.store(true, Ordering::Relaxed);
        }
        self.inner.call(ask)
    }
}

async fn ours() -> Result<bool> {
    let breaker = CircuitBreakerLayer::new(CircuitBreakerConfig::default());
    let quota = RateLimitConfig::builder().calls_per_second(10).burst(1);
    let rate_limit = RateLimitLayer::new(quota.build()?);
    Ok(calls_the_ready(breaker).await
        && calls_the_ready(super::semaphore(1)?).await
        && calls_the_ready(rate_limit).await)
}

async fn tower_resilience() -> Result<bool> {
    let breaker = tr::CircuitBreakerLayer::builder().build()?;
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(1).build()?;
    let rate_limiter = RateLimiterLayer::builder()
        .limit_for_period(1)
        .refresh_period(A_MOMENT)
        .timeout_duration(2 * A_MOMENT)
        .build()?;
    Ok(calls_the_ready(breaker).await
        && calls_the_ready(bulkhead).await
        && calls_the_ready(rate_limiter).await)
}

/// Two calls, of which the second has to wait if the limit is of one.
async fn calls_the_ready<L>(layer: L) -> bool
where
    L: Layer<Strict>,
    L::Service: Tool,
{
    let strict = Strict::default();
    let (server, called_unready) = (strict.inner.clone(), strict.called_unready.clone());
    let tool = layer.layer(strict);
    let (answer, told) = oneshot::channel();
    begin(&tool, Ask::When(told)).await;
    begin(&tool, Ask::Answer).await;
    let told = answer.send(true).is_ok();
    pass(A_MOMENT).await;
    told && server.reached() == 2 && !called_unready.load(Ordering::Relaxed)
}
