use anyhow::Result;
use tower::{Layer as _, ServiceExt as _, limit::ConcurrencyLimit};
use tower_resilience_bulkhead::BulkheadLayer;

use super::super::{
    Behaviour, TOWER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask_within},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a clone that is ready and idle does not keep the others out";
    Behaviour::new(what, ours)
        .beside(TOWER, tower)
        .beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    Ok(lets_others(super::semaphore(1)?.layer(Server::default())).await)
}

async fn tower() -> Result<bool> {
    Ok(lets_others(ConcurrencyLimit::new(Server::default(), 1)).await)
}

async fn tower_resilience() -> Result<bool> {
    let layer = BulkheadLayer::builder().max_concurrent_calls(1);
    let layer = layer.backpressure().build()?;
    Ok(lets_others(layer.layer(Server::default())).await)
}

async fn lets_others(tool: impl Tool) -> bool {
    let mut idle = tool.clone();
    let ready = idle.ready().await.is_ok();
    let other = ask_within(&tool, Ask::Answer, super::A_MOMENT).await;
    ready && other == Some(Ended::Answered)
}
