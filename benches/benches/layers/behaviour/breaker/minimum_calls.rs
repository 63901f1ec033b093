use anyhow::Result;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, fail},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a window of 100 calls counts from the minimum of 5 calls on";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    let config = super::thresholds().sliding_window_size(100);
    Ok(counts(super::ours(config, &Server::default())?).await)
}

async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience().sliding_window_size(100);
    let config = config.wait_duration_in_open(NEVER);
    Ok(counts(super::build(config, &Server::default())?).await)
}

async fn counts(tool: impl Tool) -> bool {
    fail(&tool, super::TRIP - 1).await;
    let waits = ask(&tool, Ask::Fail).await == Ended::Failed;
    waits && ask(&tool, Ask::Answer).await == Ended::Refused
}
