#![doc = include_str!("../README.md")]

mod batch;
mod client;
mod error;
mod failure;
mod patience;
mod payload;

pub use batch::{Batch, batch};
pub use client::{Readiness, ToolClient, ToolRequest};
pub use error::CallError;
pub use failure::{FailureDetails, FailureKind};
pub use payload::{
    CALL_TOOL, CallProgress, CallTool, CallToolInput, CallToolOutput, Check, PREFLIGHT, Preflight,
    PreflightInput, PreflightReport,
};
