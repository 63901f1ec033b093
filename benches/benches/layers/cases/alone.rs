//! One service, called by one task: the next call begins when the last one is answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{
    runtime::{Builder, Runtime},
    task::unconstrained,
    time::Instant,
};
use tower::Service;

use super::{Allocations, Measured, limits::WINDOW_CALLS};
use crate::layers::{
    call::{call, fail},
    figures::Spread,
};

/// How many calls are made between two looks at the clock.
const BLOCK: u32 = 1_000;

/// A service on a runtime of one thread.
#[derive(Debug)]
pub(crate) struct Alone<S> {
    service: S,
    runtime: Runtime,
}

impl<S: Service<u64>> Alone<S> {
    /// A service that answers.
    pub(crate) fn of(service: S) -> Result<Self> {
        Self::new(service, true)
    }

    /// A service that refuses.
    pub(crate) fn refusing(service: S) -> Result<Self> {
        Self::new(service, false)
    }

    /// A service that refuses since too many of its calls failed.
    pub(crate) fn tripped(mut service: S) -> Result<Self> {
        let failures = async {
            for _ in 0..WINDOW_CALLS {
                fail(&mut service).await;
            }
        };
        runtime()?.block_on(failures);
        Self::refusing(service)
    }

    fn new(mut service: S, answers: bool) -> Result<Self> {
        let runtime = runtime()?;
        let answered = runtime.block_on(call(&mut service));
        ensure!(answered == answers, "a case does not do what it is for");
        Ok(Self { service, runtime })
    }

    fn block(&mut self) {
        let calls = async {
            for _ in 0..BLOCK {
                call(&mut self.service).await;
            }
        };
        // Without tokio's budget, which would make a task yield that never waits.
        self.runtime.block_on(unconstrained(calls));
    }
}

impl<S: Service<u64>> Measured for Alone<S> {
    fn time(&mut self, turn: Duration) -> f64 {
        // Whoever ran before has left its own things in the caches.
        self.block();
        let begun = Instant::now();
        let mut blocks = Vec::new();
        let mut last = begun;
        while last.duration_since(begun) < turn {
            self.block();
            let now = Instant::now();
            blocks.push(nanos(now - last));
            last = now;
        }
        // A block in which somebody else had the processor says nothing about the calls in it.
        Spread::of(blocks).median / f64::from(BLOCK)
    }

    fn count(&mut self) -> Option<Allocations> {
        self.block();
        Some(counted(BLOCK, || self.block()))
    }
}

pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_time().build()?)
}

pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Counts the allocations of so many calls.
pub(crate) fn counted(calls: u32, make: impl FnOnce()) -> Allocations {
    let counted = allocation_counter::measure(make);
    let per_call = |total: u64| {
        // Of a thousand calls: far below what a float holds exactly.
        f64::from(u32::try_from(total).unwrap_or(u32::MAX)) / f64::from(calls)
    };
    Allocations {
        number: per_call(counted.count_total),
        bytes: per_call(counted.bytes_total),
    }
}
