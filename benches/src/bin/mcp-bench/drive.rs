//! Keeps so many calls under way, and times each.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use rmcp::model::JsonObject;
use tokio::{task::JoinSet, time::Instant};

use crate::caller::{Call, Caller, arguments};

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// No call begins later than this after the start, but for each task's first.
    Over(Duration),
    /// Each task has made so many calls.
    Made(usize),
}

/// What some calls took.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    pub(crate) latencies: Vec<Duration>,
    /// From the first call's start to the last one's end, over all turns.
    pub(crate) elapsed: Duration,
}

/// Keeps `in_flight` calls under way, and adds what they took.
pub(crate) async fn drive(
    caller: &Caller,
    in_flight: usize,
    until: Until,
    driven: &mut Driven,
) -> Result<()> {
    match caller {
        Caller::Bare(client) => calls(client.peer(), in_flight, until, driven).await,
        Caller::Timed(peer, _) => calls(peer, in_flight, until, driven).await,
        Caller::Mcp(service) => calls(service, in_flight, until, driven).await,
        Caller::Full(service, _) => calls(service, in_flight, until, driven).await,
    }
}

async fn calls<C: Call>(
    caller: &C,
    in_flight: usize,
    until: Until,
    driven: &mut Driven,
) -> Result<()> {
    let arguments = Arc::new(arguments());
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        tasks.spawn(repeat(caller.clone(), arguments.clone(), begun, until));
    }
    while let Some(latencies) = tasks.join_next().await {
        driven.latencies.extend(latencies??);
    }
    driven.elapsed += begun.elapsed();
    Ok(())
}

/// One call after the other.
async fn repeat<C: Call>(
    caller: C,
    arguments: Arc<JsonObject>,
    start: Instant,
    until: Until,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    if let Until::Made(calls) = until {
        latencies.reserve_exact(calls);
    }
    loop {
        let begun = Instant::now();
        let over = match until {
            Until::Over(time) => begun.duration_since(start) >= time && !latencies.is_empty(),
            Until::Made(calls) => latencies.len() >= calls,
        };
        if over {
            return Ok(latencies);
        }
        caller.call(JsonObject::clone(&arguments)).await?;
        latencies.push(begun.elapsed());
    }
}
