//! Our limits.

use anyhow::Result;
use toolweir_circuit_breaker::{
    CircuitBreakerConfig, CircuitBreakerConfigBuilder, CircuitBreakerLayer,
};
use toolweir_core::Facts;
use toolweir_rate_limit::{RateLimitConfig, RateLimitLayer};
use toolweir_semaphore::{SemaphoreConfig, SemaphoreLayer};
use tower::{Layer as _, ServiceBuilder};

use super::{
    Case,
    alone::Alone,
    limits::{
        BURST, KEY, MAX_WAIT, MINIMUM_CALLS, OPEN, PERMITS, QUOTA, SLOW, WINDOW_CALLS, WINDOW_TIME,
    },
    shared::Shared,
    window::Window,
};
use crate::layers::call::Echo;

/// Reads a key from each request.
#[derive(Debug, Clone, Copy)]
struct Keyed;

impl Facts<u64> for Keyed {
    fn key<'r>(&self, _: &'r u64) -> Option<&'r str> {
        Some(KEY)
    }
}

/// A rate of half; slow calls looked for.
fn thresholds() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .minimum_number_of_calls(MINIMUM_CALLS)
        .failure_rate_threshold(50)
        .slow_call_duration_threshold(SLOW)
        .slow_call_rate_threshold(100)
        .wait_duration_in_open_state(OPEN)
}

/// Looks at the last hundred calls.
fn breaker() -> Result<CircuitBreakerLayer> {
    let config = thresholds().sliding_window_size(WINDOW_CALLS);
    Ok(CircuitBreakerLayer::new(config.build()?).name("music"))
}

fn semaphore() -> Result<SemaphoreLayer> {
    let config = SemaphoreConfig::builder().permits(PERMITS);
    let config = config.max_wait(MAX_WAIT).build()?;
    Ok(SemaphoreLayer::new(config).name("music"))
}

fn rate_limit() -> Result<RateLimitLayer> {
    let config = RateLimitConfig::builder().calls_per_second(QUOTA);
    let config = config.burst(BURST).max_wait(MAX_WAIT).build()?;
    Ok(RateLimitLayer::new(config).name("music"))
}

pub(crate) fn breakers() -> Result<Vec<Case>> {
    let held = breaker()?;
    held.handle().hold_open("measured", None);
    let patient = CircuitBreakerConfig::builder().sliding_window_size(WINDOW_CALLS);
    let patient = CircuitBreakerLayer::new(patient.build()?).name("music");
    let by_key = breaker()?.with_facts(Keyed).by_key();
    let for_key = breaker()?.for_key(KEY);
    let time = thresholds().sliding_window_duration(WINDOW_TIME);
    let time = time.build()?;
    let of_time = |calls| {
        let config = time.clone();
        Window::with(calls, move || {
            CircuitBreakerLayer::new(config.clone()).layer(Echo)
        })
    };
    Ok(vec![
        Case::ours("breaker", Alone::of(breaker()?.layer(Echo))?),
        Case::ours("breaker_slow_off", Alone::of(patient.layer(Echo))?),
        Case::ours("breaker_for_key", Alone::of(for_key.layer(Echo))?),
        Case::ours("breaker_by_key", Alone::of(by_key.layer(Echo))?),
        Case::ours("breaker_open", Alone::tripped(breaker()?.layer(Echo))?),
        Case::ours("breaker_held_open", Alone::refusing(held.layer(Echo))?),
        Case::ours("breaker_time_100", of_time(100)?),
        Case::ours("breaker_time_10000", of_time(10_000)?),
    ])
}

pub(crate) fn semaphores() -> Result<Vec<Case>> {
    let by_key = semaphore()?.with_facts(Keyed).by_key();
    let for_key = semaphore()?.for_key(KEY);
    Ok(vec![
        Case::ours("semaphore", Alone::of(semaphore()?.layer(Echo))?),
        Case::ours("semaphore_for_key", Alone::of(for_key.layer(Echo))?),
        Case::ours("semaphore_by_key", Alone::of(by_key.layer(Echo))?),
    ])
}

pub(crate) fn rate_limits() -> Result<Vec<Case>> {
    let by_key = rate_limit()?.with_facts(Keyed).by_key();
    let for_key = rate_limit()?.for_key(KEY);
    Ok(vec![
        Case::ours("rate_limit_by_key", Alone::of(by_key.layer(Echo))?),
        Case::ours("rate_limit_for_key", Alone::of(for_key.layer(Echo))?),
        Case::ours("rate_limit", Alone::of(rate_limit()?.layer(Echo))?),
    ])
}

/// The three in one stack: refuse before waiting, wait for a slot before spending quota.
pub(crate) fn stacks(threads: usize) -> Result<Vec<Case>> {
    let stack = || -> Result<_> {
        let stack = ServiceBuilder::new()
            .layer(breaker()?)
            .layer(semaphore()?)
            .layer(rate_limit()?);
        Ok(stack.service(Echo))
    };
    let breaker = breaker()?.layer(Echo);
    Ok(vec![
        Case::ours("stack", Alone::of(stack()?)?),
        Case::ours("shared_breaker", Shared::of(&breaker, threads)?),
        Case::ours("shared_stack", Shared::of(&stack()?, threads)?),
    ])
}
