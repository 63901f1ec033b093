#![doc = include_str!("../README.md")]

pub mod mcp;
#[cfg(unix)]
pub mod temporal;
