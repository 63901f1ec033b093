//! The recommended stack over a server in memory, on a paused clock.

#![cfg(feature = "stack")]
#![expect(
    clippy::unwrap_used,
    reason = "in a test's own helpers a failure is the test's"
)]

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::Context,
    time::Duration,
};

use tokio::time::{advance, sleep};
use toolweir::{
    circuit_breaker::CircuitBreakerConfig,
    core::{
        AsRejection as _, BoxError, Delivery, Health, Outcome, Reason, Rejection, ReportState as _,
    },
    mcp::{
        McpService, McpServiceBuilder, PRINCIPAL_META, TokenTools, ToolCall, ToolError,
        ToolResponse, ToolService,
    },
    rate_limit::RateLimitConfig,
    semaphore::SemaphoreConfig,
    stack::{ToolStack, ToolStackBuilder},
    warm_up::Warmth,
};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

const LIFE: Duration = Duration::from_secs(3600);

fn over(server: &ScriptedServer) -> ToolStackBuilder {
    ToolStack::builder(connecting(server).build().unwrap())
}

fn connecting(server: &ScriptedServer) -> McpServiceBuilder {
    let server = server.clone();
    McpService::builder("scripted").transport(move || {
        let connection = server.connect();
        async { Ok(connection) }
    })
}

/// A server for each of two principals.
struct Two {
    anna: ScriptedServer,
    ben: ScriptedServer,
}

impl Two {
    fn new() -> Self {
        Self {
            anna: ScriptedServer::new(),
            ben: ScriptedServer::new(),
        }
    }

    fn stack(&self) -> ToolStackBuilder {
        let (anna, ben) = (self.anna.clone(), self.ben.clone());
        let mcp = McpService::builder("scripted").transport_per_principal(2, move |principal| {
            let connection = match principal {
                "anna" => Ok(anna.connect()),
                "ben" => Ok(ben.connect()),
                _ => Err(BoxError::from("no such user")),
            };
            async { connection }
        });
        ToolStack::builder(mcp.send_principal(true).build().unwrap())
    }
}

async fn echo(service: &ToolService) -> Result<ToolResponse, ToolError> {
    service.clone().oneshot(ToolCall::new("echo")).await
}

fn reason(result: &Result<ToolResponse, ToolError>) -> Option<Reason> {
    let error = result.as_ref().err()?;
    error.as_rejection().map(Rejection::reason)
}

#[tokio::test(start_paused = true)]
async fn the_first_call_warms_up_and_the_others_share_it() {
    let server = ScriptedServer::new();
    server.start_delay(Duration::from_secs(2));
    let stack = over(&server)
        .token_tools(TokenTools::default())
        .build()
        .unwrap();
    let service = stack.service();

    let calls: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let service = service.clone();
                async move {
                    echo(&service)
                        .await
                        .map(drop)
                        .map_err(|error| error.to_string())
                }
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(()));
    }

    let stats = server.stats();
    assert_eq!(
        (stats.connections, stats.token_status_calls),
        (1, 1),
        "{stats:?}"
    );
    let warm_up = stack.handles().warm_up.as_ref().unwrap();
    assert_eq!(warm_up.state().warmth, Warmth::Warm);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_refresh_the_token_once_in_its_life() {
    let server = ScriptedServer::new();
    server.token_life(LIFE);
    let stack = over(&server)
        .token_tools(TokenTools::default())
        .build()
        .unwrap();
    let service = stack.service();

    // A thousand calls over almost ten lives.
    for _ in 0..1000 {
        let call = ToolCall::new("guarded");
        let response = service.clone().oneshot(call).await.unwrap();
        assert_eq!(response.observation().outcome, Outcome::Success);
        advance(LIFE / 101).await;
    }

    let stats = server.stats();
    assert_eq!(stats.unauthorised, 0, "{stats:?}");
    assert_eq!(stats.token_status_calls, 1, "{stats:?}");
    // A refresh comes a little before each expiry, so there may be one more than lives.
    assert!((9..=11).contains(&stats.refreshes), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_answer_pauses_everybody_and_preflight_sees_it() {
    let server = ScriptedServer::new();
    let quota = RateLimitConfig::builder().calls_per_second(100).burst(100);
    let stack = over(&server)
        .rate_limit(quota.build().unwrap())
        .build()
        .unwrap();
    let service = stack.service();
    echo(&service).await.unwrap();
    server.script([Answer::Throttle {
        retry_after_ms: 5000,
    }]);

    let throttled = echo(&service).await.unwrap();
    assert_eq!(throttled.observation().delivery, Delivery::NotSent);
    let before = server.stats().calls;
    let refused = echo(&service).await;

    assert_eq!(reason(&refused), Some(Reason::Throttled), "{refused:?}");
    assert_eq!(server.stats().calls, before, "nothing was sent");
    let breaker = stack.handles().circuit_breaker.as_ref().unwrap().report();
    let limit = stack.handles().rate_limit.as_ref().unwrap().report();
    assert!(!breaker.ready && !limit.ready, "{breaker:?} {limit:?}");
    assert!(
        breaker.retry_after_ms.is_some_and(|ms| ms >= 4000),
        "{breaker:?}"
    );

    sleep(Duration::from_secs(7)).await;
    echo(&service).await.unwrap();
}

/// A breaker that one failure opens, for a second, and one probe closes.
fn touchy() -> CircuitBreakerConfig {
    CircuitBreakerConfig::builder()
        .consecutive_failures(1)
        .wait_duration_in_open_state(Duration::from_secs(1))
        .permitted_number_of_calls_in_half_open_state(1)
        .success_threshold(1)
        .jitter(0)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_between_admission_and_observation_leaves_the_next_call_admitted() {
    let server = ScriptedServer::new();
    // One call in ten seconds: what is admitted waits here, between the breaker's halves.
    let quota = RateLimitConfig::builder()
        .quota(1, Duration::from_secs(10))
        .burst(1)
        .max_wait(Duration::from_secs(20));
    let stack = over(&server)
        .circuit_breaker(touchy())
        .rate_limit(quota.build().unwrap())
        .build()
        .unwrap();
    let service = stack.service();
    let breaker = stack.handles().circuit_breaker.clone().unwrap();
    stack
        .handles()
        .warm_up
        .as_ref()
        .unwrap()
        .warm_up()
        .await
        .unwrap();
    server.script([Answer::Error { code: -32603 }]);
    assert!(echo(&service).await.is_err());
    assert!(breaker.is_open());
    assert_eq!(reason(&echo(&service).await), Some(Reason::CircuitOpen));
    advance(Duration::from_secs(2)).await;

    {
        let mut probe = pin!(echo(&service));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(
            probe.as_mut().poll(&mut cx).is_pending(),
            "it waits for its cell"
        );
        assert_eq!(reason(&echo(&service).await), Some(Reason::ProbesOut));
    }
    let next = echo(&service).await;

    assert!(next.is_ok(), "the slot came back: {next:?}");
    assert!(!breaker.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_broken_tool_shuts_out_itself_alone_where_each_has_its_circuit() {
    for by_tool in [false, true] {
        let server = ScriptedServer::new();
        let mut stack = over(&server).circuit_breaker(touchy());
        if by_tool {
            stack = stack.circuit_breaker_by_tool();
        }
        let stack = stack.build().unwrap();
        let (service, handles) = (stack.service(), stack.handles());
        handles.warm_up.as_ref().unwrap().warm_up().await.unwrap();
        server.script([Answer::Error { code: -32603 }]);
        assert!(echo(&service).await.is_err());

        let refused = echo(&service).await;
        let error = refused.unwrap_err();
        let rejection = error.as_rejection().unwrap();
        let key = if by_tool { "echo" } else { "scripted" };
        assert_eq!(rejection.key(), Some(key));
        let other = service.clone().oneshot(ToolCall::new("guarded")).await;
        assert_eq!(reason(&other).is_none(), by_tool, "{other:?}");

        let breaker = handles.circuit_breaker.as_ref().unwrap();
        let broken = if by_tool {
            breaker.for_key("echo")
        } else {
            breaker.clone()
        };
        let state = broken.state();
        // What the server said is for whoever reads the state, and not in what callers get.
        let said = state.last_error.unwrap();
        assert!(state.reason.unwrap().ends_with(&said), "{said}");
        assert!(!rejection.to_string().contains(&said), "{rejection}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_fails_or_hangs_does_not_make_its_server_unhealthy() {
    let server = ScriptedServer::new();
    let stack = over(&server).circuit_breaker(None).build().unwrap();
    let (service, handles) = (stack.service(), stack.handles());
    handles.warm_up.as_ref().unwrap().warm_up().await.unwrap();

    for turn in 0..20 {
        let failed = Answer::Error { code: -32603 };
        let answer = if turn % 2 == 0 { failed } else { Answer::Hang };
        server.script([answer]);
        let call = ToolCall::new("echo").with_timeout(Duration::from_secs(1));
        assert!(service.clone().oneshot(call).await.is_err());
    }

    let other = service.oneshot(ToolCall::new("guarded")).await;
    assert!(other.is_ok(), "{other:?}");
    let health = handles.health_gate.as_ref().unwrap();
    assert!(health.report().ready);
}

#[tokio::test(start_paused = true)]
async fn our_own_refusals_are_nothing_to_breaker_and_health() {
    let server = ScriptedServer::new();
    let quota = RateLimitConfig::builder()
        .quota(1, Duration::from_secs(60))
        .burst(1)
        .max_wait(Duration::ZERO);
    let stack = over(&server)
        .circuit_breaker(touchy())
        .rate_limit(quota.build().unwrap())
        .build()
        .unwrap();
    let service = stack.service();
    echo(&service).await.unwrap();
    for _ in 0..100 {
        assert_eq!(reason(&echo(&service).await), Some(Reason::QuotaSpent));
    }
    let handles = stack.handles();
    assert!(!handles.circuit_breaker.as_ref().unwrap().is_open());
    assert!(handles.health_gate.as_ref().unwrap().report().ready);
}

#[tokio::test(start_paused = true)]
async fn a_lost_server_is_replaced_and_warmed_up_again() {
    let server = ScriptedServer::new();
    let stack = over(&server).build().unwrap();
    let service = stack.service();
    echo(&service).await.unwrap();
    server.kill_connections();
    // A call that is sent before the loss is noticed would be lost with it.
    while stack.handles().mcp.state().connected {
        tokio::task::yield_now().await;
    }

    echo(&service).await.unwrap();

    assert_eq!(server.stats().connections, 2);
    assert_eq!(stack.handles().mcp.state().starts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_call_needs_a_warm_up_that_makes_it() {
    let builder = over(&ScriptedServer::new()).first_call(ToolCall::new("echo"));
    let error = builder.warm_up(None).build().unwrap_err();
    assert_eq!(error.field(), "first_call");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_start_is_told_with_one_time_to_come_back() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let service = over(&server).build().unwrap().service();
    let error = echo(&service).await.unwrap_err();
    let refusal = error.as_rejection().unwrap();
    assert_eq!(refusal.reason(), Reason::WarmUpFailed);
    assert_eq!(refusal.retry_after(), Some(Duration::from_millis(500)));
    // The connection has a wait of its own, which ends at another time.
    let text = error.to_string();
    assert!(text.contains("step \"connect\""), "{text}");
    assert!(!text.contains("tried again"), "{text}");
    assert!(text.ends_with("; retry after 500ms"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_first_call_is_made_by_the_warm_up() {
    let server = ScriptedServer::new();
    let stack = over(&server)
        .first_call(ToolCall::new("meta"))
        .build()
        .unwrap();
    stack
        .handles()
        .warm_up
        .as_ref()
        .unwrap()
        .warm_up()
        .await
        .unwrap();
    assert_eq!(server.stats().calls_of("meta"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_stopped_for_idleness_sleeps_until_the_next_call_and_is_warmed_up_again()
{
    let server = ScriptedServer::new();
    let idle = Duration::from_secs(600);
    let mcp = connecting(&server).stop_after_idle(idle).build().unwrap();
    let stack = ToolStack::builder(mcp)
        .first_call(ToolCall::new("meta"))
        .build()
        .unwrap();
    let service = stack.service();
    let health = stack.handles().health_gate.clone().unwrap();
    let warm_up = stack.handles().warm_up.clone().unwrap();
    echo(&service).await.unwrap();
    assert_eq!(health.check_health().await.health, Health::Healthy);

    // Probes on the way keep it no longer awake.
    while !stack.handles().mcp.state().dormant {
        sleep(Duration::from_secs(60)).await;
        health.check_health().await;
    }
    let report = health.check_health().await;
    assert_eq!((report.health, report.is_healthy), (Health::Dormant, true));
    assert_eq!(warm_up.state().warmth, Warmth::Cold);
    sleep(10 * idle).await;
    health.check_health().await;
    assert_eq!(server.stats().connections, 1, "nothing has woken it");

    echo(&service).await.unwrap();

    let stats = server.stats();
    assert_eq!((stats.connections, stats.calls_of("meta")), (2, 2));
    assert_eq!(warm_up.state().warmth, Warmth::Warm);
    assert_eq!(health.check_health().await.health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn one_principals_many_calls_do_not_hold_up_anothers_first() {
    let server = ScriptedServer::new();
    let one = SemaphoreConfig::builder().permits(1).max_queue(100);
    let one = one.max_wait(LIFE).build().unwrap();
    let stack = over(&server).semaphore(one).build().unwrap();
    let service = stack.service();
    echo(&service).await.unwrap();

    let done = Arc::new(Mutex::new(Vec::new()));
    let call = |principal: &'static str| {
        let call = ToolCall::new("echo").with_principal(principal);
        let (response, done) = (service.clone().oneshot(call), done.clone());
        tokio::spawn(async move {
            response.await.unwrap();
            done.lock().unwrap().push(principal);
        })
    };
    let mut calls: Vec<_> = (0..50).map(|_| call("anna")).collect();
    calls.push(call("ben"));
    for call in calls {
        call.await.unwrap();
    }
    let place = done.lock().unwrap().iter().position(|who| *who == "ben");
    // Behind the call under way, and one whose turn had come.
    assert!(place.unwrap() <= 2, "{place:?}");
}

#[tokio::test(start_paused = true)]
async fn two_principals_share_a_stack_and_no_connection() {
    let servers = Two::new();
    let quota = RateLimitConfig::builder().calls_per_second(100).burst(100);
    let stack = servers
        .stack()
        .rate_limit(quota.build().unwrap())
        .build()
        .unwrap();
    let service = stack.service();
    let calls = (0..20).map(|n| {
        let principal = if n % 4 == 0 { "anna" } else { "ben" };
        let call = ToolCall::new("meta").with_principal(principal);
        let response = service.clone().oneshot(call);
        tokio::spawn(async move {
            let response = response.await.unwrap();
            assert_eq!(response.structured().unwrap()[PRINCIPAL_META], principal);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }

    let (anna, ben) = (servers.anna.stats(), servers.ben.stats());
    assert_eq!((anna.calls_of("meta"), ben.calls_of("meta")), (5, 15));
    assert_eq!((anna.connections, ben.connections), (1, 1));
    let nobodys = echo(&service).await;
    assert_eq!(reason(&nobodys), Some(Reason::NoPrincipal));
    // That was its caller's mistake, and says nothing of the server.
    let handles = stack.handles();
    assert!(handles.circuit_breaker.as_ref().unwrap().report().ready);
    assert!(handles.health_gate.as_ref().unwrap().report().ready);
}

#[tokio::test(start_paused = true)]
async fn what_names_no_principal_cannot_be_asked_where_each_has_a_connection() {
    let servers = Two::new();
    let tools = servers.stack().token_tools(TokenTools::default());
    assert_eq!(tools.build().unwrap_err().field(), "token_tools");
    let nobodys = servers.stack().first_call(ToolCall::new("meta"));
    assert_eq!(nobodys.build().unwrap_err().field(), "first_call");

    let annas = ToolCall::new("meta").with_principal("anna");
    let stack = servers.stack().first_call(annas).build().unwrap();
    let warm_up = stack.handles().warm_up.as_ref().unwrap();
    warm_up.warm_up().await.unwrap();
    assert_eq!(servers.anna.stats().calls_of("meta"), 1);
    assert_eq!(servers.ben.stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_given_up_is_told_by_its_own_reason_through_the_warm_up() {
    let server = ScriptedServer::new();
    server.refuse_connections(true);
    let mcp = connecting(&server)
        .restart_budget(1, Duration::from_secs(3600))
        .build()
        .unwrap();
    let stack = ToolStack::builder(mcp).health_gate(None).build().unwrap();
    let service = stack.service();
    assert_eq!(reason(&echo(&service).await), Some(Reason::WarmUpFailed));

    let given_up = loop {
        let refused = echo(&service).await;
        if reason(&refused) == Some(Reason::RestartsSpent) {
            break refused.unwrap_err();
        }
        sleep(Duration::from_secs(1)).await;
    };
    let rejection = given_up.as_rejection().unwrap();
    assert_eq!((rejection.layer(), rejection.retry_after()), ("mcp", None));

    server.refuse_connections(false);
    stack.handles().mcp.reset();
    stack.handles().warm_up.as_ref().unwrap().invalidate();
    echo(&service).await.unwrap();
}
