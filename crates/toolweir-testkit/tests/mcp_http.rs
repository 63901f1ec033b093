//! The scripted server over streamable HTTP.
#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod mcp_client;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use mcp_client::{Client, call, connect, send};
use rmcp::service::{Peer, RoleClient, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use toolweir_testkit::mcp::{
    Answer, Fault, HttpBody, HttpFault, HttpScriptedServer, Posts, ScriptedServer,
};

/// Far beyond anything that is waited for; only a hang meets it.
const HANG: Duration = Duration::from_secs(60);

fn start() -> (ScriptedServer, HttpScriptedServer) {
    let server = ScriptedServer::new();
    let http = server.serve_http().unwrap();
    (server, http)
}

/// A client that does not begin anew by itself, and does not ask again and again for an answer whose
/// stream has ended.
async fn client_with(http: &HttpScriptedServer, token: &str) -> Client {
    let mut to = StreamableHttpClientTransportConfig::with_uri(http.url())
        .auth_header(token)
        .reinit_on_expired_session(false);
    to.retry_config = Arc::new(NeverRetry::default());
    let transport = StreamableHttpClientTransport::from_config(to);
    timeout(HANG, connect(transport)).await.unwrap().unwrap()
}

async fn client(http: &HttpScriptedServer) -> Client {
    client_with(http, "any").await
}

/// What came back before the connection ended, and how it ended.
#[derive(Debug)]
struct Raw {
    text: String,
    end: Result<(), ErrorKind>,
}

impl Raw {
    fn status(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }
}

async fn tcp(http: &HttpScriptedServer) -> std::io::Result<TcpStream> {
    let address = http.url();
    let address = address
        .strip_prefix("http://")
        .and_then(|url| url.strip_suffix("/mcp"))
        .unwrap();
    TcpStream::connect(address).await
}

async fn post(http: &HttpScriptedServer, headers: &str, body: &Value) -> Raw {
    let mut stream = tcp(http).await.unwrap();
    let body = body.to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = timeout(HANG, stream.read_to_end(&mut bytes)).await.unwrap();
    Raw {
        text: String::from_utf8(bytes).unwrap().to_lowercase(),
        end: end.map(drop).map_err(|error| error.kind()),
    }
}

fn message(method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": {} })
}

fn spawn(peer: &Peer<RoleClient>, tool: &'static str) -> JoinHandle<Result<(), ServiceError>> {
    let peer = peer.clone();
    tokio::spawn(async move { send(&peer, tool, json!({})).await.map(drop) })
}

#[tokio::test]
async fn tools_answer_as_they_do_elsewhere() {
    let (server, http) = start();
    let client = client(&http).await;
    let echoed = call(&client, "echo", json!({ "a": 1 })).await;
    assert_eq!(echoed.content, Some(json!({ "a": 1 })));
    let ten = (0..10).map(|n| {
        let peer = client.peer().clone();
        tokio::spawn(async move { call(&peer, "echo", json!({ "n": n })).await.content })
    });
    for (n, echo) in ten.enumerate() {
        assert_eq!(echo.await.unwrap(), Some(json!({ "n": n })));
    }
    let stats = server.stats();
    assert_eq!((stats.initializes, stats.calls_of("echo")), (1, 11));
    assert_eq!(stats.connections, http.connections());
    assert!(http.connections() > 11, "a connection each");
    client.cancel().await.unwrap();
    let ended = server.wait_for(|stats| stats.open_connections == 0);
    timeout(HANG, ended).await.unwrap();
}

#[tokio::test]
async fn a_call_goes_on_without_its_tcp_connection_and_ends_with_its_session() {
    let (server, http) = start();
    let client = client(&http).await;
    let _hangs = spawn(&client, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    http.reset_connections();
    call(&client, "echo", json!({})).await;
    assert_eq!(server.stats().in_flight, 1);
    http.forget_sessions();
    let ended = server.wait_for(|stats| stats.in_flight == 0);
    timeout(HANG, ended).await.unwrap();
    let lost = timeout(HANG, send(&client, "echo", json!({})));
    lost.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_server_that_is_down_refuses_and_comes_back_on_its_port() {
    let (server, http) = start();
    let client = client(&http).await;
    let hangs = spawn(&client, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    let url = http.url();
    http.stop().await;
    let refused = tcp(&http).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    timeout(HANG, hangs).await.unwrap().unwrap().unwrap_err();
    let ended = server.wait_for(|stats| stats.in_flight + stats.open_connections == 0);
    timeout(HANG, ended).await.unwrap();
    http.start_again().unwrap();
    assert_eq!(http.url(), url);
    let again = client_with(&http, "any").await;
    call(&again, "echo", json!({})).await;
    assert_eq!(server.stats().initializes, 2);
}

#[tokio::test]
async fn a_drop_leaves_nothing() {
    let (server, http) = start();
    let client = client(&http).await;
    let _hangs = spawn(&client, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    drop(http);
    let ended = server.wait_for(|stats| stats.in_flight + stats.open_connections == 0);
    timeout(HANG, ended).await.unwrap();
}

#[tokio::test]
async fn to_die_is_to_lose_all_sessions() {
    let (server, http) = start();
    let client = client(&http).await;
    server.script([Answer::Die]);
    let died = timeout(HANG, send(&client, "echo", json!({}))).await;
    died.unwrap().unwrap_err();
    assert!(
        timeout(HANG, send(&client, "echo", json!({})))
            .await
            .unwrap()
            .is_err()
    );
    let again = client_with(&http, "any").await;
    call(&again, "echo", json!({})).await;
    assert_eq!(server.stats().in_flight, 0);
}

#[tokio::test]
async fn a_fault_is_answered_in_place_of_the_server() {
    let (server, http) = start();
    let busy = HttpFault::status(429)
        .with_retry_after("3")
        .with_www_authenticate("Bearer");
    http.fault(Posts::next(1), busy);
    let answer = post(&http, "", &message("ping")).await;
    assert_eq!((answer.status(), http.faults()), ("429", 1));
    assert!(
        answer.text.contains("\r\nretry-after: 3\r\n"),
        "{}",
        answer.text
    );
    assert!(answer.text.contains("\r\nwww-authenticate: bearer\r\n"));

    let broken = HttpFault::status(503).with_body(HttpBody::JsonRpcError { code: -32000 });
    http.fault(Posts::next_calls(1), broken);
    // Not a call, and no session: the server behind says so.
    let passed = post(&http, "", &message("ping")).await;
    assert_eq!((passed.status(), http.faults()), ("400", 1));
    let answer = post(&http, "", &message("tools/call")).await;
    assert_eq!(answer.status(), "503");
    assert!(answer.text.contains("\"code\":-32000"), "{}", answer.text);
    assert!(answer.text.contains("\"id\":7"), "{}", answer.text);
    assert_eq!(server.stats().calls, 0);

    http.fault(
        Posts::all(),
        HttpFault::status(500).with_body(HttpBody::Empty),
    );
    for _ in 0..3 {
        assert_eq!(post(&http, "", &message("ping")).await.status(), "500");
    }
    http.clear_faults();
    assert_eq!(post(&http, "", &message("ping")).await.status(), "400");
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let (_server, http) = start();
    http.fault(Posts::next(1), HttpFault::Reset);
    let answer = post(&http, "", &message("ping")).await;
    assert_eq!(answer.text, "");
    assert_eq!(answer.end, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_hang_lasts_until_the_client_goes() {
    let (server, http) = start();
    http.fault(Posts::all(), HttpFault::Hang);
    let hangs = tokio::spawn(async move {
        post(&http, "", &message("ping")).await;
    });
    server.wait_for(|stats| stats.open_connections == 1).await;
    assert!(!hangs.is_finished());
    hangs.abort();
    let ended = server.wait_for(|stats| stats.open_connections == 0);
    timeout(HANG, ended).await.unwrap();
}

#[tokio::test]
async fn a_session_may_be_gone() {
    let (server, http) = start();
    let client = client(&http).await;
    http.fault(Posts::next_calls(1), HttpFault::SessionGone);
    let gone = timeout(HANG, send(&client, "echo", json!({}))).await;
    let error = gone.unwrap().unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("SessionExpired"), "{text}");
    assert_eq!(server.stats().calls, 0);
}

#[tokio::test]
async fn only_the_right_token_comes_in() {
    let (_server, http) = start();
    http.require_bearer("old");
    assert_eq!(http.last_bearer(), None);
    let client = client_with(&http, "old").await;
    call(&client, "echo", json!({})).await;
    assert_eq!(http.last_bearer().as_deref(), Some("old"));
    http.require_bearer("new");
    let refused = timeout(HANG, send(&client, "echo", json!({}))).await;
    refused.unwrap().unwrap_err();
    let answer = post(&http, "authorization: Bearer wrong\r\n", &message("ping")).await;
    assert_eq!(answer.status(), "401");
    assert!(answer.text.contains("\r\nwww-authenticate: bearer"));
    assert_eq!(http.last_bearer().as_deref(), Some("wrong"));
    let again = client_with(&http, "new").await;
    call(&again, "echo", json!({})).await;
}

#[tokio::test]
async fn a_fault_of_streams_is_refused_where_there_is_none() {
    let (server, http) = start();
    let client = client(&http).await;
    server.script([Answer::Fault(Fault::Half)]);
    let error = send(&client, "echo", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("one of streams"), "{error}");
}
