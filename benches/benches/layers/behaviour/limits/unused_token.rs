use anyhow::Result;
use tower::{Layer as _, ServiceExt as _};
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask_within},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a clone that was ready and is dropped unused costs nothing of the quota";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    Ok(costs_nothing(super::one_call_an_hour()?.layer(Server::default())).await)
}

async fn tower_resilience() -> Result<bool> {
    let layer = RateLimiterLayer::builder()
        .limit_for_period(1)
        .refresh_period(NEVER)
        .backpressure()
        .build()?;
    Ok(costs_nothing(layer.layer(Server::default())).await)
}

async fn costs_nothing(tool: impl Tool) -> bool {
    let mut unused = tool.clone();
    let ready = unused.ready().await.is_ok();
    drop(unused);
    let other = ask_within(&tool, Ask::Answer, super::A_MOMENT).await;
    ready && other == Some(Ended::Answered)
}
