//! The program itself: killed, succeeded, throttled, stopped.

mod music_client;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use music_client::{Reply, call};
use playlist_sync::music::journal::{self, StopReason, Summary};
use rmcp::ServiceExt;
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::TokioChildProcess;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Far beyond anything that is waited for; only a hang meets it.
const HANG: Duration = Duration::from_secs(60);

const QUEEN: &str = "isrc:GBUM71029604";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("journal.jsonl")
    }

    fn summary(&self) -> Summary {
        journal::read(&self.journal()).expect("a good journal")
    }

    fn command(&self, flags: &[&str]) -> Command {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_music-server"));
        command.arg("--journal").arg(self.journal()).arg("--inputs");
        command.args(["anna.csv", "ben.csv", "chloe.m3u8"].map(|name| data.join(name)));
        command
            .args(["--latency", "0s"])
            .args(flags)
            .env_remove("RUST_LOG");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    async fn server(&self, flags: &[&str]) -> Server {
        Server::connect(self.command(flags).spawn().expect("the program")).await
    }
}

/// A server process and the client that talks to it.
struct Server {
    process: Child,
    client: RunningService<RoleClient, ()>,
}

impl Server {
    async fn connect(mut process: Child) -> Self {
        let (output, input) = (
            process.stdout.take().expect("a pipe"),
            process.stdin.take().expect("a pipe"),
        );
        let client = timeout(HANG, ().serve((output, input)))
            .await
            .expect("no hang")
            .expect("a handshake");
        Self { process, client }
    }

    async fn add(&self, playlist: &str, key: &str) -> Reply {
        let arguments = json!({"playlist": playlist, "track_id": QUEEN});
        call(&self.client, "add_to_playlist", arguments, Some(key)).await
    }

    async fn kill(mut self) {
        self.process.start_kill().expect("a running process");
        assert!(!end(&mut self.process).await.success());
    }

    /// Closes the server's input and waits for it to end.
    async fn close(mut self) -> ExitStatus {
        self.client.close().await.expect("a clean end");
        end(&mut self.process).await
    }
}

async fn end(process: &mut Child) -> ExitStatus {
    timeout(HANG, process.wait())
        .await
        .expect("no hang")
        .expect("a status")
}

#[tokio::test]
async fn a_killed_server_has_lost_nothing() {
    let place = Place::new();
    let first = place.server(&[]).await;
    let answer = first.add("anna", "k1").await;
    assert_eq!(answer.content["added"], true);
    first.kill().await;

    let second = place.server(&[]).await;
    let again = second.add("anna", "k1").await;
    assert_eq!(
        (&again.content["added"], &again.content["replayed"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(again.content["at_ms"], answer.content["at_ms"]);
    assert!(second.close().await.success());

    let summary = place.summary();
    assert_eq!(summary.playlists["anna"].len(), 1);
    assert_eq!((summary.counts.server_starts, summary.counts.adds), (2, 1));
    assert_eq!((summary.counts.tool_calls, summary.counts.replays), (2, 1));
    assert_eq!(summary.starts[0].stopped, None);
    let stopped = summary.starts[1].stopped.map(|(_, reason)| reason);
    assert_eq!(stopped, Some(StopReason::InputClosed));
}

#[tokio::test]
async fn a_kill_amid_calls_leaves_each_effect_once() {
    let place = Place::new();
    let server = place.server(&["--rate", "100000", "--burst", "1000"]).await;
    let names: Vec<String> = (0..40).map(|n| format!("p{n}")).collect();
    let peer = server.client.peer().clone();
    let calls = names.iter().map(|name| {
        let arguments = json!({"playlist": name, "track_id": QUEEN});
        let request = music_client::request("add_to_playlist", arguments, Some(name));
        let peer = peer.clone();
        async move { peer.call_tool(request).await.is_ok() }
    });
    let calls = futures_util::future::join_all(calls);
    let killed = async {
        // Somewhere in the middle: some are on the disk, others not yet.
        while place.summary().counts.adds < 5 {
            tokio::task::yield_now().await;
        }
        server.kill().await;
    };
    let (answered, ()) = timeout(HANG, async { tokio::join!(calls, killed) })
        .await
        .unwrap();
    let kept = place.summary();
    for (name, _) in names
        .iter()
        .zip(&answered)
        .filter(|(_, answered)| **answered)
    {
        assert_eq!(kept.playlists[name].len(), 1, "{name} was answered for");
    }

    let server = place.server(&["--rate", "100000", "--burst", "1000"]).await;
    for name in &names {
        let reply = server.add(name, name).await;
        assert_eq!(reply.content["added"], true, "{name}");
        assert_eq!(
            reply.content["replayed"],
            kept.playlists.contains_key(name),
            "{name}"
        );
    }
    assert!(server.close().await.success());
    let summary = place.summary();
    assert_eq!((summary.entries(), summary.duplicates()), (40, vec![]));
}

#[tokio::test]
async fn a_successor_waits_and_takes_over() {
    let place = Place::new();
    let first = place.server(&[]).await;
    first.add("anna", "k1").await;

    let mut refused = place.command(&["--journal-wait", "10ms"]).spawn().unwrap();
    assert_eq!(end(&mut refused).await.code(), Some(1));
    let mut text = String::new();
    refused
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(
        text.ends_with("is in use by another server, waited 10ms for it\n"),
        "{text}"
    );
    let mut output = Vec::new();
    refused
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output)
        .await
        .unwrap();
    assert!(output.is_empty(), "{output:?}");

    let second = place.command(&["--journal-wait", "60s"]).spawn().unwrap();
    let (ended, second) = tokio::join!(first.close(), Server::connect(second));
    assert!(ended.success());
    let again = second.add("anna", "k1").await;
    assert_eq!(again.content["replayed"], true);
    assert!(second.close().await.success());
    let summary = place.summary();
    assert_eq!((summary.counts.server_starts, summary.entries()), (2, 1));
    assert_eq!(summary.overlaps, []);
}

#[tokio::test]
async fn over_quota_there_is_a_time_to_come_back() {
    let place = Place::new();
    let server = place.server(&["--rate", "0.001", "--burst", "1"]).await;
    let first = call(&server.client, "user_profile", json!({}), None).await;
    assert!(!first.refused);
    let second = call(&server.client, "user_profile", json!({}), None).await;
    assert_eq!(second.status(), Some(429));
    let wait = second.content["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000_000).contains(&wait), "{wait}");
    assert!(server.close().await.success());
    assert_eq!(place.summary().counts.throttled, 1);
}

#[tokio::test]
async fn a_token_without_life_is_refused_and_can_be_renewed() {
    let place = Place::new();
    let server = place.server(&["--token-life", "0s"]).await;
    assert_eq!(server.add("anna", "k").await.status(), Some(401));
    let renewed = call(&server.client, "refresh_token", json!({}), None).await;
    assert_eq!(
        renewed.content,
        json!({"expires_in_ms": 0, "generation": 2})
    );
    assert!(server.close().await.success());

    // The next server's first token is a new one, and valid.
    let server = place.server(&["--token-life", "1h"]).await;
    let status = call(&server.client, "token_status", json!({}), None).await;
    assert_eq!(
        (&status.content["valid"], &status.content["generation"]),
        (&json!(true), &json!(3))
    );
    assert!(!server.add("anna", "k").await.refused);
    assert!(server.close().await.success());
}

#[tokio::test]
async fn the_catalogue_is_the_inputs_without_what_is_missing() {
    let place = Place::new();
    let crimson = json!({"artist": "King Crimson", "title": "21st Century Schizoid Man"});
    let joga = json!({"artist": "björk", "title": "JÓGA"});
    for (flags, has_crimson, has_joga) in [
        (&[][..], false, true),
        (&["--missing", "none"][..], true, true),
        (&["--missing", "Björk - Jóga"][..], true, false),
    ] {
        let server = place.server(flags).await;
        let found = call(&server.client, "search", crimson.clone(), None).await;
        assert_eq!(found.content["found"], has_crimson, "{flags:?}");
        let found = call(&server.client, "search", joga.clone(), None).await;
        assert_eq!(found.content["found"], has_joga, "{flags:?}");
        assert!(server.close().await.success());
    }
}

#[tokio::test]
async fn a_client_that_owns_the_process_can_close_it() {
    let place = Place::new();
    let transport = TokioChildProcess::new(place.command(&["--start-delay", "10ms"])).unwrap();
    let client = timeout(HANG, ().serve(transport)).await.unwrap().unwrap();
    assert!(!call(&client, "user_profile", json!({}), None).await.refused);
    client.cancel().await.unwrap();
    let stopped = place.summary().starts[0].stopped.map(|(_, reason)| reason);
    assert_eq!(stopped, Some(StopReason::InputClosed));
}

#[cfg(unix)]
#[tokio::test]
async fn signals_end_it_in_good_order() {
    for (signal, reason) in [
        ("TERM", StopReason::Terminated),
        ("INT", StopReason::Interrupted),
    ] {
        let place = Place::new();
        let mut server = place.server(&[]).await;
        server.add("anna", "k").await;
        let pid = server.process.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
        assert_eq!(end(&mut server.process).await.code(), Some(0), "{signal}");
        let stopped = place.summary().starts[0].stopped.map(|(_, reason)| reason);
        assert_eq!(stopped, Some(reason));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_a_slow_start() {
    let place = Place::new();
    let mut process = place.command(&["--start-delay", "1h"]).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let line = timeout(HANG, log.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(line.contains("started"), "{line}");
    let pid = process.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "TERM", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    assert_eq!(end(&mut process).await.code(), Some(0));
}

#[tokio::test]
async fn what_it_cannot_start_with_is_said_in_one_sentence() {
    let place = Place::new();
    let missing = place.0.path().join("none.csv");
    let damaged = place.0.path().join("damaged.jsonl");
    std::fs::write(&damaged, "not a record\n").unwrap();
    let folder = place.0.path().join("no/such/folder.jsonl");
    let text = |path: &Path| path.display().to_string();
    for (flags, sentence) in [
        (
            ["--inputs".to_owned(), text(&missing)],
            "none.csv: there is no such file",
        ),
        (
            ["--journal".to_owned(), text(&damaged)],
            "is damaged at line 1 (byte 0)",
        ),
        (
            ["--journal".to_owned(), text(&folder)],
            "could not be opened",
        ),
    ] {
        // The last of two equal flags would not count, so these stand alone.
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/anna.csv");
        let mut command = Command::new(env!("CARGO_BIN_EXE_music-server"));
        command
            .args(&flags)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .current_dir(&place.0);
        if flags[0] != "--inputs" {
            command.arg("--inputs").arg(data);
        }
        let output = timeout(HANG, command.output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{said}"
        );
        assert!(
            said.contains(sentence) && said.lines().count() == 1,
            "{said}"
        );
    }
    let mut command = place.command(&["--rate", "fast"]);
    let output = timeout(HANG, command.output()).await.unwrap().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[tokio::test]
async fn an_unreadable_input_can_be_skipped() {
    let place = Place::new();
    let none = place.0.path().join("none.csv").display().to_string();
    let mut command = place.command(&["--skip-unreadable", "--inputs", &none]);
    let server = Server::connect(command.spawn().unwrap()).await;
    assert!(!server.add("anna", "k").await.refused);
    assert!(server.close().await.success());
}

#[tokio::test]
async fn input_that_ends_at_once_is_no_failure() {
    let place = Place::new();
    let mut process = place.command(&[]).spawn().unwrap();
    drop(process.stdin.take());
    assert_eq!(end(&mut process).await.code(), Some(0));
}
