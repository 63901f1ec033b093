use anyhow::Result;
use tower::Layer as _;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, ask, fail},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a reset forgets what was counted, also while the circuit is closed";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    let (tool, handle) = super::with_handle(super::thresholds(), &Server::default())?;
    fail(&tool, super::TRIP - 1).await;
    handle.reset();
    fail(&tool, 1).await;
    Ok(ask(&tool, Ask::Answer).await == Ended::Answered)
}

async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience().wait_duration_in_open(NEVER);
    let (layer, handle) = config.build_with_handle()?;
    let tool = layer.layer(Server::default());
    fail(&tool, super::TRIP - 1).await;
    handle.reset().await;
    fail(&tool, 1).await;
    Ok(ask(&tool, Ask::Answer).await == Ended::Answered)
}
