//! The contract that every layer passes.

use std::time::Duration;

use toolweir_core::{ErrIsFailure, Facts};
use toolweir_token_freshness::{TokenFreshnessConfig, TokenFreshnessLayer, TokenLife, refresh_fn};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn it_holds() {
    toolweir_contract::check(|| {
        let source = refresh_fn(|| async { Ok(TokenLife::ENDLESS) });
        TokenFreshnessLayer::new(TokenFreshnessConfig::default(), source)
    })
    .await;
}

#[derive(Clone)]
struct NeedsMinutes;

impl<Req> Facts<Req> for NeedsMinutes {
    fn min_ttl(&self, _: &Req) -> Option<Duration> {
        Some(Duration::from_secs(600))
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_for_calls_with_demands_and_a_token_that_expires() {
    toolweir_contract::check(|| {
        // The contract moves the clock by hours, if it must, but no call of it waits so long.
        let source = refresh_fn(|| async { Ok(TokenLife::of(1000 * HOUR)) });
        TokenFreshnessLayer::new(TokenFreshnessConfig::default(), source)
            .name("music")
            .with_classifier(ErrIsFailure)
            .with_facts(NeedsMinutes)
    })
    .await;
}
