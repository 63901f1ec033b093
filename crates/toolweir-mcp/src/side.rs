//! What other layers do with a server beside its calls: warm it up, and look after its token.

#[cfg(feature = "token-freshness")]
mod token;
#[cfg(feature = "warm-up")]
mod warm_up;

#[cfg(feature = "token-freshness")]
pub use token::{TokenTools, ToolTokenSource};
#[cfg(feature = "warm-up")]
pub use warm_up::{Connect, FirstCall};
