//! The contract of all layers.

use toolweir_semaphore::{SemaphoreConfig, SemaphoreLayer};

#[tokio::test(start_paused = true)]
async fn the_default_semaphore() {
    toolweir_contract::check(|| SemaphoreLayer::new(SemaphoreConfig::default()).name("music"))
        .await;
}

/// With a single permit, every one that is lost is seen.
#[tokio::test(start_paused = true)]
async fn a_single_permit_without_a_queue() {
    let single = || {
        let config = SemaphoreConfig::builder().permits(1).max_queue(0).build();
        SemaphoreLayer::new(config.unwrap())
    };
    toolweir_contract::check(single).await;
}
