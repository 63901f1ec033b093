//! tower-resilience, with the same thresholds as ours.

use std::time::Duration;

use anyhow::Result;
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::{
    CircuitBreakerConfigBuilder, CircuitBreakerLayer, SlidingWindowType,
};
use tower_resilience_ratelimiter::RateLimiterLayer;

use super::super::cases::limits::{
    BURST, MAX_WAIT, MINIMUM_CALLS, OPEN, PERMITS, QUOTA, SLOW, WINDOW_CALLS, WINDOW_TIME,
};

/// The last hundred calls, or so it says; a rate of half; slow calls looked for.
pub(crate) fn breaker() -> CircuitBreakerConfigBuilder {
    CircuitBreakerLayer::builder()
        .sliding_window_size(WINDOW_CALLS)
        .minimum_number_of_calls(MINIMUM_CALLS)
        .failure_rate_threshold(0.5)
        .slow_call_duration_threshold(SLOW)
        .slow_call_rate_threshold(1.0)
        .wait_duration_in_open(OPEN)
}

/// The calls of the last minute.
pub(crate) fn time_window() -> CircuitBreakerConfigBuilder {
    breaker()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(WINDOW_TIME)
}

/// A call waits for a permit, but not for ever.
pub(crate) fn bulkhead() -> Result<BulkheadLayer> {
    let layer = BulkheadLayer::builder()
        .max_concurrent_calls(PERMITS)
        .max_wait_duration(MAX_WAIT);
    Ok(layer.build()?)
}

/// Its token bucket, which is what governor is too.
pub(crate) fn rate_limiter() -> Result<RateLimiterLayer> {
    let layer = RateLimiterLayer::builder()
        .limit_for_period(usize::try_from(QUOTA)?)
        .refresh_period(Duration::from_secs(1))
        .burst_size(usize::try_from(BURST)?)
        .timeout_duration(MAX_WAIT);
    Ok(layer.build()?)
}
