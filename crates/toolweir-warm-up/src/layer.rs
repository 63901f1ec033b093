//! The layer and its builder.

use std::{fmt, sync::Arc};

use toolweir_core::{ConfigError, WarmUp};
use tower_layer::Layer;

use crate::{
    WarmUpConfig, WarmUpHandle, WarmedUp,
    flight::{Epoch, Plan},
    shared::Shared,
    step::Step,
};

/// Makes services whose calls wait until the server behind them is warm.
///
/// Every clone of this layer, all services made from them and all handles share one warmth. One layer
/// is for one server.
#[derive(Debug, Clone)]
pub struct WarmUpLayer<F = ()> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    facts: F,
}

impl WarmUpLayer {
    /// A layer, cold, with a single step. For more of them there is [`builder`](Self::builder).
    #[must_use]
    pub fn new(config: WarmUpConfig, step: impl WarmUp + 'static) -> Self {
        Self::of(Plan {
            config,
            steps: vec![Step {
                name: "warm-up".into(),
                step: Arc::new(step),
            }],
            epoch: None,
        })
    }

    /// A layer of several steps, or with an epoch.
    pub const fn builder(config: WarmUpConfig) -> WarmUpLayerBuilder {
        WarmUpLayerBuilder {
            plan: Plan {
                config,
                steps: Vec::new(),
                epoch: None,
            },
        }
    }

    fn of(plan: Plan) -> Self {
        Self {
            shared: Arc::new(Shared::new(plan)),
            name: None,
            facts: (),
        }
    }
}

impl<F> WarmUpLayer<F> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads deadlines of requests with `facts`, on the same warmth.
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> WarmUpLayer<G> {
        WarmUpLayer {
            shared: self.shared,
            name: self.name,
            facts,
        }
    }

    /// Reads the layer's state and operates it.
    #[must_use]
    pub fn handle(&self) -> WarmUpHandle {
        WarmUpHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, F: Clone> Layer<S> for WarmUpLayer<F> {
    type Service = WarmedUp<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        WarmedUp {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            facts: self.facts.clone(),
        }
    }
}

/// Builds a [`WarmUpLayer`] of several steps. From [`WarmUpLayer::builder`].
#[must_use]
pub struct WarmUpLayerBuilder {
    plan: Plan,
}

impl WarmUpLayerBuilder {
    /// Adds a step, which is run after those before it. `name` stands in states and errors.
    ///
    /// A step's own call to the server goes around this layer: through it, it would wait for itself.
    pub fn step(mut self, name: impl Into<Arc<str>>, step: impl WarmUp + 'static) -> Self {
        self.plan.steps.push(Step {
            name: name.into(),
            step: Arc::new(step),
        });
        self
    }

    /// Reads which connection it is. When that changes, what was warm is cold.
    ///
    /// `epoch` runs in every call, so it must be cheap: an atomic read. It must not block. Where the
    /// warm-up itself connects, let its first step do it: an epoch that changes later makes the steps
    /// run again.
    pub fn epoch(mut self, epoch: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let epoch: Epoch = Box::new(epoch);
        self.plan.epoch = Some(epoch);
        self
    }

    /// The layer, cold.
    ///
    /// # Errors
    ///
    /// There must be at least one step.
    pub fn build(self) -> Result<WarmUpLayer, ConfigError> {
        if self.plan.steps.is_empty() {
            return Err(ConfigError::new("steps", 0, "at least 1"));
        }
        Ok(WarmUpLayer::of(self.plan))
    }
}

impl fmt::Debug for WarmUpLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WarmUpLayerBuilder")
            .field(&self.plan)
            .finish()
    }
}
