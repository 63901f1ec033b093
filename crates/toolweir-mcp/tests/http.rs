//! A server over streamable HTTP: tokens, clients, connections, sessions.

#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use serde_json::json;
use tokio::task::{JoinSet, yield_now};
use toolweir_core::{AsRejection as _, Delivery, Outcome, Reason, Rejection};
use toolweir_mcp::{
    BearerToken, HttpServer, McpService, McpServiceBuilder, ToolCall, ToolError, ToolResponse,
};
use toolweir_testkit::mcp::{HttpFault, HttpScriptedServer, Posts, ScriptedServer};
use tower::ServiceExt as _;

fn served() -> (ScriptedServer, HttpScriptedServer) {
    let server = ScriptedServer::new();
    let http = server.serve_http().unwrap();
    (server, http)
}

fn builder(server: HttpServer) -> McpServiceBuilder {
    McpService::builder("music").http(server)
}

fn service(server: HttpServer) -> McpService {
    builder(server).build().unwrap()
}

async fn call(mcp: &McpService, tool: &'static str) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(ToolCall::new(tool)).await
}

#[tokio::test]
async fn a_call_goes_there_and_back() {
    let (server, http) = served();
    let mcp = service(HttpServer::new(http.url()));
    let echo = ToolCall::new("echo")
        .try_arguments(&json!({ "title": "Jóga" }))
        .unwrap()
        .with_idempotency_key("k");
    let answer = mcp.clone().oneshot(echo).await.unwrap();
    assert_eq!(answer.structured().unwrap(), &json!({ "title": "Jóga" }));
    assert!(mcp.handle().hints("echo").is_repeatable());
    mcp.handle().ping().await.unwrap();
    assert_eq!(server.stats().initializes, 1);
}

#[tokio::test]
async fn a_token_can_be_replaced_in_use() {
    let (_server, http) = served();
    http.require_bearer("old");
    let token = BearerToken::new("old");
    let mcp = service(HttpServer::new(http.url()).bearer(token.clone()));
    call(&mcp, "echo").await.unwrap();
    http.require_bearer("new");
    let error = call(&mcp, "echo").await.unwrap_err();
    assert_eq!(error.observation().outcome, Outcome::Unauthorized);
    assert_eq!(error.observation().delivery, Delivery::NotSent);
    token.set("new");
    call(&mcp, "echo").await.unwrap();
    assert_eq!(http.last_bearer().as_deref(), Some("new"));
    assert_eq!(mcp.handle().state().starts, 1);
}

#[tokio::test]
async fn a_failed_handshake_says_why_and_names_no_type_of_rmcp() {
    let (_server, http) = served();
    http.require_bearer("right");
    let wrong = HttpServer::new(http.url()).bearer(BearerToken::new("wrong"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", nobody.local_addr().unwrap());
    drop(nobody);
    for (server, expected) in [
        (wrong, "HTTP 401, it wants a credential"),
        (
            HttpServer::new(http.url()),
            "HTTP 401, it wants a credential",
        ),
        (HttpServer::new(url), "Connection refused"),
    ] {
        let error = call(&service(server), "echo").await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, ToolError::Unavailable { .. }), "{said}");
        assert!(said.contains(expected), "{said}");
        for name in ["rmcp::", "Transport [", "HttpClient"] {
            assert!(!said.contains(name), "{said}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_is_throttled_is_tried_again_when_the_server_said() {
    for status in [429, 503] {
        let (_server, http) = served();
        http.fault(
            Posts::all(),
            HttpFault::status(status).with_retry_after("60"),
        );
        let mcp = service(HttpServer::new(http.url()));
        for _ in 0..3 {
            let error = call(&mcp, "echo").await.unwrap_err();
            let ToolError::Unavailable {
                retry_after: Some(wait),
                ..
            } = error
            else {
                panic!("there is no connection: {error:?}");
            };
            // Less what this has taken by now.
            assert!(wait > Duration::from_secs(30), "{wait:?}");
            assert!(wait < Duration::from_secs(61), "{wait:?}");
            let outcome = error.observation().outcome;
            assert!(matches!(outcome, Outcome::Throttled { .. }), "{outcome:?}");
        }
        assert_eq!(http.faults(), 1);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_token_says_so_at_once() {
    let (_server, http) = served();
    http.require_bearer("secret");
    let mcp = service(HttpServer::new(http.url()));
    let error = call(&mcp, "echo").await.unwrap_err();
    assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");
    assert_eq!(error.observation().outcome, Outcome::Unauthorized);
}

#[cfg(feature = "oauth")]
#[tokio::test]
async fn rmcps_oauth_client_brings_the_token() {
    use rmcp::transport::auth::{
        AuthClient, AuthorizationManager, CredentialStore as _, InMemoryCredentialStore,
        StoredCredentials,
    };

    let (_server, http) = served();
    http.require_bearer("granted");
    let token = json!({ "access_token": "granted", "token_type": "bearer" });
    let credentials = json!({ "client_id": "worker", "token_response": token });
    let credentials: StoredCredentials = serde_json::from_value(credentials).unwrap();
    let store = InMemoryCredentialStore::new();
    store.save(credentials).await.unwrap();
    let mut manager = AuthorizationManager::new(http.url()).await.unwrap();
    manager.set_credential_store(store);
    let client = AuthClient::new(reqwest::Client::new(), manager);

    let mcp = service(HttpServer::new(http.url()).oauth(client));
    call(&mcp, "echo").await.unwrap();
    assert_eq!(http.last_bearer().as_deref(), Some("granted"));
}

#[tokio::test]
async fn no_error_shows_what_a_url_holds() {
    let (_server, http) = served();
    let mcp = service(HttpServer::new(format!("{}?key=hunter2", http.url())));
    call(&mcp, "echo").await.unwrap();
    http.stop().await;
    let lost = call(&mcp, "echo").await.unwrap_err();
    mcp.handle().restart(Duration::from_secs(1)).await;
    let unavailable = call(&mcp, "echo").await.unwrap_err();
    assert!(matches!(unavailable, ToolError::Unavailable { .. }));
    for error in [lost, unavailable] {
        let shown = format!("{error} {error:?} {}", toolweir_core::error_text(&error));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let state = serde_json::to_string(&mcp.handle().state()).unwrap();
    assert!(!state.contains("hunter2"), "{state}");
}

#[tokio::test]
async fn a_client_of_ones_own_is_used() {
    let (server, http) = served();
    let headers = [("authorization", "Bearer of-the-client")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let client = reqwest::Client::builder().default_headers(headers.into_iter().collect());
    let mcp = service(HttpServer::new(http.url()).client(client.build().unwrap()));
    call(&mcp, "echo").await.unwrap();
    assert_eq!(http.last_bearer().as_deref(), Some("of-the-client"));
    assert_eq!(server.stats().calls_of("echo"), 1);
}

#[tokio::test]
async fn each_request_has_a_connection_unless_they_are_kept() {
    let (_server, http) = served();
    let apart = service(HttpServer::new(http.url()));
    apart.handle().connect().await.unwrap();
    let before = http.connections();
    for _ in 0..5 {
        call(&apart, "echo").await.unwrap();
    }
    assert_eq!(http.connections() - before, 5);

    let kept = HttpServer::new(http.url()).keep_alive(Duration::from_secs(60));
    let kept = service(kept);
    kept.handle().connect().await.unwrap();
    call(&kept, "echo").await.unwrap();
    let before = http.connections();
    for _ in 0..5 {
        call(&kept, "echo").await.unwrap();
    }
    assert_eq!(http.connections(), before);
}

#[tokio::test]
async fn no_more_requests_are_on_their_way_than_are_allowed() {
    let (_server, http) = served();
    let few = service(HttpServer::new(http.url()).max_concurrent_requests(2));
    few.handle().connect().await.unwrap();
    let other = service(HttpServer::new(http.url()));
    // They are read, and then nothing comes: no answer has begun.
    http.fault(Posts::calls(), HttpFault::Hang);
    let mut calls = JoinSet::new();
    let call_on = |mcp: &McpService| {
        let mcp = mcp.clone();
        async move { call(&mcp, "echo").await.is_ok() }
    };
    let first = calls.spawn(call_on(&few));
    for _ in 1..5 {
        calls.spawn(call_on(&few));
    }
    for expected in [2, 3] {
        while http.faults() < expected {
            yield_now().await;
        }
        // What was sent meanwhile would have come before the last of these.
        for _ in 0..10 {
            other.handle().ping().await.unwrap();
        }
        assert_eq!(http.faults(), expected);
        // Whoever gives up makes room.
        first.abort();
    }
}

#[tokio::test]
async fn an_answer_over_the_limit_ends_its_call_alone() {
    let (_server, http) = served();
    let mcp = builder(HttpServer::new(http.url())).max_response_bytes(20_000);
    let mcp = mcp.build().unwrap();
    let long = ToolCall::new("echo").try_arguments(&json!({ "text": "x".repeat(30_000) }));
    let error = mcp.clone().oneshot(long.unwrap()).await.unwrap_err();
    assert!(matches!(error, ToolError::TooLarge { .. }), "{error}");
    assert_eq!(error.observation().delivery, Delivery::Executed);
    assert!(error.to_string().contains("20000"), "{error}");
    call(&mcp, "echo").await.unwrap();
    assert_eq!(mcp.handle().state().starts, 1);
}

#[tokio::test]
async fn a_server_that_comes_back_without_its_sessions_is_called_again() {
    let (server, http) = served();
    let mcp = service(HttpServer::new(http.url()));
    call(&mcp, "add").await.unwrap();
    http.stop().await;
    let error = call(&mcp, "echo").await.unwrap_err();
    assert_eq!(error.observation().delivery, Delivery::NotSent);
    http.start_again().unwrap();
    call(&mcp, "echo").await.unwrap();
    assert_eq!(mcp.handle().state().starts, 2);
    assert_eq!(server.stats().calls_of("echo"), 1, "nothing is done twice");
}

#[tokio::test]
async fn each_principal_has_a_session_and_a_token() {
    let (server, http) = served();
    let url = http.url();
    let mcp = McpService::builder("music").http_per_principal(10, move |user| {
        let token = BearerToken::new(format!("token-of-{user}"));
        Ok(HttpServer::new(url.clone()).bearer(token))
    });
    let mcp = mcp.build().unwrap();
    for user in ["anna", "bob"] {
        let call = ToolCall::new("echo").with_principal(user);
        mcp.clone().oneshot(call).await.unwrap();
        assert_eq!(http.last_bearer(), Some(format!("token-of-{user}")));
    }
    assert_eq!(server.stats().initializes, 2);
}

/// A server that lets anna in and nobody else, and one connection for all.
fn for_anna_alone() -> (ScriptedServer, HttpScriptedServer, McpService) {
    let (server, http) = served();
    http.require_bearer("token-of-anna");
    let url = http.url();
    let mcp = McpService::builder("music").http_per_principal(1, move |user| {
        let token = BearerToken::new(format!("token-of-{user}"));
        Ok(HttpServer::new(url.clone()).bearer(token))
    });
    (server, http, mcp.build().unwrap())
}

fn of(user: &str, tool: &'static str) -> ToolCall {
    ToolCall::new(tool).with_principal(user)
}

#[tokio::test]
async fn whom_the_server_does_not_let_in_costs_nobody_a_connection() {
    let (server, _http, mcp) = for_anna_alone();
    mcp.clone().oneshot(of("anna", "echo")).await.unwrap();
    let error = mcp.clone().oneshot(of("mallory", "echo")).await;
    let error = error.unwrap_err();
    assert_eq!(error.observation().outcome, Outcome::Unauthorized);
    mcp.clone().oneshot(of("anna", "echo")).await.unwrap();
    assert_eq!(server.stats().initializes, 1);
}

#[tokio::test]
async fn who_finds_all_connections_in_use_is_refused_before_the_server_is_asked() {
    let (server, http, mcp) = for_anna_alone();
    let busy = mcp.clone().oneshot(of("anna", "hang"));
    let busy = tokio::spawn(busy);
    server.wait_for(|stats| stats.calls_of("hang") == 1).await;
    let before = http.connections();
    let error = mcp.clone().oneshot(of("bob", "echo")).await.unwrap_err();
    let reason = error.as_rejection().map(Rejection::reason);
    assert_eq!(reason, Some(Reason::ConnectionsFull), "{error}");
    assert_eq!(http.connections(), before);
    busy.abort();
}

#[tokio::test]
async fn a_shutdown_closes_the_session() {
    let (_server, http) = served();
    let mcp = service(HttpServer::new(http.url()));
    call(&mcp, "echo").await.unwrap();
    mcp.handle().shutdown(Duration::from_secs(5)).await;
    let error = call(&mcp, "echo").await.unwrap_err();
    assert!(matches!(error, ToolError::Refused(_)), "{error}");
}

#[tokio::test]
async fn who_asks_for_a_sign_of_life_or_a_list_is_told_what_the_server_wants() {
    let (_server, http) = served();
    let mcp = service(HttpServer::new(http.url()));
    let handle = mcp.handle();
    handle.connect().await.unwrap();
    for status in [401, 403, 429] {
        http.clear_faults().fault(
            Posts::all(),
            HttpFault::status(status).with_retry_after("60"),
        );
        let expected = match status {
            429 => Outcome::Throttled {
                retry_after: Some(Duration::from_secs(60)),
            },
            _ => Outcome::Unauthorized,
        };
        let ping = handle.ping().await.unwrap_err();
        assert_eq!(ping.observation().outcome, expected, "{ping}");
        assert!(!ping.to_string().contains("rmcp::"), "{ping}");
        let list = handle.list_tools().await.unwrap_err();
        assert_eq!(list.observation().outcome, expected, "{list}");
    }
    assert_eq!(handle.state().starts, 1);
}
