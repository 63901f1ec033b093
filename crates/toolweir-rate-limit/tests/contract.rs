//! The contract of all layers.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use toolweir_rate_limit::{RateLimitConfig, RateLimitLayer};

fn limit(burst: u32) -> RateLimitLayer {
    let config = RateLimitConfig::builder()
        .calls_per_second(100)
        .burst(burst);
    RateLimitLayer::new(config.build().unwrap()).name("music")
}

#[tokio::test(start_paused = true)]
async fn with_a_quota_for_all_of_it() {
    toolweir_contract::check(|| limit(1000)).await;
}
