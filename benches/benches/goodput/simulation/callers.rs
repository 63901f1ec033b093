//! Callers: one for each call, all of them there at the begin.

use std::future::Future;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{CALLS, server::Call};

/// Has each caller make its call, which says how often it tried.
pub(super) async fn all<F>(mut caller: impl FnMut(Call) -> F) -> Result<Vec<u32>>
where
    F: Future<Output = Result<u32>> + Send + 'static,
{
    let mut callers = JoinSet::new();
    for number in 0..CALLS {
        callers.spawn(caller(Call::new(number)));
    }
    let mut attempts = Vec::with_capacity(callers.len());
    while let Some(ended) = callers.join_next().await {
        attempts.push(ended.context("a caller panicked")??);
    }
    Ok(attempts)
}
