//! Random histories, held against plain models that share no code with the crate.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::future::Future;

use proptest::prelude::ProptestConfig;

mod booked;
mod quota;
#[path = "../server/mod.rs"]
mod server;
mod waiting;

/// In no stretch of time have more cells passed than the burst and what came back in it. `passed` are
/// times and cells, and `interval` is that in which one comes back.
fn assert_within_quota(passed: &[(i128, i128)], burst: u32, interval: i128) {
    for (at, (start, _)) in passed.iter().enumerate() {
        let mut cells = 0;
        for (end, cost) in &passed[at..] {
            cells += cost;
            assert!(cells <= i128::from(burst) + (end - start) / interval);
        }
    }
}

fn in_a_paused_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
