#![doc = include_str!("../README.md")]

mod config;
mod flight;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod source;
mod state;

pub use config::{TokenFreshnessConfig, TokenFreshnessConfigBuilder};
pub use future::ResponseFuture;
pub use handle::{TokenFreshnessHandle, TokenFreshnessState, TokenStatus};
pub use layer::TokenFreshnessLayer;
pub use service::TokenFreshness;
pub use source::{RefreshFn, TokenError, TokenLife, TokenSource, refresh_fn};
