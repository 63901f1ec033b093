use std::time::Duration;

use anyhow::Result;
use toolweir_core::{AsRejection as _, Rejection};
use tower::{Layer as _, ServiceExt as _};
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, ask},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a call that the quota has no room for is told when to come back";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    let tool = super::one_call_an_hour()?.layer(Server::default());
    let first = ask(&tool, Ask::Answer).await == Ended::Answered;
    let Err(refused) = tool.oneshot(Ask::Answer).await else {
        return Ok(false);
    };
    let retry_after = refused.as_rejection().and_then(Rejection::retry_after);
    Ok(first && retry_after == Some(NEVER))
}

/// However it might be told: by a figure in the error.
async fn tower_resilience() -> Result<bool> {
    let layer = RateLimiterLayer::builder()
        .limit_for_period(1)
        .refresh_period(NEVER)
        .timeout_duration(Duration::ZERO)
        .build()?;
    let tool = layer.layer(Server::default());
    let first = ask(&tool, Ask::Answer).await == Ended::Answered;
    let Err(refused) = tool.oneshot(Ask::Answer).await else {
        return Ok(false);
    };
    let told = format!("{refused} {refused:?}");
    Ok(first && told.contains(|character: char| character.is_ascii_digit()))
}
