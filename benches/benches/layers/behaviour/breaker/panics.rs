use anyhow::Result;

use super::super::{
    Behaviour, NEVER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, begin},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "calls that panic count as failed";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    Ok(counted(super::ours(super::thresholds(), &Server::default())?).await)
}

async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience().wait_duration_in_open(NEVER);
    Ok(counted(super::build(config, &Server::default())?).await)
}

async fn counted(tool: impl Tool) -> bool {
    for _ in 0..super::TRIP {
        // It has panicked, as it should.
        let _ = begin(&tool, Ask::Panic).await.await;
    }
    ask(&tool, Ask::Answer).await == Ended::Refused
}
