//! Breakers.

mod dropped_probe;
mod half_open_time_window;
mod hanging_probe;
mod held_open;
mod hung_calls;
mod minimum_calls;
mod panics;
mod reset;
mod sliding_window;
mod stale_success;

use std::{iter, time::Duration};

use anyhow::Result;
use failsafe::{Config, FailurePolicy, failure_policy::consecutive_failures};
use recloser::Recloser;
use toolweir_circuit_breaker::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, CircuitBreakerHandle,
    CircuitBreakerLayer,
};
use tower::Layer as _;
use tower_resilience_circuitbreaker as tr;

use super::{
    Behaviour, NEVER, PASSED,
    server::Server,
    tool::{Tool, fail, pass},
};
use crate::layers::peers::{failsafe::Failsafe, recloser::Reclosed};

/// So many failed calls open each of them.
const TRIP: usize = 5;
/// How long ours stays open.
const OPEN: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Behaviour> {
    vec![
        sliding_window::behaviour(),
        minimum_calls::behaviour(),
        half_open_time_window::behaviour(),
        stale_success::behaviour(),
        hung_calls::behaviour(),
        dropped_probe::behaviour(),
        hanging_probe::behaviour(),
        panics::behaviour(),
        held_open::behaviour(),
        reset::behaviour(),
    ]
}

type Ours = CircuitBreaker<Server>;

/// Ours, which five failed calls open, and one successful probe closes.
fn thresholds() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .minimum_number_of_calls(TRIP)
        .failure_rate_threshold(50)
        .wait_duration_in_open_state(OPEN)
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
}

fn ours(config: CircuitBreakerConfigBuilder, server: &Server) -> Result<Ours> {
    Ok(with_handle(config, server)?.0)
}

fn with_handle(
    config: CircuitBreakerConfigBuilder,
    server: &Server,
) -> Result<(Ours, CircuitBreakerHandle)> {
    let layer = CircuitBreakerLayer::new(config.build()?);
    Ok((layer.layer(server.clone()), layer.handle()))
}

type TowerResilience = tr::CircuitBreaker<Server, tr::DefaultClassifier>;

/// tower-resilience's, which five failed calls open, and one successful probe closes; it admits one
/// as soon as it is open.
fn tower_resilience() -> tr::CircuitBreakerConfigBuilder {
    tr::CircuitBreakerLayer::builder()
        .sliding_window_size(TRIP)
        .minimum_number_of_calls(TRIP)
        .failure_rate_threshold(0.5)
        .wait_duration_in_open(PASSED)
        .permitted_calls_in_half_open(1)
}

fn build(config: tr::CircuitBreakerConfigBuilder, server: &Server) -> Result<TowerResilience> {
    Ok(config.build()?.layer(server.clone()))
}

/// failsafe's, which five failed calls open. It is half-open as soon as it is open for the first
/// time, and never for the second.
fn failsafe(server: &Server) -> Failsafe<Server, impl FailurePolicy + Send + Sync + 'static> {
    let waits = iter::once(PASSED).chain(iter::repeat(NEVER));
    let policy = consecutive_failures(5, waits);
    let breaker = Config::new().failure_policy(policy).build();
    Failsafe::new(server.clone(), breaker)
}

/// recloser's, the same: it decides with the first call after its ring is full.
fn recloser(server: &Server) -> Reclosed<Server> {
    let breaker = Recloser::custom()
        .error_rate(0.5)
        .closed_len(TRIP - 1)
        .half_open_len(1)
        .open_wait(PASSED)
        .open_wait_strategy(|_, _| NEVER)
        .build();
    Reclosed::new(server.clone(), breaker)
}

/// Opens a breaker, and waits until it would admit a probe.
async fn trip(tool: &impl Tool) {
    fail(tool, TRIP).await;
    pass(OPEN).await;
}
