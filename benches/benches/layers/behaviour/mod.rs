//! How ours and the peers behave: one file for each behaviour, with the test that both go through.
//!
//! All of it runs on a paused clock. Peers that read the system's clock are given times of a
//! nanosecond where time has to pass, and of an hour where it must not.

mod breaker;
mod limits;
mod server;
mod tool;

use std::{panic::AssertUnwindSafe, time::Duration};

use anyhow::Result;
use serde::Serialize;

pub(crate) const TOWER: &str = "tower";
pub(crate) const TOWER_RESILIENCE: &str = "tower-resilience";
pub(crate) const FAILSAFE: &str = "failsafe";
pub(crate) const RECLOSER: &str = "recloser";
pub(crate) const GOVERNOR: &str = "governor";

/// A time that has passed for who reads the system's clock, as soon as it is looked at again.
const PASSED: Duration = Duration::from_nanos(1);
/// A time that never passes for them.
const NEVER: Duration = Duration::from_secs(3600);
/// What a look may take of the paused clock, at most: who waits for ever is found out.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// One behaviour, of ours and of one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) ours_holds: bool,
    pub(crate) peer: &'static str,
    pub(crate) peer_holds: bool,
}

/// Looks whether somebody behaves.
type Look = Box<dyn FnOnce() -> bool>;

/// Something that limits should do, and who can be asked whether they do it.
pub(crate) struct Behaviour {
    what: &'static str,
    ours: Look,
    peers: Vec<(&'static str, Look)>,
}

impl Behaviour {
    /// `ours` is whether ours does it.
    fn new<F>(what: &'static str, ours: impl FnOnce() -> F + 'static) -> Self
    where
        F: Future<Output = Result<bool>>,
    {
        Self {
            what,
            ours: look(ours),
            peers: Vec::new(),
        }
    }

    /// `theirs` is whether `peer` does it.
    fn beside<F>(mut self, peer: &'static str, theirs: impl FnOnce() -> F + 'static) -> Self
    where
        F: Future<Output = Result<bool>>,
    {
        self.peers.push((peer, look(theirs)));
        self
    }

    fn rows(self) -> impl Iterator<Item = Row> {
        let (what, ours_holds) = (self.what, (self.ours)());
        self.peers.into_iter().map(move |(peer, look)| Row {
            what,
            ours_holds,
            peer,
            peer_holds: look(),
        })
    }
}

/// On a paused clock of its own. Who panics, fails or never comes to an end does not behave.
fn look<F>(observe: impl FnOnce() -> F + 'static) -> Look
where
    F: Future<Output = Result<bool>>,
{
    Box::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let Ok(runtime) = runtime else { return false };
        let observed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async { tokio::time::timeout(LONGEST, observe()).await })
        }));
        matches!(observed, Ok(Ok(Ok(true))))
    })
}

/// Looks at every behaviour, now.
pub(crate) fn observe() -> Vec<Row> {
    let behaviours = breaker::all().into_iter().chain(limits::all());
    behaviours.flat_map(Behaviour::rows).collect()
}
