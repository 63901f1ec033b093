//! A scripted MCP server: it throttles, fails, hangs, dies, starts slowly and lets its token
//! expire on command, and counts what it saw.
//!
//! In memory it is a [`ScriptedServer`]: every [`connect`](ScriptedServer::connect) is a new
//! connection to the same script and the same counters. As a process it is [`stdio_main`] behind
//! command-line flags, found by a test with [`scripted_server_program`]. With the feature `http`,
//! `ScriptedServer::serve_http` puts it on a port as well.
//!
//! # Tools
//!
//! | tool | arguments | answer |
//! |---|---|---|
//! | `echo` | anything | the arguments; read-only |
//! | `meta` | none | the `_meta` of the call; read-only |
//! | `fail` | none | an error with a message and nothing else |
//! | `throttle` | `retry_after_ms` (1000) | an error: `{"status":429,"error":"rate_limited","retry_after_ms":N}` |
//! | `text_throttle` | none | an error with the text `429 Too Many Requests: retry after 3s` |
//! | `hang` | none | none, until the call is cancelled |
//! | `sleep` | `ms` | `{"slept_ms":N}`, after that time |
//! | `progress` | `steps`, `every_ms` | `{"steps":N,"reported":bool}`, with a progress notification a step |
//! | `error` | `code`, `message` | that JSON-RPC error |
//! | `big` | `bytes` | a text of so many letters; read-only |
//! | `die` | none | none: the connection drops, or the process exits with code 1 |
//! | `add` | `key` | `{"key":K,"applied":bool}`; the effect happens once per idempotency key |
//! | `guarded` | none | `{"generation":N}`, or an error `{"status":401,"error":"token_expired"}` |
//! | `token_status` | none | `{"valid":bool,"expires_in_ms":N}` |
//! | `refresh_token` | none | `{"expires_in_ms":N,"generation":N}`, or an error `{"error":"invalid_grant"}` |
//! | `stats` | none | the [`Stats`]; the call itself is not counted |
//!
//! "An error" is a result with `isError`; so are arguments that do not fit the tool. An unknown tool
//! is the JSON-RPC error -32602. The idempotency key is read from `_meta` under
//! [`IDEMPOTENCY_KEY_META`]; a call without one always has its effect. All time is tokio's, so a
//! paused clock drives an in-memory server.

mod answer;
mod arguments;
mod fault;
mod handler;
#[cfg(feature = "http")]
mod http;
mod link;
mod process;
mod refusal;
mod server;
mod state;
mod stats;
mod stdio;
mod token;
mod tools;

pub use answer::{Answer, ParseAnswerError};
pub use fault::Fault;
#[cfg(feature = "http")]
pub use http::{HttpBody, HttpFault, HttpScriptedServer, Posts};
pub use process::{example_program, scripted_server_program, stdio_main};
pub use server::ScriptedServer;
pub use stats::Stats;

/// Where in `_meta` a call carries its idempotency key.
pub const IDEMPOTENCY_KEY_META: &str = "toolweir/idempotency-key";
