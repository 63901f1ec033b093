//! A server's list of tools: how long it holds, and what follows when it changes.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
use tokio::{
    io::{DuplexStream, copy_bidirectional},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use toolweir_mcp::{Entry, McpService, ToolCall};
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
    /// How long a list takes, after it was made up.
    list_takes_ms: AtomicU64,
    /// Whether pings and lists are left without an answer.
    silent: AtomicBool,
    /// Its connections, until it is dead.
    wires: Mutex<Vec<AbortHandle>>,
    dead: AtomicBool,
    /// Whether an error is answered where a list is asked for.
    no_list: AtomicBool,
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
        self.silence().await;
        if self.shared.no_list.load(Ordering::SeqCst) {
            return Err(ErrorData::internal_error("no list just now", None));
        }
        let read_only = *self.shared.read_only.lock().unwrap();
        let takes = self.shared.list_takes_ms.load(Ordering::SeqCst);
        sleep(Duration::from_millis(takes)).await;
        let tool = Tool::new("play", "Plays.", Arc::default())
            .with_annotations(ToolAnnotations::new().read_only(read_only));
        let mut list = ListToolsResult::with_all_items(vec![tool]);
        list.ttl_ms = *self.shared.ttl_ms.lock().unwrap();
        Ok(list)
    }

    async fn ping(&self, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.silence().await;
        Ok(())
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
            let dead = server.shared.dead.load(Ordering::SeqCst);
            let stream = (!dead).then(|| server.stream());
            async move { Ok(stream.ok_or("it is dead")?) }
        });
        mcp.build().unwrap()
    }

    /// A new connection to it.
    fn stream(&self) -> DuplexStream {
        let (here, mut wire) = tokio::io::duplex(64 * 1024);
        let (mut other_wire, there) = tokio::io::duplex(64 * 1024);
        let server = self.clone();
        tokio::spawn(async move {
            let running = server.serve(there).await;
            if let Ok(running) = running {
                let _ = running.waiting().await;
            }
        });
        let wire = tokio::spawn(async move {
            let _ = copy_bidirectional(&mut wire, &mut other_wire).await;
        });
        let mut wires = self.shared.wires.lock().unwrap();
        wires.push(wire.abort_handle());
        here
    }

    /// Cuts its connections, and takes no other.
    fn die(&self) {
        self.shared.dead.store(true, Ordering::SeqCst);
        for wire in &*self.shared.wires.lock().unwrap() {
            wire.abort();
        }
    }

    async fn silence(&self) {
        if self.shared.silent.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
    }

    fn lists(&self) -> u64 {
        self.shared.lists.load(Ordering::SeqCst)
    }

    /// Makes the tool read-only, and says that something has changed.
    async fn change(&self) {
        self.change_to(true).await;
    }

    async fn change_to(&self, read_only: bool) {
        *self.shared.read_only.lock().unwrap() = read_only;
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
    let handle = mcp.handle();
    // Changes come while the list is on its way, too.
    server.shared.list_takes_ms.store(250, Ordering::SeqCst);
    // Whatever the moment at which the flood ends, its last word is what counts.
    for changes in [1, 2, 60, 99, 100] {
        let before = server.lists();
        for change in 0..changes {
            // The last one makes it read-only.
            server.change_to((changes - change) % 2 == 1).await;
            sleep(Duration::from_millis(100)).await;
        }
        let lists = server.lists() - before;
        assert!(lists <= 4, "{lists} times in ten seconds");
        sleep(Duration::from_secs(11)).await;
        assert!(handle.hints("play").is_repeatable(), "of {changes} changes");
        server.change_to(false).await;
        sleep(Duration::from_secs(11)).await;
        assert!(
            !handle.hints("play").is_repeatable(),
            "of {changes} changes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_list_is_read_is_read_too() {
    let server = Changing::default();
    *server.shared.ttl_ms.lock().unwrap() = Some(60_000);
    // The list is on its way for a second, from before the change until after it.
    server.shared.list_takes_ms.store(1000, Ordering::SeqCst);
    let mcp = server.service();
    let handle = mcp.handle();
    let connects = tokio::spawn({
        let handle = handle.clone();
        async move { handle.connect().await }
    });
    while server.lists() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    server.change().await;
    connects.await.unwrap().unwrap();
    assert!(!handle.hints("play").is_repeatable(), "it was read before");
    // No list that was read before the change holds after it.
    let tools = handle.list_tools().await.unwrap();
    let annotations = tools[0].annotations.as_ref().unwrap();
    assert_eq!(annotations.read_only_hint, Some(true));
    sleep(Duration::from_secs(10)).await;
    assert!(handle.hints("play").is_repeatable());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_could_not_be_read_is_read_later() {
    let server = Changing::default();
    let mcp = server.service();
    let handle = mcp.handle();
    handle.connect().await.unwrap();
    server.shared.no_list.store(true, Ordering::SeqCst);
    server.change().await;
    sleep(Duration::from_secs(10)).await;
    server.shared.no_list.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(60)).await;
    assert!(handle.hints("play").is_repeatable());
}

#[tokio::test(start_paused = true)]
async fn the_first_list_is_read_later_too_where_it_could_not_be_read() {
    let server = Changing::default();
    *server.shared.read_only.lock().unwrap() = true;
    server.shared.no_list.store(true, Ordering::SeqCst);
    let mcp = server.service();
    let handle = mcp.handle();
    handle.connect().await.unwrap();
    server.shared.no_list.store(false, Ordering::SeqCst);
    assert!(!handle.hints("play").is_repeatable(), "nobody has said so");
    sleep(Duration::from_secs(60)).await;
    assert!(handle.hints("play").is_repeatable());
    assert_eq!(server.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn each_principals_server_speaks_for_its_own_tools() {
    let servers = [("anna", true), ("bob", false), ("carl", true)].map(|(user, read_only)| {
        let server = Changing::default();
        *server.shared.read_only.lock().unwrap() = read_only;
        (user, server)
    });
    let mcp = McpService::builder("changing").transport_per_principal(3, {
        let servers = HashMap::from(servers.clone());
        move |user| {
            let server = servers[user].clone();
            async move { Ok(server.stream()) }
        }
    });
    let mcp = mcp.build().unwrap();
    let entry = Entry::of(mcp.clone());
    // In any order: it is not the last one to connect that counts for all.
    for user in ["anna", "bob", "carl"] {
        let play = ToolCall::new("play").with_principal(user);
        mcp.clone().oneshot(play).await.unwrap();
    }
    for (user, server) in &servers {
        let read_only = *server.shared.read_only.lock().unwrap();
        let handle = mcp.handle().for_principal(*user);
        assert_eq!(handle.hints("play").is_repeatable(), read_only, "{user}");
        let hints = entry.hints_for(Some(user), "play");
        assert_eq!(hints.is_repeatable(), read_only, "{user}");
    }
    let nobody = entry.hints_for(Some("nobody"), "play");
    assert!(!nobody.is_repeatable(), "nobody's server has said so");
    assert!(
        !entry.hints("play").is_repeatable(),
        "bob's says that it is not"
    );
    servers[1].1.change().await;
    while !entry.hints("play").is_repeatable() {
        sleep(Duration::from_millis(100)).await;
    }
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
async fn what_is_known_of_a_tool_is_what_its_last_list_says() {
    let server = Changing::default();
    let mcp = server.service();
    mcp.handle().connect().await.unwrap();
    assert!(!mcp.handle().hints("play").is_repeatable());
    // The server does not tell of it.
    *server.shared.read_only.lock().unwrap() = true;
    mcp.handle().list_tools().await.unwrap();
    assert!(mcp.handle().hints("play").is_repeatable());
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
    handle.ping().await.unwrap();
    handle.list_tools().await.unwrap();
    let lists = server.lists();

    // It is there, and answers nothing any more.
    server.shared.silent.store(true, Ordering::SeqCst);
    handle.list_tools().await.unwrap();
    let ping = timeout(Duration::from_secs(60), handle.ping()).await;
    assert!(ping.is_err(), "{ping:?}");

    server.die();
    while handle.state().connected {
        sleep(Duration::from_millis(1)).await;
    }
    handle.ping().await.unwrap_err();
    let tools = handle.list_tools().await;
    assert!(tools.is_err(), "of a server that is dead: {tools:?}");
    assert!(!handle.state().connected);
    assert_eq!(server.lists(), lists, "nothing here has asked for a list");
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
