#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "stack")]
pub mod stack;

pub use toolweir_core as core;

#[cfg(feature = "circuit-breaker")]
pub use toolweir_circuit_breaker as circuit_breaker;
#[cfg(feature = "health-gate")]
pub use toolweir_health_gate as health_gate;
#[cfg(feature = "mcp")]
pub use toolweir_mcp as mcp;
#[cfg(feature = "rate-limit")]
pub use toolweir_rate_limit as rate_limit;
#[cfg(feature = "schedule")]
pub use toolweir_schedule as schedule;
#[cfg(feature = "semaphore")]
pub use toolweir_semaphore as semaphore;
#[cfg(feature = "temporal")]
pub use toolweir_temporal as temporal;
#[cfg(feature = "token-freshness")]
pub use toolweir_token_freshness as token_freshness;
#[cfg(feature = "warm-up")]
pub use toolweir_warm_up as warm_up;
#[cfg(feature = "workflow")]
pub use toolweir_workflow as workflow;
