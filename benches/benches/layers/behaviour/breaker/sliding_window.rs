use anyhow::Result;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, fail},
};

pub(crate) fn behaviour() -> Behaviour {
    let what =
        "the last 100 calls open the circuit when they fail, whatever 10,000 before them did";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    let config = super::thresholds().sliding_window_size(100);
    Ok(slides(super::ours(config, &Server::default())?).await)
}

async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience().sliding_window_size(100);
    let config = config.wait_duration_in_open(NEVER);
    Ok(slides(super::build(config, &Server::default())?).await)
}

async fn slides(tool: impl Tool) -> bool {
    for _ in 0..10_000 {
        ask(&tool, Ask::Answer).await;
    }
    fail(&tool, 100).await;
    ask(&tool, Ask::Answer).await == Ended::Refused
}
