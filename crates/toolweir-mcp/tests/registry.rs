//! Several servers, ended together.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use tokio::time::Instant;
use toolweir_core::{AsRejection as _, Reason};
use toolweir_mcp::{Entry, McpService, ServerRegistry, ToolCall};
use toolweir_testkit::mcp::ScriptedServer;
use tower::ServiceExt as _;

fn entry(name: &'static str, server: &ScriptedServer) -> Entry {
    let server = server.clone();
    let mcp = McpService::builder(name).transport(move || {
        let stream = server.connect();
        async move { Ok(stream) }
    });
    Entry::of(mcp.build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_all_servers_at_once() {
    let servers = [(); 3].map(|()| ScriptedServer::new());
    let mut registry = ServerRegistry::builder();
    for (name, server) in ["a", "b", "c"].into_iter().zip(&servers) {
        registry = registry.server(name, entry(name, server));
    }
    let registry = registry.build().unwrap();
    let mut hang = Vec::new();
    for (name, server) in ["a", "b", "c"].into_iter().zip(&servers) {
        let service = registry.get(name).unwrap().service();
        hang.push(tokio::spawn(service.oneshot(ToolCall::new("hang"))));
        server.wait_for(|stats| stats.in_flight == 1).await;
    }

    let begun = Instant::now();
    registry.shutdown(Duration::from_secs(4)).await;
    assert!(begun.elapsed() <= Duration::from_secs(4), "not in turn");
    for call in hang {
        call.await.unwrap().unwrap_err();
    }
    for server in &servers {
        server.wait_for(|stats| stats.open_connections == 0).await;
    }
    for name in ["a", "b", "c"] {
        let service = registry.get(name).unwrap().service();
        let error = service.oneshot(ToolCall::new("echo")).await.unwrap_err();
        let reason = error.as_rejection().map(toolweir_core::Rejection::reason);
        assert_eq!(reason, Some(Reason::ShuttingDown));
    }
    assert!(servers.iter().all(|server| server.stats().connections == 1));
}
