#![doc = include_str!("../README.md")]

mod circuits;
mod config;
mod dispatched;
mod events;
mod future;
mod handle;
mod layer;
mod probes;
mod refusal;
mod service;
mod shared;
mod state;
mod sync;
mod window;

pub use config::{CircuitBreakerConfig, CircuitBreakerConfigBuilder, OnThrottled};
pub use events::{Cause, Circuit, Transition, Transitions};
pub use future::{AdmissionFuture, ResponseFuture};
pub use handle::{CircuitBreakerHandle, CircuitBreakerState, ProbeFigures, WindowFigures};
pub use layer::{AdmissionLayer, CircuitBreakerLayer, ObservationLayer};
pub use service::{Admission, CircuitBreaker, Observer};
pub use toolweir_core::keys::KeyFigures;
