use std::time::Duration;

use anyhow::Result;
use tower::Layer as _;
use tower_resilience_circuitbreaker::SlidingWindowType;

use super::super::{
    Behaviour, TOWER_RESILIENCE,
    server::{Ask, Server},
    tool::{Ended, Tool, ask, pass},
};

pub(crate) fn behaviour() -> Behaviour {
    let what = "two probes that succeed further apart than the window of time close the circuit";
    Behaviour::new(what, ours).beside(TOWER_RESILIENCE, tower_resilience)
}

const WINDOW: Duration = Duration::from_secs(10);

async fn ours() -> Result<bool> {
    let config = super::thresholds()
        .sliding_window_duration(WINDOW)
        .permitted_number_of_calls_in_half_open_state(2)
        .success_threshold(2);
    let tool = super::ours(config, &Server::default())?;
    super::trip(&tool).await;
    Ok(closes(tool).await)
}

/// With a window of a microsecond, because it reads the system's clock.
async fn tower_resilience() -> Result<bool> {
    let config = super::tower_resilience()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(Duration::from_micros(1))
        .permitted_calls_in_half_open(2);
    let (layer, handle) = config.build_with_handle()?;
    handle.force_open().await;
    Ok(closes(layer.layer(Server::default())).await)
}

async fn closes(tool: impl Tool) -> bool {
    for _ in 0..2 {
        ask(&tool, Ask::Answer).await;
        pass(2 * WINDOW).await;
    }
    ask(&tool, Ask::Answer).await == Ended::Answered
}
