#![doc = include_str!("../README.md")]

mod config;
mod flight;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod state;
mod step;

pub use config::{WarmUpConfig, WarmUpConfigBuilder};
pub use future::ResponseFuture;
pub use handle::{WarmUpHandle, WarmUpState, Warmth};
pub use layer::{WarmUpLayer, WarmUpLayerBuilder};
pub use service::WarmedUp;
pub use step::{StepFn, step_fn};
pub use toolweir_core::WarmUp;
