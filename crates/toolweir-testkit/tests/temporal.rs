//! The launcher, with real servers.
#![cfg(all(unix, feature = "temporal"))]

use std::time::Duration;

use temporalio_client::grpc::WorkflowService;
use temporalio_client::tonic::{Code, IntoRequest};
use temporalio_common::protos::temporal::api::{
    enums::v1::TaskQueueType,
    taskqueue::v1::TaskQueue,
    workflowservice::v1::{DescribeNamespaceRequest, DescribeTaskQueueRequest},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use toolweir_testkit::temporal::{Error, Options, TemporalServer};

/// A server of its own, also where `TEMPORAL_ADDRESS` is set.
fn own() -> Options {
    Options::new().namespace("own")
}

async fn has_namespace(server: &TemporalServer, namespace: &str) -> bool {
    let mut connection = server.connection().await.expect("it runs");
    let request = DescribeNamespaceRequest {
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    match connection.describe_namespace(request.into_request()).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::NotFound => false,
        Err(status) => panic!("{status}"),
    }
}

/// Whether nobody listens at `address`, now or soon.
async fn falls_silent(address: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).await.is_ok() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}

#[tokio::test]
async fn servers_run_side_by_side_and_end() {
    let (first, second) = tokio::join!(
        TemporalServer::start(own().namespace("first")),
        TemporalServer::start(own().namespace("second")),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.address(), second.address());
    assert!(!first.is_external());
    assert!(first.log().unwrap().is_file());

    // Each is the one it was started as.
    assert!(has_namespace(&first, "first").await);
    assert!(!has_namespace(&first, "second").await);
    assert!(has_namespace(&second, "second").await);

    // Another value for the same server does not own it.
    let attached = TemporalServer::attach(first.address()).await.unwrap();
    assert!(attached.is_external());
    attached.stop().await.unwrap();
    first.client("first").await.unwrap();

    let addresses = [first.address().to_owned(), second.address().to_owned()];
    first.stop().await.unwrap();
    drop(second);
    for address in addresses {
        assert!(falls_silent(&address).await, "{address} still listens");
    }
}

/// One that answers before all of it runs may still find a port taken, and crash.
#[tokio::test]
async fn a_server_that_has_started_has_started_whole() {
    let server = TemporalServer::start(own()).await.unwrap();
    let mut connection = server.connection().await.unwrap();
    let request = DescribeTaskQueueRequest {
        namespace: "temporal-system".to_owned(),
        task_queue: Some(TaskQueue {
            name: "default-worker-tq".to_owned(),
            ..Default::default()
        }),
        task_queue_type: TaskQueueType::Workflow.into(),
        ..Default::default()
    };
    let own = connection.describe_task_queue(request.into_request()).await;
    assert!(!own.unwrap().into_inner().pollers.is_empty());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_can_t_start_says_why() {
    let options = own().argument("--no-such-flag");
    let error = TemporalServer::start(options).await.unwrap_err();
    let Error::Exited { log_tail, log, .. } = &error else {
        panic!("{error}");
    };
    assert!(log_tail.contains("no-such-flag"), "{log_tail}");
    assert!(error.to_string().contains(&log.display().to_string()));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let options = own().executable("/nowhere/temporal");
    let error = TemporalServer::start(options).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/temporal"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_always_taken_is_given_up_at_last() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The last value of a flag wins, so each start meets the taken port.
    let options = own().argument("--metrics-port").argument(port);
    let error = TemporalServer::start(options).await.unwrap_err();
    assert!(matches!(error, Error::Exited { .. }), "{error}");
    assert!(error.to_string().contains("already in use"), "{error}");
}

#[tokio::test]
async fn a_server_whose_inner_port_is_taken_is_started_anew() {
    // It crashes twice, as the server does then, and at the third start says something else.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("temporal");
    let script = r#"#!/bin/sh
        cd "$(dirname "$0")" || exit 1
        echo start >> starts
        [ "$(wc -l < starts)" -gt 2 ] && { echo "no disk"; exit 1; }
        echo "panic: runtime error: invalid memory address or nil pointer dereference"
        echo "google.golang.org/grpc.(*Server).Serve(0x10302e45c008, {0x0, 0x0})"
        exit 2"#;
    // By another process: a program that any process still has open for writing can't be run, and a
    // process that another test starts meanwhile would inherit ours.
    let write = r#"printf %s "$1" > "$0" && chmod +x "$0""#;
    let written = std::process::Command::new("sh")
        .args(["-c", write])
        .arg(&program)
        .arg(script)
        .status();
    assert!(written.unwrap().success());

    let error = TemporalServer::start(own().executable(&program)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no disk"), "{error}");
    let starts = std::fs::read_to_string(directory.path().join("starts")).unwrap();
    assert_eq!(starts.lines().count(), 3);
}
