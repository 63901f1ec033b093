//! A connection for each principal, in memory.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::json;
use toolweir_core::{AsRejection as _, Reason, Rejection};
use toolweir_mcp::{McpService, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

/// A service that reaches a server of its own for each of these users.
fn service(most: usize, users: &[&str]) -> (McpService, HashMap<String, ScriptedServer>) {
    let servers = users.iter();
    let servers: HashMap<_, _> = servers
        .map(|user| ((*user).to_owned(), ScriptedServer::new()))
        .collect();
    let known = Arc::new(servers.clone());
    let mcp = McpService::builder("music").transport_per_principal(most, move |user| {
        let server = known.get(user).cloned();
        async move { Ok(server.ok_or("no such user")?.connect()) }
    });
    (mcp.send_principal(true).build().unwrap(), servers)
}

async fn call(mcp: &McpService, user: &str, tool: &'static str) -> Result<ToolResponse, ToolError> {
    let call = ToolCall::new(tool).with_principal(user);
    mcp.clone().oneshot(call).await
}

fn reason(result: Result<ToolResponse, ToolError>) -> Option<Reason> {
    let error = result.unwrap_err();
    error.as_rejection().map(Rejection::reason)
}

#[tokio::test(start_paused = true)]
async fn no_call_rides_on_anothers_connection() {
    let (mcp, servers) = service(2, &["anna", "bob"]);
    let both = (0..20).map(|number| {
        let user = if number % 2 == 0 { "anna" } else { "bob" };
        let call = ToolCall::new("meta").with_principal(user);
        (user, tokio::spawn(mcp.clone().oneshot(call)))
    });
    for (user, answer) in Vec::from_iter(both) {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(
            answer.structured().unwrap()["toolweir/principal"],
            json!(user)
        );
    }
    for server in servers.values() {
        assert_eq!(server.stats().connections, 1);
        assert_eq!(server.stats().calls_of("meta"), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_for_nobody_is_refused_for_good() {
    let (mcp, servers) = service(2, &["anna"]);
    let refused = mcp.clone().oneshot(ToolCall::new("echo")).await;
    assert_eq!(reason(refused), Some(Reason::NoPrincipal));
    assert!(Reason::NoPrincipal.is_terminal());
    assert_eq!(servers["anna"].stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_knows_is_unavailable_and_the_others_are_not() {
    let (mcp, _servers) = service(2, &["anna"]);
    let error = call(&mcp, "mallory", "echo").await.unwrap_err();
    assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");
    call(&mcp, "anna", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_connection_makes_room() {
    let (mcp, servers) = service(2, &["anna", "bob", "carl"]);
    for user in ["anna", "bob", "anna", "carl"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    let bobs = &servers["bob"];
    bobs.wait_for(|stats| stats.open_connections == 0).await;
    assert_eq!(servers["anna"].stats().open_connections, 1);
    assert_eq!(mcp.handle().states().len(), 2);

    call(&mcp, "bob", "echo").await.unwrap();
    assert_eq!(bobs.stats().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_makes_no_room() {
    let (mcp, servers) = service(1, &["anna", "bob"]);
    servers["anna"].script([Answer::Hang]);
    let annas = ToolCall::new("echo").with_principal("anna");
    let annas = tokio::spawn(mcp.clone().oneshot(annas));
    servers["anna"].wait_for(|stats| stats.calls == 1).await;
    assert_eq!(
        reason(call(&mcp, "bob", "echo").await),
        Some(Reason::ConnectionsFull)
    );
    annas.abort();
    assert!(annas.await.unwrap_err().is_cancelled());
    call(&mcp, "bob", "echo").await.unwrap();
    servers["anna"]
        .wait_for(|stats| stats.open_connections == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_principals_lost_connection_is_not_anothers() {
    let (mcp, servers) = service(2, &["anna", "bob"]);
    for user in ["anna", "bob"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    let anna = mcp.handle().for_principal("anna");
    servers["anna"].kill_connections();
    while anna.state().connected {
        tokio::task::yield_now().await;
    }
    assert!(mcp.handle().for_principal("bob").state().connected);
    call(&mcp, "anna", "echo").await.unwrap();
    assert_eq!(anna.state().starts, 2);
    assert_eq!(servers["bob"].stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_them_all() {
    let (mcp, servers) = service(3, &["anna", "bob"]);
    for user in ["anna", "bob"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    mcp.handle().shutdown(Duration::from_secs(1)).await;
    for server in servers.values() {
        server.wait_for(|stats| stats.open_connections == 0).await;
    }
    assert_eq!(
        reason(call(&mcp, "anna", "echo").await),
        Some(Reason::ShuttingDown)
    );
}

#[tokio::test(start_paused = true)]
async fn the_handle_on_all_pings_those_there_are_and_starts_none() {
    let (mcp, servers) = service(2, &["anna", "bob"]);
    mcp.handle().connect().await.unwrap();
    mcp.handle().ping().await.unwrap();
    assert_eq!(mcp.handle().states().len(), 0);
    call(&mcp, "anna", "echo").await.unwrap();
    mcp.handle().ping().await.unwrap();
    assert_eq!(servers["anna"].stats().pings, 1);
    assert_eq!(servers["bob"].stats().connections, 0);
}
