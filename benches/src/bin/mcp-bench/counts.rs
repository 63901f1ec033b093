//! Allocations of a call, and memory after many.
//!
//! Counted apart from the timing, on a runtime of one thread: the counter knows one thread alone, and
//! there it sees all that the client does. In memory the server is on that thread too.

use std::fs;

use allocation_counter::AllocationInfo;
use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use crate::{
    arguments::Plan,
    caller::{Caller, Way},
    drive::{Driven, Until, drive},
    rounds::warm_up,
    site::{Site, Transport},
};

/// How many calls are under way while memory is watched.
const IN_FLIGHT: usize = 16;
/// What 10,000 calls may leave behind: less than two bytes a call. The buffers that grow with chance,
/// such as a queue that was never so long before, are smaller.
const ALLOWED_GROWTH: i64 = 16 * 1024;

/// Live memory before and after many calls through the full stack.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Memory {
    pub(crate) transport: Transport,
    pub(crate) in_flight: usize,
    /// How many calls were made between the two.
    pub(crate) calls: usize,
    /// What the client has allocated and not freed, once it is warm.
    pub(crate) live_bytes_before: i64,
    pub(crate) live_bytes_after: i64,
    pub(crate) growth_bytes: i64,
    pub(crate) allowed_growth_bytes: i64,
    /// What the whole bench has of the machine's memory, where the system tells.
    pub(crate) resident_bytes_before: Option<u64>,
    pub(crate) resident_bytes_after: Option<u64>,
}

impl Memory {
    pub(crate) const fn is_flat(&self) -> bool {
        self.growth_bytes <= self.allowed_growth_bytes
    }
}

/// How many allocations one call makes.
pub(crate) fn allocations(
    plan: &Plan,
    transport: Transport,
    in_flight: usize,
    way: Way,
) -> Result<f64> {
    let runtime = one_thread()?;
    let (caller, site) = runtime.block_on(connect(plan, transport, in_flight, way))?;
    let calls = plan.counted.div_ceil(in_flight);
    let counted = made(&runtime, &caller, in_flight, calls)?;
    runtime.block_on(caller.close());
    drop(site);
    let calls = u32::try_from(calls * in_flight)?;
    let allocations = u32::try_from(counted.count_total).context("too many allocations")?;
    Ok(f64::from(allocations) / f64::from(calls))
}

/// Sees whether calls leave memory behind.
pub(crate) fn memory(plan: &Plan) -> Result<Memory> {
    let runtime = one_thread()?;
    let transport = Transport::Stdio;
    let mut connected = None;
    let warm = allocation_counter::measure(|| {
        let warm = runtime.block_on(connect(plan, transport, IN_FLIGHT, Way::Full));
        let again = warm.and_then(|(caller, site)| {
            // As many again as are counted: what fills up has then been full once.
            let calls = Until::Made(plan.flat.div_ceil(IN_FLIGHT));
            runtime.block_on(drive(&caller, IN_FLIGHT, calls, &mut Driven::default()))?;
            Ok((caller, site))
        });
        connected = Some(again);
    });
    let (caller, _site) = connected.context("nothing was run")??;
    let resident_before = resident();
    let calls = plan.flat.div_ceil(IN_FLIGHT);
    let counted = made(&runtime, &caller, IN_FLIGHT, calls)?;
    let resident_after = resident();
    runtime.block_on(caller.close());
    Ok(Memory {
        transport,
        in_flight: IN_FLIGHT,
        calls: calls * IN_FLIGHT,
        live_bytes_before: warm.bytes_current,
        live_bytes_after: warm.bytes_current + counted.bytes_current,
        growth_bytes: counted.bytes_current,
        allowed_growth_bytes: ALLOWED_GROWTH,
        resident_bytes_before: resident_before,
        resident_bytes_after: resident_after,
    })
}

fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

async fn connect(
    plan: &Plan,
    transport: Transport,
    in_flight: usize,
    way: Way,
) -> Result<(Caller, Site)> {
    let site = Site::open(transport).await?;
    let caller = Caller::connect(way, &site).await?;
    warm_up(plan, &caller, in_flight).await?;
    Ok((caller, site))
}

/// Counts what so many calls in each of so many tasks allocate.
fn made(
    runtime: &Runtime,
    caller: &Caller,
    in_flight: usize,
    calls: usize,
) -> Result<AllocationInfo> {
    let mut made = Ok(());
    let counted = allocation_counter::measure(|| {
        let until = Until::Made(calls);
        made = runtime.block_on(drive(caller, in_flight, until, &mut Driven::default()));
    });
    made.map(|()| counted)
}

/// The memory that this process has, from the system.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kibibytes * 1024)
}
