//! A connection for each principal, in memory.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};
use toolweir_core::{AsRejection as _, Reason, Rejection, ReportState as _};
use toolweir_mcp::{McpService, McpServiceBuilder, ToolCall, ToolError, ToolResponse};
use toolweir_testkit::mcp::{Answer, ScriptedServer};
use tower::ServiceExt as _;

type Servers = HashMap<String, ScriptedServer>;

/// A service that reaches a server of its own for each of these users.
fn service(most: usize, users: &[&str]) -> (McpService, Servers) {
    let (builder, servers) = builder(most, users);
    (builder.build().unwrap(), servers)
}

fn builder(most: usize, users: &[&str]) -> (McpServiceBuilder, Servers) {
    let servers = users.iter();
    let servers: Servers = servers
        .map(|user| ((*user).to_owned(), ScriptedServer::new()))
        .collect();
    let known = Arc::new(servers.clone());
    let mcp = McpService::builder("music").transport_per_principal(most, move |user| {
        let server = known.get(user).cloned();
        async move { Ok(server.ok_or("no such user")?.connect()) }
    });
    (mcp.send_principal(true), servers)
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

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_told_by_every_handle() {
    let (mcp, servers) = service(3, &["anna", "bob"]);
    call(&mcp, "anna", "echo").await.unwrap();
    let all = mcp.handle();
    assert!(all.report().ready && !all.state().shut_down);
    all.shutdown(Duration::from_secs(1)).await;
    assert!(!all.report().ready && all.state().shut_down);
    for user in ["anna", "bob"] {
        let handle = mcp.handle().for_principal(user);
        assert!(handle.state().shut_down, "{user}");
        assert!(!handle.report().ready, "{user}");
        handle.ping().await.unwrap_err();
        handle.shutdown(Duration::from_secs(1)).await;
    }
    all.ping().await.unwrap_err();
    all.connect().await.unwrap_err();
    assert_eq!(servers["bob"].stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_given_up_at_once_goes_on() {
    let (mcp, servers) = service(3, &["anna", "bob"]);
    for user in ["anna", "bob"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    let handle = mcp.handle();
    let shutdown = handle.shutdown(Duration::from_secs(1));
    assert!(shutdown.now_or_never().is_none(), "it takes a while");
    for server in servers.values() {
        server.wait_for(|stats| stats.open_connections == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_principals_shutdown_is_not_anothers_and_not_for_good() {
    let (mcp, servers) = service(2, &["anna", "bob"]);
    for user in ["anna", "bob"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    servers["anna"].script([Answer::Slow { ms: 400 }, Answer::Hang]);
    let [short, long] = [(); 2].map(|()| {
        let annas = ToolCall::new("echo").with_principal("anna");
        tokio::spawn(mcp.clone().oneshot(annas))
    });
    servers["anna"].wait_for(|stats| stats.in_flight == 2).await;
    let anna = mcp.handle().for_principal("anna");
    anna.shutdown(Duration::from_secs(1)).await;
    let [short, long] = [short.await.unwrap(), long.await.unwrap()];
    short.unwrap();
    assert!(
        matches!(long, Err(ToolError::ConnectionLost { .. })),
        "{long:?}"
    );
    let closed = servers["anna"].stats();
    assert_eq!((closed.connections, closed.open_connections), (1, 0));
    let state = anna.state();
    assert!(!state.connected && !state.shut_down && anna.report().ready);
    assert!(mcp.handle().for_principal("bob").state().connected);
    assert!(!mcp.handle().state().shut_down);

    for user in ["anna", "bob"] {
        call(&mcp, user, "echo").await.unwrap();
    }
    assert_eq!(servers["anna"].stats().connections, 2);
    assert_eq!(servers["bob"].stats().connections, 1);
    assert_eq!(anna.state().starts, 2, "its epochs go on");
    // Nobody is there, and nothing is left to end.
    mcp.handle()
        .for_principal("carl")
        .shutdown(Duration::ZERO)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_no_call_does_not_keep_a_connection() {
    let (mcp, servers) = service(1, &["anna", "bob"]);
    call(&mcp, "anna", "echo").await.unwrap();
    servers["anna"].hang_pings(true);
    let (anna, all) = (mcp.handle().for_principal("anna"), mcp.handle());
    let annas = tokio::spawn(async move { anna.ping().await });
    let alls = tokio::spawn(async move { all.ping().await });
    servers["anna"].wait_for(|stats| stats.pings == 2).await;
    call(&mcp, "bob", "echo").await.unwrap();
    servers["anna"]
        .wait_for(|stats| stats.open_connections == 0)
        .await;
    annas.await.unwrap().unwrap_err();
    alls.await.unwrap().unwrap();
    assert!(mcp.handle().for_principal("bob").state().connected);
}

#[tokio::test(start_paused = true)]
async fn all_are_pinged_whatever_the_others_answer() {
    let users = ["anna", "bob", "carl", "dora"];
    let (mcp, servers) = service(4, &users);
    for user in users {
        call(&mcp, user, "echo").await.unwrap();
    }
    let pinged = || servers.values().filter(|server| server.stats().pings == 1);
    for user in ["anna", "bob", "carl"] {
        servers[user].hang_pings(true);
    }
    let handle = mcp.handle();
    let ping = tokio::spawn(async move { handle.ping().await });
    // Three of them hang, and none waits for another.
    let all = async {
        while pinged().count() < 4 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), all).await.unwrap();
    // Two are lost, which is not the end: the third is waited for.
    for user in ["anna", "bob"] {
        servers[user].kill_connections();
    }
    sleep(Duration::from_secs(1)).await;
    assert!(!ping.is_finished());
    servers["carl"].kill_connections();
    ping.await.unwrap().unwrap_err();
    assert!(mcp.handle().for_principal("dora").state().connected);
}

/// Those that nobody knows cost nobody a connection: not the three that there may be.
async fn nobodys_calls_cost_nothing(at_once: usize) {
    let users = ["anna", "bob", "carl"];
    let (mcp, servers) = service(users.len(), &users);
    for user in users {
        call(&mcp, user, "echo").await.unwrap();
    }
    for round in 0..5 {
        let calls = (0..at_once).map(|number| {
            let nobody = ToolCall::new("echo").with_principal(format!("nobody-{round}-{number}"));
            tokio::spawn(mcp.clone().oneshot(nobody))
        });
        for answer in Vec::from_iter(calls) {
            let error = answer.await.unwrap().unwrap_err();
            assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");
        }
    }
    // More than one that is evicted has to end.
    sleep(Duration::from_secs(60)).await;
    for user in users {
        call(&mcp, user, "echo").await.unwrap();
        let stats = servers[user].stats();
        assert_eq!(
            (stats.connections, stats.open_connections),
            (1, 1),
            "{user}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_knows_cost_nobody_a_connection() {
    nobodys_calls_cost_nothing(1).await;
}

#[tokio::test(start_paused = true)]
async fn several_at_once_that_nobody_knows_cost_nobody_a_connection() {
    nobodys_calls_cost_nothing(3).await;
}

#[tokio::test(start_paused = true)]
async fn of_names_that_nobody_knows_so_many_wait_at_once_and_no_more() {
    let never = McpService::builder("music").transport_per_principal(2, |_| async {
        pending::<()>().await;
        Ok(tokio::io::duplex(64).0)
    });
    let mcp = never.build().unwrap();
    let calls = ["anna", "bob"].map(|user| {
        let call = ToolCall::new("echo").with_principal(user);
        tokio::spawn(mcp.clone().oneshot(call))
    });
    while mcp.handle().states().len() < 2 {
        tokio::task::yield_now().await;
    }
    let third = call(&mcp, "carl", "echo").await;
    assert_eq!(reason(third), Some(Reason::ConnectionsFull));
    for waiting in calls {
        waiting.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_connections_than_places() {
    let users = ["anna", "bob", "carl", "dora", "emil", "fritz"];
    let (mcp, servers) = service(2, &users);
    let open = || {
        servers
            .values()
            .map(|server| server.stats().open_connections)
    };
    for server in servers.values() {
        server.start_delay(Duration::from_millis(50));
        server.script([Answer::Slow { ms: 300 }]);
    }
    // All of them ask before one is connected.
    let calls = users.map(|user| {
        let call = ToolCall::new("echo").with_principal(user);
        tokio::spawn(mcp.clone().oneshot(call))
    });
    let mut answered = 0;
    for answer in calls {
        match answer.await.unwrap() {
            Ok(_) => answered += 1,
            full => assert_eq!(reason(full), Some(Reason::ConnectionsFull)),
        }
        assert!(open().sum::<u64>() <= 2);
    }
    assert_eq!(answered, 2);
    // A place that an attempt had is free again.
    for user in users {
        call(&mcp, user, "echo").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_made_has_a_place() {
    let (mcp, servers) = service(2, &["anna", "bob", "carl"]);
    servers["anna"].script([Answer::Hang]);
    let annas = ToolCall::new("echo").with_principal("anna");
    let annas = tokio::spawn(mcp.clone().oneshot(annas));
    servers["anna"].wait_for(|stats| stats.calls == 1).await;
    // For one of these there is a place.
    let calls = ["bob", "carl"].map(|user| {
        servers[user].start_delay(Duration::from_secs(1));
        let call = ToolCall::new("echo").with_principal(user);
        tokio::spawn(mcp.clone().oneshot(call))
    });
    let mut refused = 0;
    for answer in calls {
        if let Err(error) = answer.await.unwrap() {
            assert_eq!(reason(Err(error)), Some(Reason::ConnectionsFull));
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
    annas.abort();
}

#[tokio::test(start_paused = true)]
async fn what_a_server_said_of_its_tools_goes_with_its_connection_and_comes_with_the_next() {
    let (builder, _servers) = builder(1, &["anna", "bob"]);
    let mcp = builder.repeatable("meta", true).build().unwrap();
    let anna = mcp.handle().for_principal("anna");
    let repeatable = |tool| anna.hints(tool).is_repeatable();
    call(&mcp, "anna", "echo").await.unwrap();
    assert!(repeatable("echo") && repeatable("meta"));
    call(&mcp, "bob", "echo").await.unwrap();
    assert!(!repeatable("echo"), "the next server may be another");
    assert!(repeatable("meta"), "configuration says so");
    call(&mcp, "anna", "meta").await.unwrap();
    assert!(repeatable("echo"));
}

#[tokio::test(start_paused = true)]
async fn making_room_is_no_way_out_of_the_backoff() {
    let (mcp, servers) = service(1, &["anna", "bob"]);
    let (annas, bobs) = (&servers["anna"], &servers["bob"]);
    annas.refuse_connections(true);
    let anna = mcp.handle().for_principal("anna");
    for tries in 1..=4 {
        let refused = call(&mcp, "anna", "echo").await.unwrap_err();
        let wait = refused.retry_after().unwrap();
        // The first time it makes room. After that it takes none, as long as it must wait.
        call(&mcp, "bob", "echo").await.unwrap();
        for _ in 0..10 {
            let refused = call(&mcp, "anna", "echo").await.unwrap_err();
            assert_eq!(refused.retry_after(), Some(wait));
        }
        call(&mcp, "bob", "echo").await.unwrap();
        assert_eq!(annas.stats().refused_connections, tries);
        assert_eq!(bobs.stats().connections, tries);
        let state = anna.state();
        assert!(state.retry_after_ms.is_some() && state.last_error.is_some());
        assert!(!anna.report().ready);
        assert!(
            wait >= Duration::from_millis(125 << (tries - 1)),
            "{wait:?}"
        );
        sleep(wait).await;
    }
    call(&mcp, "anna", "echo").await.unwrap_err();
    call(&mcp, "bob", "echo").await.unwrap();
    annas.refuse_connections(false);
    anna.reset();
    call(&mcp, "anna", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn making_room_is_no_way_out_of_being_given_up() {
    let (builder, servers) = builder(1, &["anna", "bob"]);
    let mcp = builder.restart_budget(1, Duration::from_secs(3600));
    let mcp = mcp.build().unwrap();
    servers["anna"].refuse_connections(true);
    for _ in 0..2 {
        let refused = call(&mcp, "anna", "echo").await.unwrap_err();
        // What was taken out of the budget is remembered, too.
        call(&mcp, "bob", "echo").await.unwrap();
        sleep(refused.retry_after().unwrap()).await;
    }
    for _ in 0..3 {
        let given_up = call(&mcp, "anna", "echo").await;
        assert_eq!(reason(given_up), Some(Reason::RestartsSpent));
        call(&mcp, "bob", "echo").await.unwrap();
    }
    let anna = mcp.handle().for_principal("anna");
    assert!(anna.state().given_up && !anna.report().ready);
    servers["anna"].refuse_connections(false);
    anna.restart(Duration::ZERO).await;
    assert!(!anna.state().given_up);
    call(&mcp, "anna", "echo").await.unwrap();
}

#[cfg(unix)]
mod processes {
    use nix::{errno::Errno, sys::signal, unistd::Pid};
    use toolweir_mcp::{McpHandle, StdioServer};
    use toolweir_testkit::mcp::example_program;

    use super::*;

    /// More than an end takes.
    const GRACE: Duration = Duration::from_secs(2);

    /// A service whose servers end neither with their input nor when they are asked to: only when they
    /// are killed.
    async fn stubborn(users: &[&str]) -> (McpService, Vec<Pid>) {
        let mcp = McpService::builder("music").stdio_per_principal(users.len(), |_| {
            let server = StdioServer::new(example_program("misbehaving_server"));
            Ok(server.args(["--ignore-eof", "--ignore-sigterm"]))
        });
        let mcp = mcp.build().unwrap();
        for user in users {
            call(&mcp, user, "echo").await.unwrap();
        }
        let states = mcp.handle().states().into_iter();
        let processes = states.map(|state| state.process_id.unwrap());
        let processes = processes.map(|process| Pid::from_raw(process.try_into().unwrap()));
        let processes = Vec::from_iter(processes);
        assert_eq!(processes.len(), users.len());
        (mcp, processes)
    }

    fn is_gone(process: &Pid) -> bool {
        signal::kill(*process, None) == Err(Errno::ESRCH)
    }

    fn process_of(handle: &McpHandle) -> Pid {
        Pid::from_raw(handle.state().process_id.unwrap().try_into().unwrap())
    }

    #[tokio::test]
    async fn of_two_shutdowns_at_once_both_wait_until_nothing_is_left() {
        let (mcp, processes) = stubborn(&["anna", "bob", "carl"]).await;
        let shutdown = || {
            let (handle, processes) = (mcp.handle(), processes.clone());
            async move {
                handle.shutdown(GRACE / 4).await;
                assert!(processes.iter().all(is_gone));
            }
        };
        tokio::join!(shutdown(), shutdown());
    }

    #[tokio::test]
    async fn a_shutdown_after_one_that_was_given_up_leaves_nothing() {
        let (mcp, processes) = stubborn(&["anna", "bob", "carl"]).await;
        let handle = mcp.handle();
        let first = timeout(GRACE / 10, handle.shutdown(GRACE / 2)).await;
        assert!(first.is_err(), "or this test says nothing");
        assert!(!processes.iter().any(is_gone), "or this test says nothing");
        assert!(handle.for_principal("anna").state().shut_down);
        handle.shutdown(GRACE).await;
        assert!(processes.iter().all(is_gone));
    }

    #[tokio::test]
    async fn the_less_patient_of_two_shutdowns_says_how_long_both_take() {
        let (mcp, processes) = stubborn(&["anna", "bob"]).await;
        let patient = mcp.handle();
        let patient = tokio::spawn(async move { patient.shutdown(GRACE * 1000).await });
        tokio::task::yield_now().await;
        mcp.handle().shutdown(GRACE / 10).await;
        assert!(processes.iter().all(is_gone));
        patient.await.unwrap();
    }

    #[tokio::test]
    async fn one_principals_shutdown_leaves_nothing_of_its_server_and_the_others_alone() {
        let (mcp, _) = stubborn(&["anna", "bob"]).await;
        let [anna, bob] = ["anna", "bob"].map(|user| mcp.handle().for_principal(user));
        let [annas, bobs] = [&anna, &bob].map(process_of);
        let first = timeout(GRACE / 20, anna.shutdown(GRACE / 2)).await;
        assert!(first.is_err(), "or this test says nothing");
        // A call now waits for the end of the process before it.
        call(&mcp, "anna", "echo").await.unwrap();
        assert!(is_gone(&annas), "two servers at once");
        let next = process_of(&anna);
        anna.shutdown(GRACE / 4).await;
        assert!(is_gone(&next));
        assert_eq!(process_of(&bob), bobs);
        mcp.handle().shutdown(Duration::ZERO).await;
        assert!(is_gone(&bobs));
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_what_has_made_room() {
        let (mcp, processes) = stubborn(&["anna"]).await;
        // It has ten seconds to end, and by the shutdown less.
        call(&mcp, "bob", "echo").await.unwrap();
        assert!(!processes.iter().any(is_gone), "or this test says nothing");
        mcp.handle().shutdown(GRACE / 10).await;
        assert!(processes.iter().all(is_gone));
    }
}
