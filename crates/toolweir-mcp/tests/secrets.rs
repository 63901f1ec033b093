//! No secret in a server's URL reaches a log, whatever fails: rmcp's own log neither.

#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    io::{self, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use toolweir_core::error_text;
use toolweir_mcp::{HttpServer, McpService, ToolCall, ToolError};
use toolweir_testkit::mcp::ScriptedServer;
use tower::ServiceExt as _;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// All that is logged on this thread while the guard lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn holds(&self, words: &str) {
        let told = async {
            while !self.text().contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(60), told).await;
        assert!(told.is_ok(), "{words:?} is not in\n{}", self.text());
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

const SECRETS: [&str; 3] = ["swordfish", "hunter2", "anna"];

fn assert_silent(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
}

fn shown(error: &ToolError) -> String {
    format!("{error} {error:?} {}", error_text(error))
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_refused_connection_tells_neither_who_nor_with_what() {
    let (log, _guard) = Log::begin();
    let address = nobody();
    let named = format!("http://anna:hunter2@{address}/mcp?token=swordfish");
    let refused = McpService::builder("music").http(HttpServer::new(named));
    assert_silent(&refused.build().unwrap_err().to_string());

    let url = format!("http://{address}/mcp?token=swordfish");
    let mcp = McpService::builder("music").http(HttpServer::new(url));
    let call = mcp.build().unwrap().oneshot(ToolCall::new("echo"));
    let error = call.await.unwrap_err();
    assert!(shown(&error).contains(&address), "{error}");
    assert_silent(&shown(&error));
    // By rmcp, and by this crate.
    let text = log.text();
    assert!(text.contains("worker quit with fatal"), "{text}");
    assert!(text.contains("no connection to the MCP server"), "{text}");
    assert_silent(&text);
}

#[tokio::test]
async fn a_server_that_goes_away_under_its_streams_tells_nothing_either() {
    let (log, _guard) = Log::begin();
    let server = ScriptedServer::new();
    let http = server.serve_http().unwrap();
    let url = format!("{}?token=swordfish", http.url());
    let mcp = McpService::builder("music").http(HttpServer::new(url));
    let mcp = mcp.build().unwrap();
    mcp.clone().oneshot(ToolCall::new("echo")).await.unwrap();
    http.stop().await;
    let error = mcp.clone().oneshot(ToolCall::new("echo")).await;
    assert_silent(&shown(&error.unwrap_err()));
    log.holds("retry sse stream error").await;
    mcp.handle().shutdown(Duration::from_secs(1)).await;
    assert_silent(&log.text());
}

/// rmcp's own transport, which a factory may bring, logs on its own; what is told by this crate is silent.
#[tokio::test]
async fn what_fails_on_a_transport_of_rmcps_is_told_without_its_secrets() {
    use rmcp::transport::StreamableHttpClientTransport;

    let url = format!("http://anna:hunter2@{}/mcp?token=swordfish", nobody());
    let mcp = McpService::builder("music").transport(move || {
        let transport = StreamableHttpClientTransport::from_uri(url.clone());
        async move { Ok(transport) }
    });
    let call = mcp.build().unwrap().oneshot(ToolCall::new("echo"));
    assert_silent(&shown(&call.await.unwrap_err()));
}
