//! The layer.

use std::sync::Arc;

use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{RateLimit, RateLimitConfig, RateLimitHandle, shared::Shared};

/// Limits how many calls are made in a time, and pauses when the server asks for it.
///
/// Every clone of this layer, all their services and all handles share one quota, one queue and one
/// pause. One layer is for one server.
#[derive(Debug, Clone)]
pub struct RateLimitLayer<C = ErrIsFailure, F = ()> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    classify: C,
    facts: F,
}

impl RateLimitLayer {
    /// A new quota with all its burst to spend. Until [`with_classifier`](Self::with_classifier)
    /// says otherwise, no answer is taken for a throttled one; until
    /// [`with_facts`](Self::with_facts) does, each call costs 1 and has no deadline.
    #[must_use]
    pub fn new(config: RateLimitConfig) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
            name: None,
            classify: ErrIsFailure,
            facts: (),
        }
    }
}

impl<C, F> RateLimitLayer<C, F> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads results with `classify`, on the same quota. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> RateLimitLayer<D, F> {
        RateLimitLayer {
            shared: self.shared,
            name: self.name,
            classify,
            facts: self.facts,
        }
    }

    /// Reads the cost and the deadline of requests with `facts`, on the same quota.
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> RateLimitLayer<C, G> {
        RateLimitLayer {
            shared: self.shared,
            name: self.name,
            classify: self.classify,
            facts,
        }
    }

    /// Reads the state, pauses and resumes.
    #[must_use]
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone, F: Clone> Layer<S> for RateLimitLayer<C, F> {
    type Service = RateLimit<S, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }
}
