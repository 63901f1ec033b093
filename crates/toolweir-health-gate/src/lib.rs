#![doc = include_str!("../README.md")]

mod config;
mod flight;
mod future;
mod handle;
mod layer;
mod probe;
mod service;
mod shared;
mod state;

pub use config::{HealthGateConfig, HealthGateConfigBuilder, UnknownPolicy};
pub use future::ResponseFuture;
pub use handle::{HealthGateHandle, HealthGateState};
pub use layer::HealthGateLayer;
pub use probe::{Probe, ProbeFn, probe_fn};
pub use service::HealthGate;
