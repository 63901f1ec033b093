//! The contract that every layer passes.

use toolweir_warm_up::{WarmUpConfig, WarmUpLayer, step_fn};

#[tokio::test(start_paused = true)]
async fn it_holds() {
    toolweir_contract::check(|| {
        WarmUpLayer::new(WarmUpConfig::default(), step_fn(|| async { Ok(()) }))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_holds_with_an_epoch_and_a_name() {
    toolweir_contract::check(|| {
        WarmUpLayer::builder(WarmUpConfig::default())
            .step(
                "yield",
                step_fn(|| async {
                    tokio::task::yield_now().await;
                    Ok(())
                }),
            )
            .epoch(|| 7)
            .build()
            .unwrap()
            .name("music")
    })
    .await;
}
