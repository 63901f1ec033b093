use anyhow::Result;
use tokio::sync::oneshot;

use super::super::{
    Behaviour, FAILSAFE, RECLOSER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, begin, settle},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "calls from before the trip that succeed late do not close the circuit";
    Behaviour::new(what, ours)
        .beside(TOWER_RESILIENCE, tower_resilience)
        .beside(FAILSAFE, failsafe)
        .beside(RECLOSER, recloser)
}

async fn ours() -> Result<bool> {
    let make = || super::ours(super::thresholds(), &Server::default());
    Ok(stays_half_open(make()?).await && opens_again(make()?).await)
}

async fn tower_resilience() -> Result<bool> {
    let tool = super::build(super::tower_resilience(), &Server::default())?;
    Ok(stays_half_open(tool).await)
}

async fn failsafe() -> Result<bool> {
    Ok(opens_again(super::failsafe(&Server::default())).await)
}

async fn recloser() -> Result<bool> {
    Ok(opens_again(super::recloser(&Server::default())).await)
}

/// While the one probe is out, nobody else is let through.
async fn stays_half_open(tool: impl Tool) -> bool {
    let probe = late_successes(&tool).await;
    let refused = ask(&tool, Ask::Answer).await == Ended::Refused;
    drop(probe);
    refused
}

/// For who lets everybody through while a probe is out: when it fails, the circuit is open again.
async fn opens_again(tool: impl Tool) -> bool {
    let probe = late_successes(&tool).await;
    let told = probe.send(false).is_ok();
    settle().await;
    told && ask(&tool, Ask::Answer).await == Ended::Refused
}

/// Calls are admitted, the circuit trips, a probe is under way, and now those calls succeed.
async fn late_successes(tool: &impl Tool) -> oneshot::Sender<bool> {
    let mut early = Vec::new();
    for _ in 0..5 {
        let (answer, told) = oneshot::channel();
        begin(tool, Ask::When(told)).await;
        early.push(answer);
    }
    super::trip(tool).await;
    let (probe, told) = oneshot::channel();
    begin(tool, Ask::When(told)).await;
    for answer in early {
        // Whoever has gone was not waited for.
        let _ = answer.send(true);
    }
    settle().await;
    probe
}
