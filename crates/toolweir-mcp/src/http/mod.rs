//! Servers over streamable HTTP.

mod client;
mod config;
mod events;
mod outcome;
mod post;
mod url;

pub(crate) use client::HttpClient;
pub(crate) use config::Endpoint;
pub use config::{BearerToken, HttpServer};
pub(crate) use outcome::{
    is_session_lost, of_handshake, of_service_error, of_transport, source_of, told,
};
