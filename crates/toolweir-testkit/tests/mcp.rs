//! The scripted server in memory.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod mcp_client;

use std::time::Duration;

use mcp_client::{Client, Reply, call, connect, request, send};
use rmcp::model::{
    CallToolRequest, ClientRequest, ErrorCode, PingRequest, ProgressNotificationParam,
    ProtocolVersion, RequestMetaObject,
};
use rmcp::service::{
    ClientLifecycleMode, NotificationContext, Peer, PeerRequestOptions, RoleClient, ServiceError,
    serve_client_with_lifecycle,
};
use rmcp::{ClientHandler, ServiceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use toolweir_testkit::mcp::{Answer, Fault, IDEMPOTENCY_KEY_META, ScriptedServer, Stats};

const SECOND: Duration = Duration::from_secs(1);

async fn client(server: &ScriptedServer) -> Client {
    connect(server.connect()).await.unwrap()
}

fn ok(content: Value) -> Reply {
    Reply {
        is_error: false,
        text: content.to_string(),
        content: Some(content),
    }
}

fn refused(content: Value) -> Reply {
    Reply {
        is_error: true,
        ..ok(content)
    }
}

async fn ping(peer: &Peer<RoleClient>) -> Result<(), ServiceError> {
    let ping = ClientRequest::PingRequest(PingRequest::default());
    peer.send_request(ping).await.map(drop)
}

/// A call that may be left alone.
fn spawn(
    client: &Client,
    tool: &'static str,
    arguments: Value,
) -> tokio::task::JoinHandle<Result<Reply, ServiceError>> {
    let peer = client.peer().clone();
    tokio::spawn(async move { send(&peer, tool, arguments).await })
}

#[tokio::test(start_paused = true)]
async fn tools_answer_by_themselves() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let echoed = call(&client, "echo", json!({ "a": [1, null] })).await;
    assert_eq!(echoed, ok(json!({ "a": [1, null] })));
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
    let failed = call(&client, "fail", json!({})).await;
    assert_eq!((failed.is_error, failed.content), (true, None));
    let throttled =
        |ms| refused(json!({ "status": 429, "error": "rate_limited", "retry_after_ms": ms }));
    assert_eq!(call(&client, "throttle", json!({})).await, throttled(1000));
    let in_a_moment = call(&client, "throttle", json!({ "retry_after_ms": 7 })).await;
    assert_eq!(in_a_moment, throttled(7));
    let text = call(&client, "text_throttle", json!({})).await;
    assert_eq!((text.is_error, text.content), (true, None));
    assert_eq!(text.text, "429 Too Many Requests: retry after 3s");
    let before = Instant::now();
    let slept = call(&client, "sleep", json!({ "ms": 5000 })).await;
    assert_eq!(slept, ok(json!({ "slept_ms": 5000 })));
    assert!(before.elapsed() >= 5 * SECOND);

    let stats = server.stats();
    assert_eq!((stats.calls, stats.throttled), (7, 3));
    assert_eq!((stats.calls_of("echo"), stats.calls_of("add")), (2, 0));
    assert_eq!((stats.in_flight, stats.max_concurrent), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_protocol_are_told_from_answers() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let error = send(
        &client,
        "error",
        json!({ "code": -32004, "message": "slower" }),
    );
    let Err(ServiceError::McpError(error)) = error.await else {
        panic!("no protocol error")
    };
    assert_eq!((error.code, &*error.message), (ErrorCode(-32004), "slower"));
    let unknown = send(&client, "no_such_tool", json!({})).await;
    let Err(ServiceError::McpError(error)) = unknown else {
        panic!("{unknown:?}")
    };
    assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
    let wrong = send(&client, "add", json!({ "key": 1 })).await;
    assert!(wrong.unwrap().is_error);
}

#[tokio::test(start_paused = true)]
async fn tools_are_listed_with_their_hints() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let tools = client.list_all_tools().await.unwrap();
    let hints = |name: &str| {
        let tool = tools.iter().find(|tool| tool.name == name).unwrap();
        let hints = tool.annotations.clone().unwrap_or_default();
        (hints.read_only_hint, hints.idempotent_hint)
    };
    assert_eq!(hints("echo"), (Some(true), None));
    assert_eq!(hints("add"), (None, Some(true)));
    assert_eq!(hints("hang"), (None, None));
    assert_eq!(hints("sleep"), (None, None));
    assert_eq!(tools.len(), 16);
    ping(&client).await.unwrap();
    let stats = server.stats();
    assert_eq!((stats.list_tools, stats.pings, stats.calls), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_script_answers_in_order_and_leaves_the_token_alone() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let throttle = Answer::Throttle { retry_after_ms: 9 };
    server.script([throttle, Answer::Ok, Answer::Fail, Answer::Unauthorised]);
    server.script([Answer::Error { code: -32000 }, Answer::TextThrottle]);
    server.script_tool("refresh_token", [Answer::Fail]);

    let echo = async || send(&client, "echo", json!({})).await;
    assert_eq!(
        echo().await.unwrap().content.unwrap()["retry_after_ms"],
        json!(9)
    );
    assert!(!call(&client, "token_status", json!({})).await.is_error);
    assert!(!call(&client, "stats", json!({})).await.is_error);
    assert_eq!(echo().await.unwrap(), ok(json!({})));
    assert!(call(&client, "refresh_token", json!({})).await.is_error);
    assert_eq!(echo().await.unwrap().text, "the tool failed, as told");
    assert_eq!(echo().await.unwrap().content.unwrap()["status"], json!(401));
    assert!(matches!(echo().await, Err(ServiceError::McpError(error)) if error.code.0 == -32000));
    assert!(echo().await.unwrap().text.starts_with("429"));
    assert_eq!(echo().await.unwrap(), ok(json!({})));
    let stats = server.stats();
    assert_eq!((stats.throttled, stats.unauthorised), (2, 1));
    assert_eq!((stats.refreshes, stats.rejected_refreshes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_slow_and_a_script_forgotten() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    server.script([Answer::Slow { ms: 60_000 }, Answer::Fail]);
    let before = Instant::now();
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
    assert!(before.elapsed() >= 60 * SECOND);
    server.clear_script();
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_ends_when_it_is_cancelled() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let hang = timeout(SECOND, send(&client, "hang", json!({}))).await;
    assert!(hang.is_err());
    let stats = server
        .wait_for(|stats| stats.cancelled == 1 && stats.in_flight == 0)
        .await;
    assert_eq!(stats.cancelled_of("hang"), 1);

    server.script([Answer::Hang]);
    assert!(
        timeout(SECOND, send(&client, "echo", json!({})))
            .await
            .is_err()
    );
    let stats = server.wait_for(|stats| stats.cancelled == 2).await;
    assert_eq!(
        (stats.cancelled_of("echo"), stats.cancelled_of("hang")),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn calls_at_once_are_counted() {
    let server = ScriptedServer::new();
    let (one, other) = (client(&server).await, client(&server).await);
    let calls = [&one, &other, &one].map(|client| spawn(client, "sleep", json!({ "ms": 1000 })));
    let stats = server.wait_for(|stats| stats.in_flight == 3).await;
    assert_eq!(stats.connections, 2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    call(&one, "echo", json!({})).await;
    let stats = server.wait_for(|stats| stats.in_flight == 0).await;
    assert_eq!(stats.max_concurrent, 3);
}

/// Notes every progress it is told of.
struct Progress(mpsc::UnboundedSender<(f64, Option<f64>)>);

impl ClientHandler for Progress {
    async fn on_progress(
        &self,
        progress: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.0.send((progress.progress, progress.total)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_sent_to_who_asks() {
    let server = ScriptedServer::new();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let client = Progress(sender).serve(server.connect()).await.unwrap();
    let arguments = json!({ "steps": 3, "every_ms": 400 });
    let call = ClientRequest::CallToolRequest(CallToolRequest::new(request("progress", arguments)));
    // Each step keeps a timeout away that is shorter than the whole.
    let options = PeerRequestOptions::with_timeout(SECOND / 2).reset_timeout_on_progress();
    let handle = client.send_cancellable_request(call, options).await;
    handle.unwrap().await_response().await.unwrap();
    for step in [1.0, 2.0, 3.0] {
        assert_eq!(seen.recv().await, Some((step, Some(3.0))));
    }
    assert!(seen.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_effect_happens_once_per_idempotency_key() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let add = async |key: Option<&str>| {
        let mut request = request("add", json!({ "key": "playlist" }));
        request.meta = key.map(|key| {
            let mut meta = RequestMetaObject::new();
            meta.insert(IDEMPOTENCY_KEY_META.to_owned(), Value::from(key));
            meta
        });
        let reply = Reply::from(client.call_tool(request).await.unwrap());
        reply.content.unwrap()["applied"] == json!(true)
    };
    assert!(add(Some("one")).await);
    assert!(!add(Some("one")).await);
    assert!(add(Some("two")).await);
    assert!(add(None).await);
    assert!(add(None).await);
    let stats = server.stats();
    assert_eq!(stats.effects_of("playlist"), 4);
    assert_eq!(stats.idempotency_keys["one"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_sees_the_metadata_it_sent() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let mut request = request("meta", json!({}));
    let mut meta = RequestMetaObject::new();
    meta.insert("traceparent".to_owned(), json!("00-1-2-01"));
    request.meta = Some(meta);
    let reply = Reply::from(client.call_tool(request).await.unwrap());
    assert_eq!(reply.content.unwrap()["traceparent"], json!("00-1-2-01"));
}

#[tokio::test(start_paused = true)]
async fn a_token_expires_and_is_refreshed() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    server.token_life(60 * SECOND).refresh_delay(2 * SECOND);
    let status = async || call(&client, "token_status", json!({})).await;
    let guarded = async || call(&client, "guarded", json!({})).await;
    let refresh = async || call(&client, "refresh_token", json!({})).await;
    let expired = refused(json!({ "status": 401, "error": "token_expired" }));
    let valid = |ms| ok(json!({ "valid": true, "expires_in_ms": ms }));

    assert_eq!(status().await, valid(60_000));
    assert_eq!(guarded().await, ok(json!({ "generation": 1 })));
    tokio::time::advance(20 * SECOND).await;
    assert_eq!(status().await, valid(40_000));
    tokio::time::advance(40 * SECOND).await;
    let gone = ok(json!({ "valid": false, "expires_in_ms": 0 }));
    assert_eq!(status().await, gone);
    assert_eq!(guarded().await, expired);
    let before = Instant::now();
    let renewed = json!({ "expires_in_ms": 60_000, "generation": 2 });
    assert_eq!(refresh().await, ok(renewed));
    assert!(before.elapsed() >= 2 * SECOND);
    assert_eq!(guarded().await, ok(json!({ "generation": 2 })));

    server.expire_token().reject_refresh(true);
    assert_eq!(guarded().await, expired);
    assert_eq!(
        refresh().await,
        refused(json!({ "error": "invalid_grant" }))
    );
    assert_eq!(status().await, gone);
    let stats = server.stats();
    assert_eq!((stats.token_status_calls, stats.unauthorised), (4, 2));
    assert_eq!((stats.refreshes, stats.rejected_refreshes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn killed_connections_end_at_once_and_new_ones_are_taken() {
    let server = ScriptedServer::new();
    let (one, other) = (client(&server).await, client(&server).await);
    let (hang, nap) = (
        spawn(&one, "hang", json!({})),
        spawn(&other, "sleep", json!({ "ms": 3_600_000 })),
    );
    server.wait_for(|stats| stats.in_flight == 2).await;
    let before = Instant::now();
    server.kill_connections();
    assert_eq!(server.stats().open_connections, 0);
    for call in [hang, nap] {
        let ended = call.await.unwrap();
        assert!(
            matches!(ended, Err(ServiceError::TransportClosed)),
            "{ended:?}"
        );
    }
    server.wait_for(|stats| stats.in_flight == 0).await;
    assert!(send(&one, "echo", json!({})).await.is_err());
    assert!(one.peer().is_transport_closed());
    // Nobody had to be given up on.
    assert_eq!(before.elapsed(), Duration::ZERO);

    let again = client(&server).await;
    assert_eq!(call(&again, "echo", json!({})).await, ok(json!({})));
    let stats = server.stats();
    assert_eq!((stats.connections, stats.initializes), (3, 3));
    assert_eq!((stats.open_connections, stats.cancelled), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn dying_takes_only_its_own_connection() {
    let server = ScriptedServer::new();
    let (one, other) = (client(&server).await, client(&server).await);
    assert!(send(&one, "die", json!({})).await.is_err());
    assert_eq!(call(&other, "echo", json!({})).await, ok(json!({})));
    server.script([Answer::Die]);
    assert!(send(&other, "add", json!({ "key": "k" })).await.is_err());
    assert_eq!(server.stats().effects_of("k"), 0);

    let last = client(&server).await;
    server.script([Answer::DieAfter]);
    assert!(send(&last, "add", json!({ "key": "k" })).await.is_err());
    assert_eq!(server.stats().effects_of("k"), 1);
    assert_eq!(server.stats().open_connections, 0);
}

#[tokio::test(start_paused = true)]
async fn work_may_be_done_and_its_answer_lost() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    server.script([Answer::HangAfter]);
    let add = timeout(SECOND, send(&client, "add", json!({ "key": "k" }))).await;
    assert!(add.is_err());
    let stats = server.wait_for(|stats| stats.cancelled == 1).await;
    assert_eq!(stats.effects_of("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_leaves_nothing() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    let hang = spawn(&client, "hang", json!({}));
    server.wait_for(|stats| stats.in_flight == 1).await;
    let before = Instant::now();
    client.cancel().await.unwrap();
    server
        .wait_for(|stats| stats.in_flight == 0 && stats.open_connections == 0)
        .await;
    hang.await.unwrap().unwrap_err();
    assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_start_may_take_its_time() {
    let server = ScriptedServer::new();
    server.start_delay(30 * SECOND);
    let before = Instant::now();
    let client = client(&server).await;
    assert_eq!(before.elapsed(), 30 * SECOND);
    // Only the start is slow.
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
    assert_eq!(before.elapsed(), 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_may_hang_until_the_client_gives_up() {
    let server = ScriptedServer::new();
    server.hang_in_handshake(true);
    let stream = server.connect();
    assert!(timeout(60 * SECOND, connect(stream)).await.is_err());
    let stats = server.wait_for(|stats| stats.open_connections == 0).await;
    assert_eq!((stats.connections, stats.initializes), (1, 1));
    server.hang_in_handshake(false);
    let client = client(&server).await;
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_hanging_handshake_can_be_killed() {
    let server = ScriptedServer::new();
    for (delay, hang) in [(Duration::from_secs(3600), false), (Duration::ZERO, true)] {
        server.start_delay(delay).hang_in_handshake(hang);
        let before = Instant::now();
        let client = tokio::spawn(connect(server.connect()));
        let initializes = server.stats().initializes + 1;
        server
            .wait_for(|stats| stats.initializes == initializes)
            .await;
        server.kill_connections();
        assert!(client.await.unwrap().is_err());
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_may_die_in_the_handshake_or_refuse() {
    let server = ScriptedServer::new();
    server.die_in_handshake(true);
    assert!(connect(server.connect()).await.is_err());
    server.die_in_handshake(false).refuse_connections(true);
    assert!(connect(server.connect()).await.is_err());
    let stats = server.stats();
    assert_eq!((stats.connections, stats.refused_connections), (1, 1));
    assert_eq!(stats.initializes, 1);
    server.refuse_connections(false);
    client(&server).await;
}

#[tokio::test(start_paused = true)]
async fn pings_may_hang() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    server.hang_pings(true);
    assert!(timeout(SECOND, ping(&client)).await.is_err());
    // Tools go on.
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
    server.hang_pings(false);
    ping(&client).await.unwrap();
    assert_eq!(server.stats().pings, 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_discover_instead() {
    let server = ScriptedServer::new();
    let mode = ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    };
    let client = serve_client_with_lifecycle((), server.connect(), mode)
        .await
        .unwrap();
    assert_eq!(call(&client, "echo", json!({})).await, ok(json!({})));
    let stats = server.stats();
    assert_eq!((stats.discovers, stats.initializes), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn stats_are_the_same_through_the_handle_and_the_tool() {
    let server = ScriptedServer::new();
    let client = client(&server).await;
    call(&client, "fail", json!({})).await;
    let told = call(&client, "stats", json!({})).await.content.unwrap();
    let told: Stats = serde_json::from_value(told).unwrap();
    assert_eq!(told, server.stats());
    assert_eq!(told.calls, 1);
    assert_eq!(told.pid, std::process::id());
}

#[test]
fn answers_are_written_as_they_are_read() {
    let all = "ok slow:5 fail throttle:250 text-throttle unauthorised error:-32602 hang hang-after \
               die die-after";
    for text in all.split(' ') {
        assert_eq!(text.parse::<Answer>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "throttle",
        "throttle:",
        "throttle:-1",
        "ok:1",
        "Ok",
        "slow:1:2",
    ] {
        let error = text.parse::<Answer>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_struck_at_any_moment() {
    let server = ScriptedServer::new();
    let struck = client(&server).await;
    server.strike(&Fault::Half).await;
    let hangs = timeout(SECOND, send(&struck, "echo", json!({}))).await;
    assert!(hangs.is_err(), "nothing comes any more");
    assert_eq!(server.stats().open_connections, 1);

    let struck = client(&server).await;
    server.script([Answer::Fault(Fault::CloseStdout)]);
    send(&struck, "echo", json!({})).await.unwrap_err();

    let struck = client(&server).await;
    server.script([Answer::Fault(Fault::Exit { code: 0 })]);
    send(&struck, "echo", json!({})).await.unwrap_err();

    server.strike_in_handshake(Fault::Flood { bytes: 100_000 });
    let flooded = client(&server).await;
    server.script([Answer::Big { bytes: 70_000 }]);
    assert_eq!(call(&flooded, "echo", json!({})).await.text.len(), 70_000);
    let big = call(&flooded, "big", json!({ "bytes": 3 })).await;
    assert_eq!(big.text, "xxx");
}

#[tokio::test(start_paused = true)]
async fn a_server_may_know_the_newest_protocol_alone() {
    let server = ScriptedServer::new();
    server.speaks_only("2026-07-28");
    assert!(connect(server.connect()).await.is_err());
    let mode = ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::LATEST],
    };
    let client = serve_client_with_lifecycle(mcp_client::config(), server.connect(), mode).await;
    call(&client.unwrap(), "echo", json!({})).await;
    assert_eq!(server.stats().discovers, 1);
}

#[test]
fn answers_and_faults_are_written_as_they_are_read() {
    for text in [
        "big:5",
        "close-stdout",
        "garbage",
        "half",
        "flood:9",
        "exit:0",
        "slow:1",
    ] {
        assert_eq!(text.parse::<Answer>().unwrap().to_string(), text);
    }
    for text in ["close-stdout", "exit:-1"] {
        assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
    }
    assert!("ok".parse::<Fault>().is_err());
    assert!("flood:".parse::<Answer>().is_err());
}
