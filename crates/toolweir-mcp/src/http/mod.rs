//! Servers over streamable HTTP.

mod client;
mod config;

pub(crate) use client::HttpClient;
pub(crate) use config::Endpoint;
pub use config::{BearerToken, HttpServer};
