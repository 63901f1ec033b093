#![doc = include_str!("../README.md")]

#[cfg(unix)]
mod install;
#[cfg(unix)]
pub mod installed;
pub mod mcp;
#[cfg(all(unix, feature = "temporal"))]
pub mod temporal;
