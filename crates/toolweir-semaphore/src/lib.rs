#![doc = include_str!("../README.md")]

mod config;
mod estimate;
mod future;
mod gate;
mod handle;
mod keys;
mod layer;
mod limit;
mod queue;
mod refusal;
mod service;
mod shared;
mod state;
mod sync;

pub use config::{SemaphoreConfig, SemaphoreConfigBuilder};
pub use future::ResponseFuture;
pub use handle::{SemaphoreHandle, SemaphoreKeyState, SemaphoreState};
pub use layer::SemaphoreLayer;
pub use service::Semaphore;
