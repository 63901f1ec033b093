//! A thousand calls at once against a server that allows ten a second, on a paused clock.

mod callers;
mod peers;
mod server;
mod toolweir;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

pub(crate) use self::server::{BURST, Event, PER_SECOND};

/// How many calls there are, all at once.
pub(crate) const CALLS: u32 = 1_000;

/// The shortest time in which the server would take all calls.
pub(crate) const IDEAL: Duration = Duration::from_secs(((CALLS - BURST) / PER_SECOND) as u64);

/// Between calls from which a rate is learned and those that go at it. The server saves up its burst.
const REST: Duration = Duration::from_secs(60);

/// A way to make the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Our limiter knows the quota. A call that is refused comes back at the time that it is told.
    QuotaKnown,
    /// Our limiter learns the rate from what the server asks for. Who is refused comes back as well.
    Learned,
    /// The same limiter, when as many calls have gone through it before, and a minute of rest.
    LearnedBefore,
    /// tower's `RateLimit`, behind its `Buffer`.
    Tower,
    /// tower-resilience's rate limiter, which waits for as long as it takes.
    TowerResilience,
    /// Nothing but a retry, 1 s after the first answer 429 and twice as long after each further one, up
    /// to 100 s, as Temporal does by default.
    Backoff,
    /// The same, each wait a random part of that.
    BackoffJitter,
    /// Two calls at once, which keep their place while they wait for what the server asks for.
    SemaphoreHeld,
}

impl Way {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::QuotaKnown,
        Self::Learned,
        Self::LearnedBefore,
        Self::Tower,
        Self::TowerResilience,
        Self::Backoff,
        Self::BackoffJitter,
        Self::SemaphoreHeld,
    ];

    /// What it is called in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::QuotaKnown => "toolweir, quota known",
            Self::Learned => "toolweir, rate learned",
            Self::LearnedBefore => "toolweir, rate learned before",
            Self::Tower => "tower RateLimit",
            Self::TowerResilience => "tower-resilience limiter",
            Self::Backoff => "retry with backoff",
            Self::BackoffJitter => "retry with backoff and jitter",
            Self::SemaphoreHeld => "semaphore of 2, held",
        }
    }
}

/// What became of the calls that were made in one way.
#[derive(Debug)]
pub(crate) struct Run {
    /// The way.
    pub(crate) way: Way,
    /// What the server answered, and when.
    pub(crate) events: Vec<Event>,
    /// How often each call was tried.
    pub(crate) attempts: Vec<u32>,
}

impl Run {
    /// How many answers were 429.
    pub(crate) fn throttled(&self) -> u32 {
        self.events
            .iter()
            .map(|event| u32::from(!event.served))
            .sum()
    }

    /// When the last call was served.
    pub(crate) fn makespan(&self) -> Duration {
        let served = self.events.iter().filter(|event| event.served);
        served.map(|event| event.at).max().unwrap_or_default()
    }

    /// The makespan, the ideal being 1.
    pub(crate) fn of_ideal(&self) -> f64 {
        self.makespan().as_secs_f64() / IDEAL.as_secs_f64()
    }

    /// The most that a call was tried.
    pub(crate) fn most_attempts(&self) -> u32 {
        self.attempts.iter().copied().max().unwrap_or_default()
    }

    /// How often a call was tried in the mean.
    pub(crate) fn mean_attempts(&self) -> f64 {
        let all: u32 = self.attempts.iter().sum();
        f64::from(all) / f64::from(CALLS)
    }
}

/// Makes the calls in one way. It takes no time but that of the computation.
pub(crate) fn run(way: Way) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let server = server::Server::new();
        let attempts = match way {
            Way::QuotaKnown => toolweir::quota(&server)?.returning().await,
            Way::Learned => toolweir::learned(&server)?.returning().await,
            Way::LearnedBefore => {
                let limited = toolweir::learned(&server)?;
                limited.returning().await?;
                sleep(REST).await;
                server.begin_anew();
                limited.returning().await
            }
            Way::Tower => peers::tower(&server).await,
            Way::TowerResilience => peers::tower_resilience(&server).await,
            Way::Backoff => peers::backoff(&server, |_, longest| longest).await,
            Way::BackoffJitter => {
                peers::backoff(&server, |server, longest| longest.mul_f64(server.random())).await
            }
            Way::SemaphoreHeld => peers::semaphore_held(&server).await,
        };
        let attempts = attempts?;
        Ok(Run {
            way,
            events: server.events(),
            attempts,
        })
    })
}
