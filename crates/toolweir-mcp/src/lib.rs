#![doc = include_str!("../README.md")]

mod call;
mod classify;
mod config;
mod connection;
mod error;
mod handle;
mod hints;
mod hostile;
#[cfg(feature = "http")]
mod http;
mod message;
mod progress;
mod registry;
mod request;
mod response;
mod service;
#[cfg(any(feature = "token-freshness", feature = "warm-up"))]
mod side;

pub use call::{ArgumentsError, ByTool, IDEMPOTENCY_KEY_META, PRINCIPAL_META, ToolCall, ToolFacts};
pub use classify::{Answer, McpClassifier, McpLiveness, TextRules};
pub use config::{McpServiceBuilder, StdioServer};
pub use connection::{ConnectError, Connecting};
pub use error::ToolError;
pub use handle::{McpHandle, McpState};
pub use hints::{ToolHints, may_repeat};
#[cfg(feature = "http")]
pub use http::{BearerToken, HttpServer};
pub use progress::Progress;
pub use registry::{
    Entry, RegistryError, ServerRegistry, ServerRegistryBuilder, ToolService, UnknownServer,
};
pub use response::{DecodeError, ToolResponse};
pub use service::{McpService, ResponseFuture};
#[cfg(feature = "warm-up")]
pub use side::{Connect, FirstCall};
#[cfg(feature = "token-freshness")]
pub use side::{TokenTools, ToolTokenSource};
