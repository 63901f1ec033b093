//! One instance, called from several threads at once.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use tokio::{runtime::Runtime, task::unconstrained, time::Instant};
use tower::Service;

use super::{
    Allocations, Measured,
    alone::{nanos, runtime},
};
use crate::layers::call::call;

/// How many calls a thread makes between two looks at the clock.
const BLOCK: u32 = 200;

/// Clones of a service, each on a thread and a runtime of its own.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    callers: Vec<Caller<S>>,
}

#[derive(Debug)]
struct Caller<S> {
    service: S,
    runtime: Runtime,
}

impl<S: Service<u64> + Clone> Shared<S> {
    pub(crate) fn of(service: &S, threads: usize) -> Result<Self> {
        let callers = (0..threads).map(|_| {
            Ok(Caller {
                service: service.clone(),
                runtime: runtime()?,
            })
        });
        Ok(Self {
            callers: callers.collect::<Result<_>>()?,
        })
    }
}

impl<S: Service<u64>> Caller<S> {
    /// Calls until the turn is over for anybody, and says how many calls it made in a nanosecond.
    fn drive(&mut self, turn: Duration, begin: &Barrier, over: &AtomicBool) -> f64 {
        begin.wait();
        let begun = Instant::now();
        let mut calls = 0.0;
        loop {
            let block = async {
                for _ in 0..BLOCK {
                    call(&mut self.service).await;
                }
            };
            self.runtime.block_on(unconstrained(block));
            calls += f64::from(BLOCK);
            let elapsed = begun.elapsed();
            if elapsed >= turn || over.load(Ordering::Relaxed) {
                over.store(true, Ordering::Relaxed);
                return calls / nanos(elapsed);
            }
        }
    }
}

impl<S: Service<u64> + Send> Measured for Shared<S> {
    /// Of all threads together: half of what a call takes, where two never hinder each other.
    fn time(&mut self, turn: Duration) -> f64 {
        let begin = Barrier::new(self.callers.len());
        let over = AtomicBool::new(false);
        let throughput: f64 = thread::scope(|scope| {
            let drive = |caller| {
                let (begin, over) = (&begin, &over);
                scope.spawn(move || Caller::drive(caller, turn, begin, over))
            };
            let threads: Vec<_> = self.callers.iter_mut().map(drive).collect();
            let driven = threads.into_iter().map(|thread| match thread.join() {
                Ok(throughput) => throughput,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            driven.sum()
        });
        1.0 / throughput
    }

    fn count(&mut self) -> Option<Allocations> {
        None
    }
}
