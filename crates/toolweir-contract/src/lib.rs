#![doc = include_str!("../README.md")]

mod check;
mod over_mock;
mod over_ready;
mod ready;
mod request;

pub use check::{Layered, check};
pub use ready::{Always, Answer};
pub use request::{Request, Response};

/// The inner service whose readiness and answers the contract scripts step by step.
pub type Mock = tower_test::mock::Mock<Request, Response>;
