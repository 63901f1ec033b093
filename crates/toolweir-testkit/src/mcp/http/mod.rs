//! The scripted server over streamable HTTP, and the faults of HTTP.

mod fault;
mod front;
mod server;
mod tcp;

pub use fault::{HttpBody, HttpFault, Posts};
pub use server::HttpScriptedServer;
pub(super) use server::Shared;
