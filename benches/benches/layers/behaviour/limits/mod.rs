//! Limits of how many and how often.

mod cooperative_yield;
mod idle_clone;
mod idle_keys;
mod readied_instance;
mod retry_after;
mod unused_token;
mod waiting;

use std::time::Duration;

use anyhow::Result;
use toolweir_rate_limit::{RateLimitConfig, RateLimitLayer};
use toolweir_semaphore::{SemaphoreConfig, SemaphoreLayer};

use super::{Behaviour, NEVER};

/// How long a call may wait for one that ends at once, or not at all.
const A_MOMENT: Duration = Duration::from_secs(1);

pub(crate) fn all() -> Vec<Behaviour> {
    vec![
        retry_after::behaviour(),
        idle_clone::behaviour(),
        unused_token::behaviour(),
        waiting::behaviour(),
        cooperative_yield::behaviour(),
        readied_instance::behaviour(),
        idle_keys::behaviour(),
    ]
}

/// Ours, with so many permits, and a wait of at most ten times a moment.
fn semaphore(permits: usize) -> Result<SemaphoreLayer> {
    let config = SemaphoreConfig::builder().permits(permits);
    let config = config.max_wait(10 * A_MOMENT).build()?;
    Ok(SemaphoreLayer::new(config))
}

/// Ours, with a call an hour, and no wait.
fn one_call_an_hour() -> Result<RateLimitLayer> {
    let config = RateLimitConfig::builder().quota(1, NEVER);
    let config = config.max_wait(Duration::ZERO).build()?;
    Ok(RateLimitLayer::new(config))
}
