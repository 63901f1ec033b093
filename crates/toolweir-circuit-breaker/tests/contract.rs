//! The contract of all layers, for the whole breaker, its halves together, and each alone.

use toolweir_circuit_breaker::{CircuitBreakerConfig, CircuitBreakerLayer};
use tower_layer::Stack;

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new(CircuitBreakerConfig::default()).name("music")
}

#[tokio::test(start_paused = true)]
async fn the_whole_breaker() {
    toolweir_contract::check(breaker).await;
}

#[tokio::test(start_paused = true)]
async fn the_two_halves() {
    let halves = || {
        let breaker = breaker();
        Stack::new(breaker.observation(), breaker.admission())
    };
    toolweir_contract::check(halves).await;
}

#[tokio::test(start_paused = true)]
async fn admission_alone() {
    toolweir_contract::check(|| breaker().admission()).await;
}

#[tokio::test(start_paused = true)]
async fn observation_alone() {
    toolweir_contract::check(|| breaker().observation()).await;
}

#[tokio::test(start_paused = true)]
async fn slow_calls_on_the_clock() {
    let timed = || {
        let config = CircuitBreakerConfig::builder()
            .slow_call_duration_threshold(std::time::Duration::from_secs(10))
            .build()
            .unwrap();
        CircuitBreakerLayer::new(config)
    };
    toolweir_contract::check(timed).await;
}
