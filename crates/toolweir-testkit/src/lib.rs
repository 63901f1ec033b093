#![doc = include_str!("../README.md")]

pub mod mcp;
#[cfg(all(unix, feature = "temporal"))]
pub mod temporal;
