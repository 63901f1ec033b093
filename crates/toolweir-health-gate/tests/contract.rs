//! The contract that every layer passes.

use toolweir_core::ErrIsFailure;
use toolweir_health_gate::{HealthGateConfig, HealthGateLayer, probe_fn};

#[tokio::test(start_paused = true)]
async fn it_holds() {
    toolweir_contract::check(|| {
        let config = HealthGateConfig::builder().failure_threshold(4).build();
        let config = config.expect("the configuration is sound");
        HealthGateLayer::new(config, probe_fn(|| async { Ok(()) }))
            .name("music")
            .with_classifier(ErrIsFailure)
    })
    .await;
}
