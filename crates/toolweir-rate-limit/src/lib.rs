#![doc = include_str!("../README.md")]

mod bookings;
mod bucket;
mod config;
mod future;
mod handle;
mod layer;
mod learner;
mod limiters;
mod refunds;
mod refusal;
mod scope;
mod service;
mod shared;
mod state;
mod sync;

pub use config::{RateLimitConfig, RateLimitConfigBuilder};
pub use future::ResponseFuture;
pub use handle::{PausedBy, RateLimitHandle, RateLimitState};
pub use layer::RateLimitLayer;
pub use service::RateLimit;
pub use toolweir_core::keys::KeyFigures;
