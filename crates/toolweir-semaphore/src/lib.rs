#![doc = include_str!("../README.md")]

mod config;
mod future;
mod handle;
mod layer;
mod service;
mod shared;
mod state;

pub use config::{SemaphoreConfig, SemaphoreConfigBuilder};
pub use future::ResponseFuture;
pub use handle::{SemaphoreHandle, SemaphoreState};
pub use layer::SemaphoreLayer;
pub use service::Semaphore;
