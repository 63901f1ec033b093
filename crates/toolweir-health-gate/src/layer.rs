//! The layer.

use std::sync::Arc;

use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{HealthGate, HealthGateConfig, HealthGateHandle, Probe, shared::Shared};

/// Makes services that refuse calls while the server behind them is unhealthy.
///
/// Every clone of this layer, all services made from them and all handles share what is known. One
/// layer is for one server.
#[derive(Debug, Clone)]
pub struct HealthGateLayer<C = ErrIsFailure> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    classify: C,
}

impl HealthGateLayer {
    /// A gate that knows nothing of its server yet. An `Err` is a failure until
    /// [`with_classifier`](Self::with_classifier) says otherwise.
    #[must_use]
    pub fn new(config: HealthGateConfig, probe: impl Probe + 'static) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, Arc::new(probe))),
            name: None,
            classify: ErrIsFailure,
        }
    }
}

impl<C> HealthGateLayer<C> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads results with `classify`, for the same gate. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> HealthGateLayer<D> {
        HealthGateLayer {
            shared: self.shared,
            name: self.name,
            classify,
        }
    }

    /// Reads the gate's state and operates it.
    #[must_use]
    pub fn handle(&self) -> HealthGateHandle {
        HealthGateHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone> Layer<S> for HealthGateLayer<C> {
    type Service = HealthGate<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        HealthGate {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
        }
    }
}
