use std::{future::ready, time::Duration};

use anyhow::{Context as _, Result};
use governor::{
    Quota, RateLimiter, clock::FakeRelativeClock, middleware::NoOpMiddleware, nanos::Nanos,
    state::keyed::HashMapStateStore,
};
use tokio::time::advance;
use toolweir_core::Facts;
use toolweir_rate_limit::{RateLimitConfig, RateLimitLayer};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::super::{Behaviour, GOVERNOR, NEVER};
use crate::layers::call::CallError;

/// In which a cell comes back.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many keys there are, and how many calls of another once they are idle.
const KEYS: usize = 100;

pub(crate) fn behaviour() -> Behaviour {
    let what = "keys that nobody uses any more leave, and nobody has to see to it";
    Behaviour::new(what, ours).beside(GOVERNOR, governor)
}

#[derive(Debug, Clone, Copy)]
struct ByUser;

impl Facts<String> for ByUser {
    fn key<'r>(&self, user: &'r String) -> Option<&'r str> {
        Some(user)
    }
}

async fn ours() -> Result<bool> {
    let config = RateLimitConfig::builder().quota(1, INTERVAL);
    let config = config.key_idle(NEVER).build()?;
    let layer = RateLimitLayer::new(config).with_facts(ByUser).by_key();
    let tool = layer.layer(service_fn(|_| ready(Ok::<(), CallError>(()))));
    let passes = async |user| tool.clone().oneshot(user).await.is_ok();
    Ok(leave(passes, advance, || layer.handle().keys().keys).await)
}

/// With one state for each key.
type Governor =
    RateLimiter<String, HashMapStateStore<String>, FakeRelativeClock, NoOpMiddleware<Nanos>>;

/// Its store can forget keys, when somebody calls `retain_recent`.
async fn governor() -> Result<bool> {
    let quota = Quota::with_period(INTERVAL).context("an interval of nothing")?;
    let clock = FakeRelativeClock::default();
    let limiter = Governor::new(quota, HashMapStateStore::default(), clock.clone());
    let passes = async |user| limiter.check_key(&user).is_ok();
    let pass = async |time| clock.advance(time);
    Ok(leave(passes, pass, || limiter.len()).await)
}

async fn leave(
    passes: impl AsyncFn(String) -> bool,
    pass: impl AsyncFn(Duration),
    kept: impl Fn() -> usize,
) -> bool {
    let mut all_pass = true;
    for number in 0..KEYS {
        all_pass &= passes(format!("user-{number}")).await;
    }
    let all_kept = kept() == KEYS;
    pass(NEVER).await;
    for _ in 0..KEYS {
        all_pass &= passes("busy".into()).await;
        pass(INTERVAL).await;
    }
    all_pass && all_kept && kept() == 1
}
