//! A breaker with a window of time that has so many calls in it.

use std::time::Duration;

use anyhow::Result;
use tokio::{runtime::Runtime, task::unconstrained, time::Instant};
use tower::Service;

use super::{
    Allocations, Measured,
    alone::{counted, nanos, runtime},
};
use crate::layers::{call::call, figures::Spread};

/// How many calls are measured of each breaker: few beside those that are in its window.
const BLOCK: u32 = 20;

/// Breakers that are made anew, because each call that is measured is one more in the window.
pub(crate) struct Window<M> {
    make: M,
    calls: u32,
    runtime: Runtime,
}

impl<M, S> Window<M>
where
    M: Fn() -> S,
    S: Service<u64>,
{
    pub(crate) fn with(calls: u32, make: M) -> Result<Self> {
        let runtime = runtime()?;
        Ok(Self {
            make,
            calls,
            runtime,
        })
    }

    /// A breaker whose window is as full as it should be.
    fn filled(&self) -> S {
        let mut service = (self.make)();
        self.block(&mut service, self.calls);
        service
    }

    fn block(&self, service: &mut S, calls: u32) {
        let calls = async {
            for _ in 0..calls {
                call(service).await;
            }
        };
        self.runtime.block_on(unconstrained(calls));
    }
}

impl<M, S> Measured for Window<M>
where
    M: Fn() -> S,
    S: Service<u64>,
{
    /// The filling is not measured, but takes most of the turn.
    fn time(&mut self, turn: Duration) -> f64 {
        let begun = Instant::now();
        let mut blocks = Vec::new();
        while blocks.is_empty() || begun.elapsed() < turn {
            let mut service = self.filled();
            let begun = Instant::now();
            self.block(&mut service, BLOCK);
            blocks.push(nanos(begun.elapsed()));
        }
        Spread::of(blocks).median / f64::from(BLOCK)
    }

    fn count(&mut self) -> Option<Allocations> {
        let mut service = self.filled();
        Some(counted(BLOCK, || self.block(&mut service, BLOCK)))
    }
}
