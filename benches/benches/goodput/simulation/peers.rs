//! What one would use instead.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{sync::Semaphore, time::sleep};
use tower::{Service, ServiceBuilder, ServiceExt as _};
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::{
    CALLS, callers,
    server::{Answer, BURST, Call, PER_SECOND, Server},
};

const SECOND: Duration = Duration::from_secs(1);

/// Calls through `service`, and comes back after each 429 when the server says so.
async fn obeying<S>(mut service: S, call: Call) -> Result<u32>
where
    S: Service<Call, Response = Answer>,
    S::Error: std::fmt::Display,
{
    for attempt in 1.. {
        let failed = |error: S::Error| anyhow!("{error}");
        let service = service.ready().await.map_err(failed)?;
        match service.call(call.clone()).await.map_err(failed)? {
            Answer::Served => return Ok(attempt),
            Answer::TooMany(after) => sleep(after).await,
        }
    }
    Err(anyhow!("tried for ever"))
}

/// `RateLimit` is not `Clone`: the documentation puts a `Buffer` before it.
pub(super) async fn tower(server: &Server) -> Result<Vec<u32>> {
    let service = ServiceBuilder::new()
        .buffer(CALLS as usize)
        .rate_limit(PER_SECOND.into(), SECOND)
        .service(server.clone());
    callers::all(|call| obeying(service.clone(), call)).await
}

/// Its token bucket, which fits the server's.
pub(super) async fn tower_resilience(server: &Server) -> Result<Vec<u32>> {
    let layer = RateLimiterLayer::builder()
        .limit_for_period(PER_SECOND as usize)
        .refresh_period(SECOND)
        .burst_size(BURST as usize)
        .timeout_duration(600 * SECOND)
        .build()?;
    let service = ServiceBuilder::new().layer(layer).service(server.clone());
    callers::all(|call| obeying(service.clone(), call)).await
}

/// `wait` makes the pause of the longest that it may be.
pub(super) async fn backoff(
    server: &Server,
    wait: fn(&Server, Duration) -> Duration,
) -> Result<Vec<u32>> {
    const LONGEST: Duration = Duration::from_secs(100);
    callers::all(|call| {
        let server = server.clone();
        async move {
            let mut longest = SECOND;
            for attempt in 1.. {
                let answer = server.clone().oneshot(call.clone()).await;
                if answer.map_err(|error| anyhow!(error))? == Answer::Served {
                    return Ok(attempt);
                }
                sleep(wait(&server, longest)).await;
                longest = LONGEST.min(longest * 2);
            }
            Err(anyhow!("tried for ever"))
        }
    })
    .await
}

/// The honest opponent.
pub(super) async fn semaphore_held(server: &Server) -> Result<Vec<u32>> {
    let places = Arc::new(Semaphore::new(2));
    callers::all(|call| {
        let (server, places) = (server.clone(), places.clone());
        async move {
            let _place = places.acquire().await?;
            obeying(server, call).await
        }
    })
    .await
}
