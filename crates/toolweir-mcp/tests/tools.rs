//! A server's list of tools: how long it holds, and what follows when it changes.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, Implementation,
        InitializeRequestParams, InitializeResult, ListToolsResult, PaginatedRequestParams,
        ProtocolVersion, ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
        ToolAnnotations, ToolListChangedNotification,
    },
    service::{NotificationContext, Peer, RequestContext, SubscriptionContext, SubscriptionSink},
};
use tokio::{sync::watch, task::yield_now, time::sleep};
use toolweir_mcp::{McpService, ToolCall};
use tower::ServiceExt as _;

/// A server with one tool, whose list can change.
#[derive(Clone, Default)]
struct Changing {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether the tool says that it changes nothing.
    read_only: Mutex<bool>,
    ttl_ms: Mutex<Option<u64>>,
    lists: AtomicU64,
    /// Whether it knows the protocol of 2026-07-28 alone.
    modern_alone: bool,
    peer: watch::Sender<Option<Peer<RoleServer>>>,
    /// Who listens, in the protocol of 2026-07-28.
    sink: watch::Sender<Option<SubscriptionSink>>,
}

impl ServerHandler for Changing {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("changing", "1"))
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        if self.shared.modern_alone {
            return Err(ErrorData::method_not_found::<
                rmcp::model::InitializeResultMethod,
            >());
        }
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.shared.peer.send_replace(Some(context.peer));
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.shared.sink.send_replace(Some(context.sink().clone()));
        context.cancelled().await;
        Ok(())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.shared.lists.fetch_add(1, Ordering::SeqCst);
        let read_only = *self.shared.read_only.lock().unwrap();
        let tool = Tool::new("play", "Plays.", Arc::default())
            .with_annotations(ToolAnnotations::new().read_only(read_only));
        let mut list = ListToolsResult::with_all_items(vec![tool]);
        list.ttl_ms = *self.shared.ttl_ms.lock().unwrap();
        Ok(list)
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        Ok(CallToolResult::success(Vec::new()).into())
    }
}

impl Changing {
    fn service(&self) -> McpService {
        let server = self.clone();
        let mcp = McpService::builder("changing").transport(move || {
            let (here, there) = tokio::io::duplex(64 * 1024);
            let server = server.clone();
            tokio::spawn(async move {
                let running = server.serve(there).await;
                if let Ok(running) = running {
                    let _ = running.waiting().await;
                }
            });
            async move { Ok(here) }
        });
        mcp.build().unwrap()
    }

    fn lists(&self) -> u64 {
        self.shared.lists.load(Ordering::SeqCst)
    }

    /// Makes the tool read-only, and says that something has changed.
    async fn change(&self) {
        *self.shared.read_only.lock().unwrap() = true;
        let mut peer = self.shared.peer.subscribe();
        let peer = peer.wait_for(Option::is_some).await.unwrap().clone();
        peer.unwrap().notify_tool_list_changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_server_tells_of_is_read() {
    let server = Changing::default();
    let mcp = server.service();
    let handle = mcp.handle();
    handle.connect().await.unwrap();
    assert!(!handle.hints("play").is_repeatable());
    server.change().await;
    while !handle.hints("play").is_repeatable() {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_changes_all_the_time_is_not_read_all_the_time() {
    let server = Changing::default();
    let mcp = server.service();
    mcp.handle().connect().await.unwrap();
    for _ in 0..100 {
        server.change().await;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        server.lists() <= 4,
        "{} times in ten seconds",
        server.lists()
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_each_time_unless_its_server_says_that_it_holds() {
    let server = Changing::default();
    let handle = server.service().handle();
    for _ in 0..3 {
        assert_eq!(handle.list_tools().await.unwrap().len(), 1);
    }
    assert_eq!(server.lists(), 4, "one of them when it connected");

    let server = Changing::default();
    *server.shared.ttl_ms.lock().unwrap() = Some(60_000);
    let handle = server.service().handle();
    for _ in 0..3 {
        handle.list_tools().await.unwrap();
    }
    assert_eq!(server.lists(), 1);
    sleep(Duration::from_secs(61)).await;
    handle.list_tools().await.unwrap();
    assert_eq!(server.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_no_longer_holds_is_read_when_calls_are_made() {
    let server = Changing::default();
    *server.shared.ttl_ms.lock().unwrap() = Some(60_000);
    let mcp = server.service();
    mcp.handle().connect().await.unwrap();
    *server.shared.read_only.lock().unwrap() = true;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(server.lists(), 1, "nobody calls, nobody asks");
    mcp.clone().oneshot(ToolCall::new("play")).await.unwrap();
    while !mcp.handle().hints("play").is_repeatable() {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_no_sign_of_life() {
    let server = Changing::default();
    *server.shared.ttl_ms.lock().unwrap() = Some(3_600_000);
    let mcp = server.service();
    let handle = mcp.handle();
    handle.list_tools().await.unwrap();
    let lists = server.lists();
    handle.ping().await.unwrap();
    yield_now().await;
    assert_eq!(server.lists(), lists, "a ping asks something else");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_the_newest_protocol_alone_is_spoken_to_in_it() {
    let shared = Shared {
        modern_alone: true,
        ..Shared::default()
    };
    let server = Changing {
        shared: Arc::new(shared),
    };
    let mcp = server.service();
    mcp.clone().oneshot(ToolCall::new("play")).await.unwrap();
    let handle = mcp.handle();
    assert_eq!(handle.list_tools().await.unwrap().len(), 1);
    handle.ping().await.unwrap();
    assert_eq!(handle.state().starts, 1);

    *server.shared.read_only.lock().unwrap() = true;
    let mut sinks = server.shared.sink.subscribe();
    let sink = sinks.wait_for(Option::is_some).await.unwrap().clone();
    let changed = ToolListChangedNotification::default();
    sink.unwrap().send(changed.into()).await.unwrap();
    while !handle.hints("play").is_repeatable() {
        sleep(Duration::from_millis(100)).await;
    }

    handle.restart(Duration::from_secs(1)).await;
    mcp.oneshot(ToolCall::new("play")).await.unwrap();
    assert_eq!(handle.state().starts, 2);
    let newest = ProtocolVersion::LATEST;
    assert!(!newest.has_initialize(), "or this test says nothing");
}
