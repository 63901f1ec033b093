use std::time::Duration;

use anyhow::Result;
use tower::Layer as _;

use super::super::{
    Behaviour, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, pass},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a circuit that an operator holds open stays open";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    let (tool, handle) = super::with_handle(super::thresholds(), &Server::default())?;
    handle.hold_open("maintenance", None);
    Ok(stays(tool).await)
}

async fn tower_resilience() -> Result<bool> {
    let (layer, handle) = super::tower_resilience().build_with_handle()?;
    handle.force_open().await;
    Ok(stays(layer.layer(Server::default())).await)
}

async fn stays(tool: impl Tool) -> bool {
    pass(Duration::from_secs(24 * 3600)).await;
    ask(&tool, Ask::Answer).await == Ended::Refused
}
