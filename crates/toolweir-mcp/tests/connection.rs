//! One connection, in memory and on a clock that stands still unless somebody waits.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    future::{pending, poll_fn, ready},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{
        self, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader,
        DuplexStream, ReadBuf, duplex, split,
    },
    sync::Semaphore,
    task::{JoinHandle, yield_now},
    time::{Instant, advance, sleep},
};
use toolweir_core::{
    AsRejection as _, BoxError, Delivery, Outcome, Reason, Rejection, ReportState as _,
};
use toolweir_mcp::{McpService, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

type Answered = Result<ToolResponse, ToolError>;

/// A service on the scripted server, and how often it was connected to.
fn counted(server: &ScriptedServer) -> (McpService, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let (server, count) = (server.clone(), made.clone());
    let mcp = McpService::builder("music").transport(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let stream = server.connect();
        async move { Ok(stream) }
    });
    let mcp = mcp.connect_timeout(Duration::from_secs(10)).build();
    (mcp.unwrap(), made)
}

fn service(server: &ScriptedServer) -> McpService {
    counted(server).0
}

async fn call(mcp: &McpService, tool: &'static str) -> Answered {
    mcp.clone().oneshot(ToolCall::new(tool)).await
}

fn spawn(mcp: &McpService, tool: &'static str) -> JoinHandle<Answered> {
    let mcp = mcp.clone();
    tokio::spawn(async move { call(&mcp, tool).await })
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_been_executed_is_sent_where_that_does_no_harm() {
    let server = ScriptedServer::new();
    // Nothing is known of the tools before the call itself has connected.
    for (tool, earlier, sent) in [
        ("fail", Delivery::NotSent, true),
        ("fail", Delivery::Ambiguous, false),
        ("fail", Delivery::Executed, false),
        ("echo", Delivery::Ambiguous, true),
        ("echo", Delivery::Executed, true),
    ] {
        let before = server.stats().calls_of(tool);
        let call = ToolCall::new(tool).with_earlier_attempt(earlier);
        let answered = service(&server).oneshot(call).await;
        assert_eq!(answered.is_ok(), sent, "{tool} after {earlier:?}");
        assert_eq!(server.stats().calls_of(tool) - before, u64::from(sent));
        if let Err(error) = answered {
            let reason = error.as_rejection().map(Rejection::reason);
            assert_eq!(reason, Some(Reason::NotRepeatable));
            assert_eq!(error.observation().outcome, Outcome::Ignored);
            assert_eq!(
                error.to_string(),
                "mcp refused the call for \"music\": an earlier attempt may have been executed, and \
                 a second may do harm (tool \"fail\" is not known to be safe to repeat)"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ten_callers_share_one_connect_and_the_first_may_leave() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(1));
    let (mcp, made) = counted(&server);
    let mut calls = Vec::from_iter((0..10).map(|_| spawn(&mcp, "echo")));
    server.wait_for(|stats| stats.initializes == 1).await;
    calls.remove(0).abort();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert_eq!(server.stats().initializes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_is_ambiguous_and_the_next_succeeds() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let lost = spawn(&mcp, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    server.kill_connections();
    let error = lost.await.unwrap().unwrap_err();
    assert!(
        matches!(error, ToolError::ConnectionLost { .. }),
        "{error:?}"
    );
    assert_eq!(error.observation().delivery, Delivery::Ambiguous);
    call(&mcp, "echo").await.unwrap();
    assert_eq!(mcp.handle().state().starts, 2);
}

#[tokio::test(start_paused = true)]
async fn all_calls_under_way_end_with_the_connection_and_share_the_next() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    let lost = Vec::from_iter((0..10).map(|_| spawn(&mcp, "hang")));
    server.wait_for(|stats| stats.in_flight == 10).await;
    let (handle, first) = (mcp.handle(), mcp.handle().epoch());
    server.kill_connections();
    for call in lost {
        let error = call.await.unwrap().unwrap_err();
        assert!(
            matches!(error, ToolError::ConnectionLost { .. }),
            "{error:?}"
        );
    }
    assert_eq!(handle.epoch(), 0);
    let next = Vec::from_iter((0..10).map(|_| spawn(&mcp, "echo")));
    for call in next {
        call.await.unwrap().unwrap();
    }
    assert!(handle.epoch() > first);
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_no_longer_listens_is_lost_though_it_could_still_speak() {
    let server = ScriptedServer::new();
    let deaf = Arc::new(AtomicBool::new(false));
    let (there, is_deaf) = (server.clone(), deaf.clone());
    let mcp = McpService::builder("music").transport(move || {
        let stream = Deaf(there.connect(), is_deaf.clone());
        async move { Ok(stream) }
    });
    let mcp = mcp.build().unwrap();
    call(&mcp, "echo").await.unwrap();
    deaf.store(true, Ordering::SeqCst);
    let error = call(&mcp, "echo").await.unwrap_err();
    assert!(
        matches!(error, ToolError::ConnectionLost { .. }),
        "{error:?}"
    );
    assert_eq!(error.observation().delivery, Delivery::Ambiguous);
    assert_eq!(mcp.handle().epoch(), 0);
    deaf.store(false, Ordering::SeqCst);
    call(&mcp, "echo").await.unwrap();
    server.wait_for(|stats| stats.open_connections == 1).await;
    assert_eq!(server.stats().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_seen_before_the_next_call() {
    let server = ScriptedServer::new();
    let handle = service(&server).handle();
    handle.connect().await.unwrap();
    server.kill_connections();
    sleep(Duration::from_millis(1)).await;
    let state = handle.state();
    assert!(!state.connected);
    let error = state.last_error.unwrap();
    assert!(error.contains("was lost"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_cancelled_at_the_server() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    let dropped = spawn(&mcp, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    dropped.abort();
    server
        .wait_for(|stats| stats.cancelled_of("hang") == 1)
        .await;
    call(&mcp, "echo").await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_deadline_and_timeout_ends_a_call_and_not_the_connection() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    mcp.handle().connect().await.unwrap();
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(50));
    for (deadline, timeout) in [(short, long), (long, short)] {
        let begun = Instant::now();
        let hang = ToolCall::new("hang")
            .with_deadline(begun + deadline)
            .with_timeout(timeout);
        let error = mcp.clone().oneshot(hang).await.unwrap_err();
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error:?}");
        assert_eq!(error.observation().delivery, Delivery::Ambiguous);
        assert_eq!(begun.elapsed().as_secs(), 2);
    }
    server
        .wait_for(|stats| stats.cancelled_of("hang") == 2)
        .await;
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_is_not_sent() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    let late = || ToolCall::new("echo").with_deadline(Instant::now());
    let error = mcp.clone().oneshot(late()).await.unwrap_err();
    assert_eq!(error.observation().delivery, Delivery::NotSent);
    assert_eq!(made.load(Ordering::SeqCst), 0, "nor is the server started");

    mcp.handle().connect().await.unwrap();
    let error = mcp.clone().oneshot(late()).await.unwrap_err();
    assert_eq!(error.observation().delivery, Delivery::NotSent);
    call(&mcp, "meta").await.unwrap();
    assert_eq!(server.stats().calls_of("echo"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_connecting_leaves_the_connect_to_others() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(5));
    let (mcp, made) = counted(&server);
    let hasty = ToolCall::new("echo").with_deadline(Instant::now() + Duration::from_secs(1));
    let error = mcp.clone().oneshot(hasty).await.unwrap_err();
    let reason = error.as_rejection().map(Rejection::reason);
    assert_eq!(reason, Some(Reason::DeadlineTooShort), "{error:?}");
    assert_eq!(error.observation().outcome, Outcome::Ignored);
    call(&mcp, "echo").await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

/// A busy runtime sees both at once.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_when_there_is_a_connection_has_passed() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let late = ToolCall::new("echo").with_deadline(Instant::now() + Duration::from_secs(1));
    let mut late = pin!(mcp.clone().oneshot(late));
    let waits = poll_fn(|cx| Poll::Ready(late.as_mut().poll(cx).is_pending()));
    assert!(waits.await);
    mcp.handle().connect().await.unwrap();
    advance(Duration::from_secs(2)).await;
    let error = late.await.unwrap_err();
    let reason = error.as_rejection().map(Rejection::reason);
    assert_eq!(reason, Some(Reason::DeadlineTooShort), "{error:?}");
    call(&mcp, "meta").await.unwrap();
    assert_eq!(server.stats().calls_of("echo"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_connect_is_put_off_and_not_kept() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let (mcp, made) = counted(&server);
    let error = call(&mcp, "echo").await.unwrap_err();
    assert_eq!(error.observation().delivery, Delivery::NotSent);
    let wait = error.retry_after().unwrap();
    let again = call(&mcp, "echo").await.unwrap_err();
    assert!(matches!(again, ToolError::Unavailable { .. }), "{again:?}");
    assert_eq!(again.observation().delivery, Delivery::NotSent);
    assert_eq!(again.retry_after(), Some(wait));
    assert_eq!(made.load(Ordering::SeqCst), 1);
    let report = mcp.handle().report();
    assert!(!report.ready && report.retry_after_ms.is_some());

    server.refuse_connections(false);
    sleep(wait).await;
    call(&mcp, "echo").await.unwrap();
    assert!(mcp.handle().report().ready);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_every_call_is_not_started_in_a_loop() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    let errors = Vec::from_iter([(); 20]);
    let mut last = None;
    for () in errors {
        last = call(&mcp, "die").await.err();
    }
    assert!(made.load(Ordering::SeqCst) <= 3);
    let last = last.unwrap();
    assert!(last.retry_after().is_some(), "{last:?}");
    assert!(last.to_string().contains("was lost"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_is_put_off_too() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let mcp = McpService::builder("music").transport(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err::<DuplexStream, BoxError>(panic_of_a_user()) }
    });
    let mcp = mcp.build().unwrap();
    for _ in 0..20 {
        let error = call(&mcp, "echo").await.unwrap_err();
        assert!(error.retry_after().is_some(), "{error:?}");
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_there_is_a_transport_is_a_failed_connect_and_no_more() {
    let server = ScriptedServer::new();
    let panics = Arc::new(AtomicBool::new(true));
    let (there, first) = (server.clone(), panics.clone());
    let mcp = McpService::builder("music").transport(move || {
        if first.swap(false, Ordering::SeqCst) {
            panic_of_a_user();
        }
        let stream = there.connect();
        async move { Ok(stream) }
    });
    let mcp = mcp.build().unwrap();
    let errors = [spawn(&mcp, "echo"), spawn(&mcp, "echo")];
    for error in errors {
        let error = error.await.unwrap().unwrap_err();
        assert_eq!(error.observation().delivery, Delivery::NotSent);
        assert!(error.to_string().contains("broke off"), "{error}");
    }
    assert!(!mcp.handle().state().connecting);
    sleep(Duration::from_secs(1)).await;
    call(&mcp, "echo").await.unwrap();
    mcp.handle().shutdown(Duration::from_secs(1)).await;
    server.wait_for(|stats| stats.open_connections == 0).await;
}

fn panic_of_a_user() -> BoxError {
    panic!("a transport's own panic")
}

#[tokio::test(start_paused = true)]
async fn the_connect_timeout_holds_for_handshake_and_list_together() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(9));
    let mcp = McpService::builder("music").transport(move || {
        let stream = NoList(server.connect());
        async move { Ok(stream) }
    });
    let mcp = mcp.connect_timeout(Duration::from_secs(10)).build();
    let begun = Instant::now();
    mcp.unwrap().handle().connect().await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_times_out() {
    let server = ScriptedServer::new();
    server.hang_in_handshake(true);
    let begun = Instant::now();
    let error = call(&service(&server), "echo").await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(
        error.to_string().contains("was not ready within 10s"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_calls_end_and_refuses_new_ones() {
    let server = ScriptedServer::new();
    server.script([Answer::Slow { ms: 500 }]);
    let mcp = service(&server);
    let slow = spawn(&mcp, "echo");
    server.wait_for(|stats| stats.in_flight == 1).await;
    let handle = mcp.handle();
    let ends = tokio::spawn(async move { handle.shutdown(Duration::from_secs(5)).await });
    yield_now().await;
    let refused = call(&mcp, "echo").await.unwrap_err();
    let reason = refused.as_rejection().map(Rejection::reason);
    assert_eq!(reason, Some(Reason::ShuttingDown));
    ends.await.unwrap();
    slow.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_that_ended_however_they_did_hold_up_no_shutdown() {
    let server = ScriptedServer::new();
    let (mcp, made) = counted(&server);
    for _ in 0..500 {
        call(&mcp, "echo").await.unwrap();
    }
    call(&mcp, "fail").await.unwrap();
    call(&mcp, "no_such_tool").await.unwrap_err();
    let timed_out = ToolCall::new("hang").with_timeout(Duration::from_secs(1));
    mcp.clone().oneshot(timed_out).await.unwrap_err();
    let dropped = spawn(&mcp, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    dropped.abort();
    dropped.await.unwrap_err();
    let begun = Instant::now();
    mcp.handle().shutdown(Duration::from_secs(60)).await;
    assert_eq!(begun.elapsed().as_secs(), 0);
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_a_call_that_hangs_beyond_its_grace() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let hangs = spawn(&mcp, "hang");
    server.wait_for(|stats| stats.in_flight == 1).await;
    let begun = Instant::now();
    mcp.handle().shutdown(Duration::from_secs(4)).await;
    assert!(begun.elapsed() <= Duration::from_secs(4));
    let error = hangs.await.unwrap().unwrap_err();
    assert_eq!(error.observation().delivery, Delivery::Ambiguous);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_a_connect_and_says_so_to_who_waits() {
    let server = ScriptedServer::new();
    server.hang_in_handshake(true);
    let mcp = service(&server);
    let waits = spawn(&mcp, "echo");
    server.wait_for(|stats| stats.initializes == 1).await;
    mcp.handle().shutdown(Duration::from_secs(1)).await;
    let error = waits.await.unwrap().unwrap_err();
    let reason = error.as_rejection().map(Rejection::reason);
    assert_eq!(reason, Some(Reason::ShuttingDown));
    server.wait_for(|stats| stats.open_connections == 0).await;
}

#[tokio::test(start_paused = true)]
async fn all_who_shut_down_wait_for_the_same_connect_to_end() {
    let held = Arc::new(Semaphore::new(1));
    let hold = held.clone();
    let mcp = McpService::builder("music").transport(move || {
        let hold = hold.clone();
        async move {
            let _held = hold.acquire_owned().await?;
            pending::<Result<DuplexStream, BoxError>>().await
        }
    });
    let mcp = mcp.build().unwrap();
    let waits = spawn(&mcp, "echo");
    while held.available_permits() > 0 {
        yield_now().await;
    }
    let grace = Duration::from_secs(1);
    let handle = mcp.handle();
    let mut first = pin!(handle.shutdown(grace));
    tokio::select! {
        biased;
        () = &mut first => panic!("the attempt has not ended yet"),
        () = ready(()) => {}
    }
    // Nothing else has run in between.
    handle.shutdown(grace).await;
    assert_eq!(held.available_permits(), 1);
    first.await;
    waits.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn restart_makes_another_connection() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    call(&mcp, "echo").await.unwrap();
    let (handle, first) = (mcp.handle(), mcp.handle().epoch());
    handle.restart(Duration::from_secs(1)).await;
    assert_eq!(handle.epoch(), 0);
    call(&mcp, "echo").await.unwrap();
    assert!(handle.epoch() > first);
    server.wait_for(|stats| stats.open_connections == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_closes_the_connection() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let handle = mcp.handle();
    call(&mcp, "echo").await.unwrap();
    drop(mcp);
    assert_eq!(server.stats().open_connections, 1);
    drop(handle);
    server.wait_for(|stats| stats.open_connections == 0).await;
}

#[tokio::test(start_paused = true)]
async fn key_and_principal_and_trace_reach_the_server() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let meta = ToolCall::new("meta")
        .with_idempotency_key("anna/t1")
        .with_principal("anna")
        .with_traceparent(trace);
    let server = ScriptedServer::new();
    let accepting = server.clone();
    let told = McpService::builder("music").transport(move || {
        let stream = accepting.connect();
        async move { Ok(stream) }
    });
    let told = told.send_principal(true).build().unwrap();
    let seen = told.oneshot(meta.clone()).await.unwrap();
    let seen = seen.structured().unwrap();
    for (key, value) in [
        (toolweir_mcp::IDEMPOTENCY_KEY_META, "anna/t1"),
        (toolweir_mcp::PRINCIPAL_META, "anna"),
        ("traceparent", trace),
    ] {
        assert_eq!(seen[key], value, "{seen}");
    }

    // Who calls is nobody's business, unless somebody says that it is.
    let seen = service(&server).oneshot(meta.clone()).await.unwrap();
    let seen = seen.structured().unwrap();
    assert_eq!(seen["traceparent"], trace);
    assert!(!seen.to_string().contains("principal"), "{seen}");

    // Each of the others can be kept back.
    for (key, trace_context) in [(false, true), (true, false)] {
        let accepting = server.clone();
        let silent = McpService::builder("music").transport(move || {
            let stream = accepting.connect();
            async move { Ok(stream) }
        });
        let silent = silent
            .send_idempotency_key(key)
            .send_trace_context(trace_context)
            .build()
            .unwrap();
        let seen = silent.oneshot(meta.clone()).await.unwrap();
        let seen = seen.structured().unwrap();
        let has = |name| seen.get(name).is_some();
        assert_eq!(has(toolweir_mcp::IDEMPOTENCY_KEY_META), key, "{seen}");
        assert_eq!(has("traceparent"), trace_context, "{seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_answers_is_observed() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let throttled = Outcome::Throttled {
        retry_after: Some(Duration::from_millis(250)),
    };
    for (answer, outcome) in [
        (Answer::Ok, Outcome::Success),
        (
            Answer::Throttle {
                retry_after_ms: 250,
            },
            throttled,
        ),
        (Answer::Unauthorised, Outcome::Unauthorized),
        (Answer::Fail, Outcome::Ignored),
    ] {
        server.script([answer]);
        let response = call(&mcp, "echo").await.unwrap();
        assert_eq!(response.observation().outcome, outcome);
    }
    server.script([Answer::Error { code: -32603 }]);
    let error = call(&mcp, "echo").await.unwrap_err();
    assert_eq!(error.observation().outcome, Outcome::Failure);
}

#[tokio::test(start_paused = true)]
async fn annotations_are_known_also_when_the_connection_is_lost() {
    let server = ScriptedServer::new();
    let mcp = service(&server);
    let handle = mcp.handle();
    assert!(!handle.hints("echo").is_repeatable());
    call(&mcp, "die").await.unwrap_err();
    assert!(handle.hints("echo").is_repeatable());
    assert!(!handle.hints("die").is_repeatable());
}

#[tokio::test(start_paused = true)]
async fn arguments_reach_the_tool() {
    let mcp = service(&ScriptedServer::new());
    let arguments = json!({ "artist": "Björk" });
    let echo = ToolCall::new("echo").try_arguments(&arguments).unwrap();
    let answer: serde_json::Value = mcp.oneshot(echo).await.unwrap().into().unwrap();
    assert_eq!(answer, arguments);
}

/// A stream that swallows the client's `tools/list`.
struct NoList(DuplexStream);

impl AsyncRead for NoList {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for NoList {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let list = b"tools/list";
        if bytes.windows(list.len()).any(|window| window == list) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream whose other end, once it is deaf, takes nothing more.
struct Deaf(DuplexStream, Arc<AtomicBool>);

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.1.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A server that is over its limit while it is asked to begin.
async fn overloaded(stream: DuplexStream) {
    let (read, mut write) = split(stream);
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: serde_json::Value = serde_json::from_str(&line).unwrap();
        let error = json!({ "code": -32004, "message": "x", "data": { "retry_after": 60 } });
        let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "error": error });
        let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_handshake_is_not_tried_again_before_its_time() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let mcp = McpService::builder("music").transport(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = duplex(4096);
        tokio::spawn(overloaded(theirs));
        async move { Ok(ours) }
    });
    let mcp = mcp.build().unwrap();
    for (sleeps, left, expected) in [(0, 60, 1), (40, 20, 1), (21, 60, 2)] {
        sleep(Duration::from_secs(sleeps)).await;
        let error = call(&mcp, "echo").await.unwrap_err();
        assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");
        // What is left of it, and the spread: no call begins the pause anew.
        let wait = error.retry_after().unwrap();
        assert_eq!(wait.as_secs(), left, "{error}");
        let outcome = error.observation().outcome;
        let retry_after = Some(wait);
        assert_eq!(outcome, Outcome::Throttled { retry_after });
        assert_eq!(made.load(Ordering::SeqCst), expected);
    }
}
