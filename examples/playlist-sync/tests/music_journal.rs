//! The journal: what is answered for is there, once, wherever the server was killed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use playlist_sync::music::journal::{
    self, AddRequest, Added, CallOutcome, FORMAT, Journal, JournalError, Overlap, Record,
    StopReason, Summary,
};
use proptest::prelude::*;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("journal.jsonl")
    }

    fn with(bytes: &[u8]) -> Self {
        let place = Self::new();
        std::fs::write(place.path(), bytes).expect("room on the disk");
        place
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("a journal")
    }

    fn read(&self) -> Summary {
        journal::read(&self.path()).expect("a good journal")
    }
}

/// Opens without waiting for the lock.
fn open(path: &Path) -> Result<Journal, JournalError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(Journal::open(path, Duration::ZERO))
}

fn add(playlist: &str, track: &str, key: Option<&str>) -> AddRequest {
    AddRequest {
        playlist: playlist.to_owned(),
        track_id: track.to_owned(),
        key: key.map(str::to_owned),
    }
}

fn tracks(summary: &Summary, playlist: &str) -> Vec<String> {
    let entries = summary.playlists.get(playlist).into_iter().flatten();
    entries.map(|entry| entry.track_id.clone()).collect()
}

const FRESH: Added = Added {
    added: true,
    replayed: false,
    at_ms: 1,
};

#[test]
fn a_key_gets_its_first_answer_again_in_every_life() {
    let place = Place::new();
    let journal = open(&place.path()).unwrap();
    assert_eq!(journal.add(add("anna", "a", Some("k1")), 1).unwrap(), FRESH);
    let there = journal.add(add("anna", "a", Some("k2")), 2).unwrap();
    assert_eq!(
        there,
        Added {
            added: false,
            replayed: false,
            at_ms: 2
        }
    );
    for at_ms in [3, 4] {
        let again = journal.add(add("anna", "a", Some("k1")), at_ms).unwrap();
        assert_eq!(
            again,
            Added {
                replayed: true,
                ..FRESH
            }
        );
    }
    drop(journal);
    let journal = open(&place.path()).unwrap();
    let again = journal.add(add("anna", "a", Some("k1")), 5).unwrap();
    assert_eq!(
        again,
        Added {
            replayed: true,
            ..FRESH
        }
    );
    let again = journal.add(add("anna", "a", Some("k2")), 6).unwrap();
    assert_eq!(
        again,
        Added {
            added: false,
            replayed: true,
            at_ms: 2
        }
    );
    let summary = place.read();
    assert_eq!(tracks(&summary, "anna"), ["a"]);
    assert_eq!((summary.counts.adds, summary.counts.already_there), (1, 1));
}

#[test]
fn without_a_key_a_track_is_there_once_all_the_same() {
    let place = Place::new();
    let journal = open(&place.path()).unwrap();
    assert!(journal.add(add("anna", "a", None), 1).unwrap().added);
    let before = place.bytes();
    assert!(!journal.add(add("anna", "a", None), 2).unwrap().added);
    assert_eq!(place.bytes(), before);
}

#[test]
fn a_key_stands_for_one_effect() {
    let place = Place::new();
    let journal = open(&place.path()).unwrap();
    journal.add(add("anna", "a", Some("k")), 1).unwrap();
    for other in [add("anna", "b", Some("k")), add("ben", "a", Some("k"))] {
        let error = journal.add(other, 2).unwrap_err();
        assert!(matches!(error, JournalError::KeyReused { .. }), "{error}");
    }
    assert_eq!(place.read().entries(), 1);
}

/// Six effects, and how long the file was when each of them was answered.
fn six_adds() -> (Vec<u8>, Vec<(AddRequest, usize)>) {
    let place = Place::new();
    let journal = open(&place.path()).expect("a new journal");
    journal.start(7, 0).expect("room on the disk");
    let mut answered = Vec::new();
    for (playlist, track, key) in [
        ("anna", "a", Some("1")),
        ("anna", "Jóga", Some("2")),
        ("ben", "a", None),
        ("anna", "a", Some("3")),
        ("ben", "b", Some("4")),
        ("anna", "c", Some("5")),
    ] {
        let request = add(playlist, track, key);
        journal.add(request.clone(), 1).expect("room on the disk");
        answered.push((request, place.bytes().len()));
    }
    (place.bytes(), answered)
}

#[test]
fn a_kill_at_any_byte_loses_nothing_that_was_answered() {
    let (bytes, answered) = six_adds();
    for cut in 0..=bytes.len() {
        let place = Place::with(&bytes[..cut]);
        let torn = place.read();
        let journal = open(&place.path()).unwrap();
        let kept = place.read();
        assert_eq!(
            (kept.torn_bytes, &kept.playlists),
            (0, &torn.playlists),
            "cut at {cut}"
        );
        let is_answered = |length: usize| length <= cut;
        for (request, _) in answered.iter().filter(|(_, length)| is_answered(*length)) {
            let again = journal.add(request.clone(), 9).unwrap();
            assert_eq!(
                again.replayed,
                request.key.is_some(),
                "cut at {cut}: {request:?}"
            );
            assert!(again.replayed || !again.added, "cut at {cut}: {request:?}");
        }
        // Each of these waits for the disk, so not at every byte.
        if cut % 16 != 0 && !answered.iter().any(|(_, length)| length.abs_diff(cut) <= 1) {
            continue;
        }
        for (request, _) in answered.iter().filter(|(_, length)| !is_answered(*length)) {
            assert!(
                !journal.add(request.clone(), 9).unwrap().replayed,
                "cut at {cut}: {request:?}"
            );
        }
        let summary = place.read();
        assert_eq!(tracks(&summary, "anna"), ["a", "Jóga", "c"], "cut at {cut}");
        assert_eq!(tracks(&summary, "ben"), ["a", "b"], "cut at {cut}");
        assert_eq!(summary.duplicates(), []);
    }
}

#[test]
fn a_damaged_line_stops_the_server_and_is_named() {
    let (bytes, _) = six_adds();
    let mut line_of = 1;
    for at in 0..bytes.len() - 1 {
        if bytes[at] == b'\n' {
            line_of += 1;
            continue;
        }
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x01;
        if damaged[at] == b'\n' {
            continue;
        }
        let place = Place::with(&damaged);
        let error = open(&place.path()).unwrap_err();
        let JournalError::Damaged { line, .. } = &error else {
            panic!("byte {at}: {error}")
        };
        assert_eq!(*line, line_of, "byte {at}");
        assert!(journal::read(&place.path()).is_err());
        assert_eq!(place.bytes(), damaged, "a damaged journal is left as it is");
    }
}

#[test]
fn a_journal_of_another_format_is_refused() {
    let json = format!(
        r#"{{"kind":"start","format":{},"pid":1,"at_ms":1,"generation":1}}"#,
        FORMAT + 1
    );
    let checksum = crc32fast::hash(json.as_bytes());
    let line = format!("{{\"crc32\":\"{checksum:08x}\",\"record\":{json}}}\n");
    let place = Place::with(line.as_bytes());
    let error = open(&place.path()).unwrap_err();
    assert!(
        matches!(error, JournalError::Format { found: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_line_without_end_is_read_within_bounds() {
    let place = Place::with(&vec![0; 1_000_000]);
    assert_eq!(place.read().torn_bytes, 1_000_000);
    open(&place.path()).unwrap();
    assert!(place.bytes().is_empty());
    let mut line = vec![b'x'; 1_000_000];
    line.push(b'\n');
    let place = Place::with(&line);
    assert!(matches!(
        open(&place.path()),
        Err(JournalError::Damaged { line: 1, .. })
    ));
}

#[test]
fn callers_at_once_make_one_entry() {
    let place = Place::new();
    let journal = open(&place.path()).unwrap();
    let answers = |request: &(dyn Fn(usize) -> AddRequest + Sync)| -> Vec<Added> {
        std::thread::scope(|scope| {
            let add = |n| journal.add(request(n), 1).unwrap();
            let callers: Vec<_> = (0..8).map(|n| scope.spawn(move || add(n))).collect();
            callers
                .into_iter()
                .map(|caller| caller.join().unwrap())
                .collect()
        })
    };
    let same_key = answers(&|_| add("anna", "a", Some("k")));
    assert!(same_key.iter().all(|answer| answer.added));
    assert_eq!(same_key.iter().filter(|answer| !answer.replayed).count(), 1);
    let same_track = answers(&|n| add("anna", "b", Some(&format!("k{n}"))));
    assert_eq!(same_track.iter().filter(|answer| answer.added).count(), 1);
    assert_eq!(tracks(&place.read(), "anna"), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_successor_waits_for_the_lock() {
    let place = Place::new();
    let path = place.path();
    let first = Journal::open(&path, Duration::ZERO).await.unwrap();
    first.add(add("anna", "a", None), 1).unwrap();

    let error = Journal::open(&path, Duration::from_secs(3))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("is in use by another server, waited 3s for it"),
        "{text}"
    );

    let ends = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        first.add(add("anna", "b", None), 2).unwrap();
        first.close(StopReason::Terminated, 3).unwrap();
    };
    let wait = Duration::from_secs(30);
    let (second, ()) = tokio::join!(Journal::open(&path, wait), ends);
    assert!(
        !second
            .unwrap()
            .add(add("anna", "b", None), 4)
            .unwrap()
            .added
    );
    let late = first.add(add("anna", "c", None), 5).unwrap_err();
    assert!(matches!(late, JournalError::Closed { .. }), "{late}");
    assert_eq!(tracks(&place.read(), "anna"), ["a", "b"]);
}

#[test]
fn tokens_are_numbered_over_all_servers() {
    let place = Place::new();
    let journal = open(&place.path()).unwrap();
    assert_eq!(journal.start(1, 0).unwrap(), 1);
    journal
        .note(&Record::Refresh {
            generation: 2,
            at_ms: 0,
        })
        .unwrap();
    drop(journal);
    assert_eq!(open(&place.path()).unwrap().start(2, 0).unwrap(), 3);
}

/// Two servers' work: the first is killed over a call, the second ends in good order.
fn two_servers(journal: &Journal) -> Result<(), JournalError> {
    let call = |id, tool: &str, at_ms| {
        let principal = (id == 1).then(|| "anna".to_owned());
        journal.note(&Record::Call {
            id,
            tool: tool.to_owned(),
            principal,
            at_ms,
        })
    };
    let answer = |id, outcome, duration_us, replayed| {
        journal.note(&Record::Answer {
            id,
            outcome,
            duration_us,
            replayed,
        })
    };
    journal.start(10, 100)?;
    call(1, "search", 120)?;
    call(2, "search", 121)?;
    answer(2, CallOutcome::Throttled, 5, false)?;
    answer(1, CallOutcome::Ok, 3000, false)?;
    call(3, "add_to_playlist", 130)?;
    journal.start(11, 200)?;
    call(1, "token_status", 210)?;
    answer(1, CallOutcome::Ok, 1000, false)?;
    call(2, "add_to_playlist", 211)?;
    answer(2, CallOutcome::Ok, 2000, true)?;
    call(3, "search", 212)?;
    answer(3, CallOutcome::Unauthorised, 5, false)?;
    journal.note(&Record::Refresh {
        generation: 9,
        at_ms: 213,
    })?;
    journal.close(StopReason::InputClosed, 300)
}

#[test]
fn a_summary_counts_what_was_asked() {
    let place = Place::new();
    two_servers(&open(&place.path()).unwrap()).unwrap();
    let summary = place.read();
    let counts = summary.counts;
    assert_eq!(
        (counts.server_starts, counts.tool_calls, counts.unanswered),
        (2, 6, 1)
    );
    assert_eq!(
        (counts.throttled, counts.unauthorised, counts.errors),
        (1, 1, 0)
    );
    assert_eq!(
        (
            counts.token_refreshes,
            counts.token_status_calls,
            counts.replays
        ),
        (1, 1, 1)
    );
    assert_eq!(summary.calls_by_tool["search"], 3);
    assert_eq!(summary.starts[0].first_call_at_ms, Some(120));
    assert_eq!(summary.starts[0].stopped, None);
    assert_eq!(
        summary.starts[1].stopped,
        Some((300, StopReason::InputClosed))
    );
    assert_eq!(summary.calls[0].principal.as_deref(), Some("anna"));
    assert_eq!(
        (summary.calls[2].server, summary.calls[2].outcome),
        (0, None)
    );
    assert_eq!(
        (summary.calls[3].server, summary.calls[3].outcome),
        (1, Some(CallOutcome::Ok))
    );
    assert_eq!(summary.first_call(), Some(Duration::from_millis(3)));
    assert_eq!(summary.median_call(), Some(Duration::from_millis(2)));
}

/// The summary of records that no journal of ours would hold.
fn of_records(records: &[String]) -> Summary {
    let mut bytes = Vec::new();
    for json in records {
        let checksum = crc32fast::hash(json.as_bytes());
        bytes.extend(format!("{{\"crc32\":\"{checksum:08x}\",\"record\":{json}}}\n").bytes());
    }
    journal::summarise(Path::new("memory"), bytes.as_slice()).expect("good lines")
}

#[test]
fn a_summary_would_see_two_servers_at_once() {
    let start =
        |pid| format!(r#"{{"kind":"start","format":1,"pid":{pid},"at_ms":1,"generation":{pid}}}"#);
    let stop = |pid| format!(r#"{{"kind":"stop","pid":{pid},"at_ms":2,"reason":"input_closed"}}"#);
    // One after the other; a killed one, which says no end, among them.
    let in_turn = of_records(&[start(1), stop(1), start(2), start(3), stop(3)]);
    assert_eq!(in_turn.overlaps, []);
    let at_once = of_records(&[start(1), start(2), stop(1), stop(2)]);
    let (earlier, later) = (1, 2);
    assert_eq!(at_once.overlaps, [Overlap { earlier, later }]);
    assert!(at_once.starts.iter().all(|start| start.stopped.is_some()));
    // As journals were written before: without the process.
    let old = r#"{"kind":"stop","at_ms":2,"reason":"terminated"}"#.to_owned();
    let old = of_records(&[start(1), start(2), old]);
    assert_eq!((old.starts[0].stopped, old.overlaps.len()), (None, 0));
}

#[test]
fn a_summary_would_see_a_track_twice() {
    let twice = [0, 1].map(|at_ms| {
        format!(r#"{{"kind":"add","playlist":"anna","track_id":"a","added":true,"at_ms":{at_ms}}}"#)
    });
    let summary = of_records(&twice);
    let [duplicate] = summary.duplicates().try_into().unwrap();
    assert_eq!((duplicate.track_id.as_str(), duplicate.times), ("a", 2));
}

#[derive(Debug, Clone)]
enum Step {
    Add(AddRequest),
    /// The server is killed over a record it has written so much of.
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let request = (0..3_u8, 0..4_u8, prop::option::of(0..8_u8)).prop_map(|(list, track, key)| {
        let key = key.map(|key| format!("k{key}"));
        Step::Add(add(
            &format!("p{list}"),
            &format!("t{track}"),
            key.as_deref(),
        ))
    });
    prop_oneof![6 => request, 1 => (0..80_usize).prop_map(Step::Kill)]
}

/// Playlists and keys in memory: what the journal should hold.
#[derive(Debug, Default)]
struct Model {
    playlists: BTreeMap<String, Vec<String>>,
    keys: HashMap<String, (AddRequest, Added)>,
}

impl Model {
    /// `None` for a key that stands for another effect.
    fn add(&mut self, request: &AddRequest, at_ms: u64) -> Option<Added> {
        if let Some((earlier, first)) = request.key.as_ref().and_then(|key| self.keys.get(key)) {
            return (earlier == request).then_some(Added {
                replayed: true,
                ..*first
            });
        }
        let tracks = self.playlists.entry(request.playlist.clone()).or_default();
        let added = !tracks.contains(&request.track_id);
        if added {
            tracks.push(request.track_id.clone());
        }
        let answer = Added {
            added,
            replayed: false,
            at_ms,
        };
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), (request.clone(), answer));
        }
        Some(answer)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_agrees_with_playlists_in_memory(steps in prop::collection::vec(step(), 1..40)) {
        let place = Place::new();
        let mut journal = open(&place.path()).unwrap();
        let mut model = Model::default();
        let (whole, _) = six_adds();
        for (at_ms, step) in (1..).zip(steps) {
            match step {
                Step::Kill(written) => {
                    drop(journal);
                    let mut bytes = place.bytes();
                    bytes.extend(&whole[..written]);
                    std::fs::write(place.path(), bytes).unwrap();
                    journal = open(&place.path()).unwrap();
                }
                Step::Add(request) => match journal.add(request.clone(), at_ms) {
                    Err(JournalError::KeyReused { .. }) => {
                        prop_assert_eq!(model.add(&request, at_ms), None);
                    }
                    answer => prop_assert_eq!(answer.ok(), model.add(&request, at_ms)),
                },
            }
        }
        let summary = place.read();
        let names = summary.playlists.keys();
        let held: BTreeMap<_, _> = names.map(|name| (name.clone(), tracks(&summary, name))).collect();
        prop_assert_eq!(held, model.playlists);
        prop_assert_eq!(summary.duplicates(), vec![]);
    }
}
