#![doc = include_str!("../README.md")]

// The SDK's macro makes items without docs and `Debug`.
#[allow(missing_docs, missing_debug_implementations)]
mod activities;
mod attempt;
mod call;
mod failure;
mod heartbeat;
mod preflight;

pub use activities::ToolActivities;
pub use toolweir_workflow::{CALL_TOOL, PREFLIGHT};
