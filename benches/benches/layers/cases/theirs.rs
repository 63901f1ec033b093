//! The peers.

use std::{hint::black_box, num::NonZeroU32};

use anyhow::{Context as _, Result};
use governor::{Quota, RateLimiter};
use tower::{
    Layer as _, ServiceBuilder,
    limit::{ConcurrencyLimit, RateLimit, rate::Rate},
    timeout::Timeout,
};

use super::{
    Case,
    alone::{Alone, runtime},
    limits::{BURST, KEY, OPEN, PERMITS, QUOTA, WINDOW_CALLS},
    shared::Shared,
    window::Window,
};
use crate::layers::{
    call::Echo,
    peers::{failsafe::Failsafe, governor::Governed, recloser::Reclosed, tower_resilience as tr},
};

pub(crate) fn breakers() -> Result<Vec<Case>> {
    let breaker = || -> Result<_> { Ok(tr::breaker().build()?.layer(Echo)) };
    let time = tr::time_window().build()?;
    let of_time = |calls| {
        let layer = time.clone();
        Window::with(calls, move || layer.layer(Echo))
    };
    let backoff = failsafe::backoff::constant(OPEN);
    let consecutive = failsafe::failure_policy::consecutive_failures(5, backoff);
    let consecutive = failsafe::Config::new().failure_policy(consecutive).build();
    let failsafe = failsafe::Config::new().build();
    let recloser = recloser::Recloser::custom()
        .error_rate(0.5)
        .closed_len(WINDOW_CALLS)
        .half_open_len(10)
        .open_wait(OPEN)
        .build();
    Ok(vec![
        Case::theirs("tr_breaker", Alone::of(breaker()?)?),
        Case::theirs("tr_breaker_open", Alone::tripped(breaker()?)?),
        Case::theirs("tr_breaker_time_100", of_time(100)?),
        Case::theirs("tr_breaker_time_10000", of_time(10_000)?),
        Case::theirs("failsafe", Alone::of(Failsafe::new(Echo, failsafe))?),
        Case::theirs(
            "failsafe_consecutive",
            Alone::of(Failsafe::new(Echo, consecutive))?,
        ),
        Case::theirs("recloser", Alone::of(Reclosed::new(Echo, recloser))?),
    ])
}

pub(crate) fn semaphores() -> Result<Vec<Case>> {
    let tower = ConcurrencyLimit::new(Echo, PERMITS);
    let timeout = Timeout::new(Echo, OPEN);
    Ok(vec![
        Case::theirs("tower_concurrency_limit", Alone::of(tower)?),
        Case::theirs("tower_timeout", Alone::of(timeout)?),
        Case::theirs("tr_bulkhead", Alone::of(tr::bulkhead()?.layer(Echo))?),
    ])
}

pub(crate) fn rate_limits() -> Result<Vec<Case>> {
    let (direct, keyed) = (
        RateLimiter::direct(quota()?),
        RateLimiter::hashmap(quota()?),
    );
    let direct = move || direct.check().is_ok();
    // A key that is cloned for nothing, which is generous.
    let keyed = move || keyed.check_key(&black_box(KEY)).is_ok();
    let rate = Rate::new(QUOTA.into(), std::time::Duration::from_secs(1));
    let tr = tr::rate_limiter()?.layer(Echo);
    // tower's makes a timer, which nothing here ever waits for.
    let runtime = runtime()?;
    let _context = runtime.enter();
    Ok(vec![
        Case::theirs("governor", Alone::of(Governed::new(Echo, direct))?),
        Case::theirs("governor_keyed", Alone::of(Governed::new(Echo, keyed))?),
        Case::theirs("tower_rate_limit", Alone::of(RateLimit::new(Echo, rate))?),
        Case::theirs("tr_rate_limiter", Alone::of(tr)?),
    ])
}

fn quota() -> Result<Quota> {
    let quota = NonZeroU32::new(QUOTA).context("a quota of nothing")?;
    let burst = NonZeroU32::new(BURST).context("a burst of nothing")?;
    Ok(Quota::per_second(quota).allow_burst(burst))
}

/// In the same order as ours.
pub(crate) fn stacks(threads: usize) -> Result<Vec<Case>> {
    let stack = || -> Result<_> {
        let stack = ServiceBuilder::new()
            .layer(tr::breaker().build()?)
            .layer(tr::bulkhead()?)
            .layer(tr::rate_limiter()?);
        Ok(stack.service(Echo))
    };
    let breaker = tr::breaker().build()?.layer(Echo);
    Ok(vec![
        Case::theirs("tr_stack", Alone::of(stack()?)?),
        Case::theirs("tr_shared_breaker", Shared::of(&breaker, threads)?),
        Case::theirs("tr_shared_stack", Shared::of(&stack()?, threads)?),
    ])
}
