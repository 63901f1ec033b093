use std::time::Duration;

use anyhow::Result;

use super::super::{
    Behaviour, FAILSAFE, NEVER, PASSED, RECLOSER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, ask_within},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "200 calls that hang until a timeout around them cuts them open the circuit";
    Behaviour::new(what, ours)
        .beside(TOWER_RESILIENCE, tower_resilience)
        .beside(FAILSAFE, failsafe)
        .beside(RECLOSER, recloser)
}

const TIMEOUT: Duration = Duration::from_secs(2);

async fn ours() -> Result<bool> {
    let slow = TIMEOUT / 2;
    let config = super::thresholds().slow_call_duration_threshold(slow);
    // They are not over before this is.
    let config = config.wait_duration_in_open_state(NEVER);
    Ok(opens(super::ours(config, &Server::default())?).await)
}

/// It would find every call slow.
async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience()
        .slow_call_duration_threshold(PASSED)
        .slow_call_rate_threshold(0.5)
        .wait_duration_in_open(NEVER);
    Ok(opens(super::build(config, &Server::default())?).await)
}

async fn failsafe() -> Result<bool> {
    Ok(opens(super::failsafe(&Server::default())).await)
}

async fn recloser() -> Result<bool> {
    Ok(opens(super::recloser(&Server::default())).await)
}

async fn opens(tool: impl Tool) -> bool {
    for _ in 0..200 {
        ask_within(&tool, Ask::Hang, TIMEOUT).await;
    }
    ask(&tool, Ask::Answer).await == Ended::Refused
}
