//! The tools, over a connection in memory and a clock that stands still until it is moved.

mod music_client;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use music_client::{Reply, call, request};
use playlist_sync::music::catalogue::Catalogue;
use playlist_sync::music::clock::WallClock;
use playlist_sync::music::journal::{self, CallOutcome, Journal, Summary};
use playlist_sync::music::quota::Quota;
use playlist_sync::music::server::{MusicServer, Service};
use playlist_sync::music::token::Token;
use playlist_sync::music::{IDEMPOTENCY_KEY_META, PRINCIPAL_META};
use playlist_sync::playlist::Track;
use rmcp::ServiceExt;
use rmcp::model::RequestMetaObject;
use rmcp::service::{RoleClient, RunningService};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, advance, timeout};

/// Far beyond anything that is waited for; only a hang meets it.
const HANG: Duration = Duration::from_secs(60);

struct Setting {
    rate: f64,
    burst: u32,
    token_life: Duration,
    latency: Duration,
}

const SPACIOUS: Setting = Setting {
    rate: 1000.0,
    burst: 1000,
    token_life: Duration::from_secs(3600),
    latency: Duration::ZERO,
};

struct Stage {
    client: RunningService<RoleClient, ()>,
    place: TempDir,
}

impl Stage {
    async fn set(setting: Setting) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&Self::path_in(&place), Duration::ZERO)
            .await
            .expect("a new journal");
        let generation = journal.start(1, 0).expect("room on the disk");
        let track = |artist: &str, title: &str, isrc: Option<&str>| Track {
            title: title.to_owned(),
            artist: artist.to_owned(),
            album: None,
            isrc: isrc.map(str::to_owned),
        };
        let tracks = vec![
            track("Queen", "Bohemian Rhapsody", Some("GBUM71029604")),
            track("Björk", "Jóga", None),
            track("King Crimson", "21st Century Schizoid Man", None),
        ];
        let missing = ["King Crimson - 21st Century Schizoid Man".to_owned()];
        let server = MusicServer::new(Service {
            catalogue: Catalogue::build(tracks, &missing).0,
            journal: Arc::new(journal),
            quota: Quota::new(setting.rate, setting.burst),
            token: Token::issue(generation, setting.token_life, Instant::now()),
            latency: setting.latency,
            clock: WallClock::from_fn(|| 77),
        });
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            server
                .serve(far)
                .await
                .expect("a handshake")
                .waiting()
                .await
        });
        Self {
            client: ().serve(near).await.expect("a handshake"),
            place,
        }
    }

    fn path_in(place: &TempDir) -> PathBuf {
        place.path().join("journal.jsonl")
    }

    fn summary(&self) -> Summary {
        journal::read(&Self::path_in(&self.place)).expect("a good journal")
    }

    /// Waits until the server has written something down.
    async fn until(&self, written: impl Fn(&Summary) -> bool) {
        let wait = async {
            while !written(&self.summary()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(HANG, wait).await.expect("no hang");
    }

    async fn call(&self, tool: &'static str, arguments: Value) -> Reply {
        call(&self.client, tool, arguments, None).await
    }

    async fn add(&self, playlist: &str, track: &str, key: Option<&str>) -> Reply {
        let arguments = json!({"playlist": playlist, "track_id": track});
        call(&self.client, "add_to_playlist", arguments, key).await
    }
}

const QUEEN: &str = "isrc:GBUM71029604";
const BJORK: &str = "name:björk|jóga";

#[tokio::test(start_paused = true)]
async fn search_finds_in_three_ways_and_says_what_is_missing() {
    let stage = Stage::set(SPACIOUS).await;
    for arguments in [
        json!({"title": "bohemian rhapsody", "artist": "QUEEN"}),
        json!({"title": "?", "artist": "?", "isrc": "gb-um7-10-29604"}),
        json!({"isrc": "GBUM71029604"}),
        json!({"query": "Queen - Bohemian Rhapsody"}),
    ] {
        let reply = stage.call("search", arguments).await;
        assert!(!reply.refused);
        assert_eq!(reply.content["found"], true);
        assert_eq!(reply.content["track_id"], QUEEN);
        assert_eq!(reply.content["artist"], "Queen");
    }
    let missing = json!({"title": "21st Century Schizoid Man", "artist": "King Crimson"});
    let reply = stage.call("search", missing).await;
    assert!(!reply.refused);
    assert_eq!(reply.content["found"], false);
    assert_eq!(reply.content["track_id"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_gets_the_original_answer() {
    let stage = Stage::set(SPACIOUS).await;
    let first = stage.add("anna", QUEEN, Some("k1")).await;
    let expected = json!({"added": true, "already_there": false, "replayed": false, "at_ms": 77});
    assert_eq!(
        first,
        Reply {
            refused: false,
            content: expected
        }
    );
    let again = stage.add("anna", QUEEN, Some("k1")).await;
    assert_eq!(again.content["added"], true);
    assert_eq!(again.content["replayed"], true);
    let other_key = stage.add("anna", QUEEN, Some("k2")).await;
    assert_eq!(other_key.content["added"], false);
    assert_eq!(other_key.content["already_there"], true);
    assert_eq!(other_key.content["replayed"], false);
    let no_key = stage.add("anna", QUEEN, None).await;
    assert_eq!(no_key.content["already_there"], true);
    let as_argument = json!({"playlist": "anna", "track_id": QUEEN, "idempotency_key": "k1"});
    let as_argument = stage.call("add_to_playlist", as_argument).await;
    assert_eq!(as_argument.content["replayed"], true);

    let summary = stage.summary();
    assert_eq!(
        (
            summary.entries(),
            summary.counts.adds,
            summary.counts.replays
        ),
        (1, 1, 2)
    );
    assert_eq!(summary.playlists["anna"][0].key.as_deref(), Some("k1"));
}

#[tokio::test(start_paused = true)]
async fn calls_at_once_with_one_key_make_one_entry() {
    let stage = Stage::set(SPACIOUS).await;
    let calls = (0..10).map(|_| stage.add("anna", BJORK, Some("k")));
    let replies = futures_util::future::join_all(calls).await;
    assert!(replies.iter().all(|reply| reply.content["added"] == true));
    let first = replies
        .iter()
        .filter(|reply| reply.content["replayed"] == false);
    assert_eq!(first.count(), 1);
    assert_eq!(stage.summary().entries(), 1);
}

#[tokio::test(start_paused = true)]
async fn over_quota_the_server_says_exactly_when_to_come_back() {
    let stage = Stage::set(Setting {
        rate: 2.0,
        burst: 3,
        ..SPACIOUS
    })
    .await;
    for _ in 0..3 {
        assert!(!stage.call("user_profile", json!({})).await.refused);
    }
    let refusal = json!({
        "status": 429,
        "error": "rate_limited",
        "retry_after_ms": 500,
        "message": "429 Too Many Requests: retry after 0.5s",
    });
    let refused = Reply {
        refused: true,
        content: refusal,
    };
    assert_eq!(stage.call("user_profile", json!({})).await, refused);
    advance(Duration::from_millis(499)).await;
    let early = stage.call("user_profile", json!({})).await;
    assert_eq!(early.content["retry_after_ms"], 1);
    assert_eq!(
        early.content["message"],
        "429 Too Many Requests: retry after 0.001s"
    );
    // What costs nothing is answered meanwhile, and takes nothing.
    assert!(!stage.call("token_status", json!({})).await.refused);
    assert!(!stage.call("refresh_token", json!({})).await.refused);
    advance(Duration::from_millis(1)).await;
    assert!(!stage.call("user_profile", json!({})).await.refused);
    assert_eq!(stage.call("user_profile", json!({})).await, refused);
    assert_eq!(stage.summary().counts.throttled, 3);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_told_and_a_refresh_cures_it() {
    let life = Duration::from_secs(20);
    let stage = Stage::set(Setting {
        token_life: life,
        rate: 1.0,
        burst: 2,
        ..SPACIOUS
    })
    .await;
    let status = stage.call("token_status", json!({})).await;
    let expected = json!({"valid": true, "expires_in_ms": 20_000, "generation": 1});
    assert_eq!(status.content, expected);
    advance(life).await;
    for tool in ["search", "add_to_playlist", "user_profile"] {
        let reply = stage.call(tool, json!({})).await;
        assert_eq!(
            (reply.status(), &reply.content["error"]),
            (Some(401), &json!("token_expired"))
        );
    }
    let status = stage.call("token_status", json!({})).await;
    let expected = json!({"valid": false, "expires_in_ms": 0, "generation": 1});
    assert_eq!(status.content, expected);
    let refreshed = stage.call("refresh_token", json!({})).await;
    assert_eq!(
        refreshed.content,
        json!({"expires_in_ms": 20_000, "generation": 2})
    );
    // The refused calls have cost no quota.
    for _ in 0..2 {
        assert!(!stage.call("user_profile", json!({})).await.refused);
    }
    let counts = stage.summary().counts;
    assert_eq!((counts.unauthorised, counts.token_refreshes), (3, 1));
    assert_eq!(counts.token_status_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_refused_with_a_status() {
    let stage = Stage::set(SPACIOUS).await;
    let long = "x".repeat(5000);
    for (tool, arguments, status, error) in [
        ("delete_playlist", json!({}), 404, "unknown_tool"),
        (
            "add_to_playlist",
            json!({"playlist": "a", "track_id": "x"}),
            404,
            "unknown_track",
        ),
        (
            "add_to_playlist",
            json!({"playlist": "a"}),
            400,
            "bad_arguments",
        ),
        (
            "add_to_playlist",
            json!({"playlist": 1, "track_id": QUEEN}),
            400,
            "bad_arguments",
        ),
        (
            "add_to_playlist",
            json!({"playlist": " ", "track_id": QUEEN}),
            400,
            "bad_arguments",
        ),
        (
            "add_to_playlist",
            json!({"playlist": long, "track_id": QUEEN}),
            400,
            "bad_arguments",
        ),
        ("search", json!({"title": "Jóga"}), 400, "bad_arguments"),
        (
            "search",
            json!({"query": "Jóga", "limit": 3}),
            400,
            "bad_arguments",
        ),
        ("user_profile", json!({"who": "me"}), 400, "bad_arguments"),
    ] {
        let reply = stage.call(tool, arguments.clone()).await;
        assert_eq!(
            reply.status(),
            Some(status),
            "{tool} {arguments}: {reply:?}"
        );
        assert_eq!(reply.content["error"], error, "{tool} {arguments}");
        let message = reply.content["message"].as_str().unwrap();
        assert!(message.starts_with(&status.to_string()), "{message}");
    }
    assert_eq!(stage.summary().counts.errors, 9);
    assert_eq!(stage.summary().entries(), 0);
}

#[tokio::test(start_paused = true)]
async fn keys_that_contradict_are_refused() {
    let stage = Stage::set(SPACIOUS).await;
    stage.add("anna", QUEEN, Some("k")).await;
    let reply = stage.add("ben", QUEEN, Some("k")).await;
    assert_eq!(
        (reply.status(), &reply.content["error"]),
        (Some(409), &json!("key_reused"))
    );

    let both = json!({"playlist": "anna", "track_id": BJORK, "idempotency_key": "other"});
    let reply = call(&stage.client, "add_to_playlist", both, Some("one")).await;
    assert_eq!(reply.status(), Some(400));
    let mut params = request(
        "add_to_playlist",
        json!({"playlist": "a", "track_id": BJORK}),
        None,
    );
    let mut meta = RequestMetaObject::new();
    meta.insert(IDEMPOTENCY_KEY_META.to_owned(), json!(7));
    params.meta = Some(meta);
    let reply: Reply = stage.client.call_tool(params).await.unwrap().into();
    assert_eq!(reply.status(), Some(400));
    assert_eq!(stage.summary().counts.errors, 3);
    assert_eq!(stage.summary().entries(), 1);
}

#[tokio::test(start_paused = true)]
async fn tools_say_what_they_do_to_the_world() {
    let stage = Stage::set(SPACIOUS).await;
    let tools = stage.client.list_all_tools().await.unwrap();
    let mut hints: Vec<_> = tools
        .iter()
        .map(|tool| {
            let hints = tool.annotations.clone().unwrap();
            assert!(
                tool.output_schema.is_some() && tool.description.is_some(),
                "{}",
                tool.name
            );
            let idempotent = hints.idempotent_hint;
            (
                &*tool.name,
                hints.read_only_hint,
                hints.destructive_hint,
                idempotent,
            )
        })
        .collect();
    hints.sort_unstable();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(
        hints,
        [
            ("add_to_playlist", no, no, yes),
            ("refresh_token", no, no, yes),
            ("search", yes, None, None),
            ("token_status", yes, None, None),
            ("user_profile", yes, None, None),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn who_calls_and_how_long_it_took_is_on_record() {
    let stage = Stage::set(Setting {
        latency: Duration::from_millis(20),
        ..SPACIOUS
    })
    .await;
    let mut params = request("user_profile", json!({}), None);
    let mut meta = RequestMetaObject::new();
    meta.insert(PRINCIPAL_META.to_owned(), json!("anna"));
    params.meta = Some(meta);
    let reply: Reply = stage.client.call_tool(params).await.unwrap().into();
    assert_eq!(
        reply.content,
        json!({"user": "anna", "playlists": 0, "tracks": 0})
    );
    let summary = stage.summary();
    let [call] = summary.calls.try_into().unwrap();
    assert_eq!(
        (call.tool.as_str(), call.principal.as_deref()),
        ("user_profile", Some("anna"))
    );
    assert_eq!((call.at_ms, call.outcome), (77, Some(CallOutcome::Ok)));
    assert!(call.duration >= Some(Duration::from_millis(20)), "{call:?}");
}

/// On the real clock: a paused one would jump over the latency.
#[tokio::test]
async fn a_call_that_is_given_up_in_time_has_no_effect() {
    let latency = Duration::from_secs(3600);
    let stage = Stage::set(Setting {
        latency,
        ..SPACIOUS
    })
    .await;
    let add = stage.add("anna", QUEEN, Some("k"));
    tokio::select! {
        reply = add => panic!("answered within an hour's latency: {reply:?}"),
        () = stage.until(|summary| !summary.calls.is_empty()) => {}
    }
    stage.until(|summary| summary.counts.cancelled == 1).await;
    assert_eq!(stage.summary().entries(), 0);
}
