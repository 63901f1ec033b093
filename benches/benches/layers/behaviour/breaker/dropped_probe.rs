use std::time::Duration;

use anyhow::Result;

use super::super::{
    Behaviour, FAILSAFE, RECLOSER, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, begin, cut, pass},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "after a probe that hung and was dropped, one of 100 calls is let through, \
                and half-open ends";
    Behaviour::new(what, ours)
        .beside(TOWER_RESILIENCE, tower_resilience)
        .beside(FAILSAFE, failsafe)
        .beside(RECLOSER, recloser)
}

async fn ours() -> Result<bool> {
    let server = Server::default();
    Ok(goes_on(super::ours(super::thresholds(), &server)?, &server).await)
}

async fn tower_resilience() -> Result<bool> {
    let server = Server::default();
    let tool = super::build(super::tower_resilience(), &server)?;
    Ok(goes_on(tool, &server).await)
}

async fn failsafe() -> Result<bool> {
    let server = Server::default();
    Ok(goes_on(super::failsafe(&server), &server).await)
}

async fn recloser() -> Result<bool> {
    let server = Server::default();
    Ok(goes_on(super::recloser(&server), &server).await)
}

async fn goes_on(tool: impl Tool, server: &Server) -> bool {
    super::trip(&tool).await;
    cut(begin(&tool, Ask::Hang).await).await;
    let before = server.reached();
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(begin(&tool, Ask::Hang).await);
    }
    let let_through = server.reached() - before;
    for call in calls {
        cut(call).await;
    }
    pass(Duration::from_secs(3600)).await;
    let_through == 1 && ask(&tool, Ask::Answer).await == Ended::Answered
}
