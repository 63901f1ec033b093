#![doc = include_str!("../README.md")]

mod call;
mod classify;
mod config;
mod connection;
mod error;
mod handle;
mod hints;
mod hostile;
mod registry;
mod response;
mod service;
#[cfg(any(feature = "token-freshness", feature = "warm-up"))]
mod side;

pub use call::{ArgumentsError, IDEMPOTENCY_KEY_META, PRINCIPAL_META, ToolCall, ToolFacts};
pub use classify::{McpClassifier, TextRules};
pub use config::{McpServiceBuilder, StdioServer};
pub use connection::{ConnectError, Connecting};
pub use error::ToolError;
pub use handle::{McpHandle, McpState};
pub use hints::{ToolHints, may_repeat};
pub use registry::{
    Entry, RegistryError, ServerRegistry, ServerRegistryBuilder, ToolService, UnknownServer,
};
pub use response::{DecodeError, ToolResponse};
pub use service::{McpService, ResponseFuture};
#[cfg(feature = "warm-up")]
pub use side::{Connect, FirstCall};
#[cfg(feature = "token-freshness")]
pub use side::{TokenTools, ToolTokenSource};
