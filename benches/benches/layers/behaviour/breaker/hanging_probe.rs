use std::time::Duration;

use anyhow::Result;

use super::super::{
    Behaviour, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, begin, pass},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "a probe that hangs for ever keeps the others out for a lease, not for ever";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

async fn ours() -> Result<bool> {
    Ok(lets_another(super::ours(super::thresholds(), &Server::default())?).await)
}

async fn tower_resilience() -> Result<bool> {
    let tool = super::build(super::tower_resilience(), &Server::default())?;
    Ok(lets_another(tool).await)
}

async fn lets_another(tool: impl Tool) -> bool {
    super::trip(&tool).await;
    let probe = begin(&tool, Ask::Hang).await;
    let alone = ask(&tool, Ask::Answer).await == Ended::Refused;
    pass(Duration::from_secs(24 * 3600)).await;
    let mut answered = false;
    // It may open once more, because a probe was not answered.
    for _ in 0..10 {
        answered |= ask(&tool, Ask::Answer).await == Ended::Answered;
        pass(Duration::from_secs(600)).await;
    }
    alone && answered && !probe.is_finished()
}
