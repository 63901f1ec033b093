//! The layer.

use std::sync::Arc;

use tokio::time::Instant;
use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{
    RateLimit, RateLimitConfig, RateLimitHandle,
    limiters::{Choice, Limiters},
};

/// Limits how many calls are made in a time, and pauses when the server asks for it.
///
/// Every clone of this layer, all their services and all handles share one limiter, with one quota, one
/// queue, one table of bookings and one pause, or one limiter for each key. One layer is for one
/// server.
#[derive(Debug, Clone)]
pub struct RateLimitLayer<C = ErrIsFailure, F = ()> {
    limiters: Arc<Limiters>,
    choice: Choice,
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
        let limiters = Arc::new(Limiters::new(config));
        Self {
            choice: Choice::One(limiters.server().clone()),
            limiters,
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

    /// Reads results with `classify`, on the same limiters. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> RateLimitLayer<D, F> {
        RateLimitLayer {
            limiters: self.limiters,
            choice: self.choice,
            name: self.name,
            classify,
            facts: self.facts,
        }
    }

    /// Reads requests with `facts`, on the same limiters: their cost, deadline and identity, and their
    /// keys for [`by_key`](Self::by_key).
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> RateLimitLayer<C, G> {
        RateLimitLayer {
            limiters: self.limiters,
            choice: self.choice,
            name: self.name,
            classify: self.classify,
            facts,
        }
    }

    /// A limiter for each key that [`Facts::key`](toolweir_core::Facts::key) finds in a request, each
    /// with the quota of the configuration. The key is looked up once for each call. A request without
    /// a key belongs to the server's own limiter.
    #[must_use]
    pub fn by_key(mut self) -> Self {
        self.choice = Choice::ByKey(self.limiters.clone());
        self
    }

    /// The layer for the calls of one key, whatever their requests say. Its limiter is the one that
    /// [`by_key`](Self::by_key) finds for that key. No call looks anything up.
    ///
    /// The key keeps its limiter as long as this layer, or anything made of it, is there.
    #[must_use]
    pub fn for_key(&self, key: impl Into<Arc<str>>) -> Self
    where
        C: Clone,
        F: Clone,
    {
        let limiter = self.limiters.of_key(&key.into(), Instant::now());
        Self {
            choice: Choice::One(limiter),
            ..self.clone()
        }
    }

    /// Reads a limiter's state, pauses and resumes it: that of the key the layer is
    /// [for](Self::for_key), or else the server's own.
    #[must_use]
    pub fn handle(&self) -> RateLimitHandle {
        let limiter = match &self.choice {
            Choice::One(limiter) => limiter,
            Choice::ByKey(limiters) => limiters.server(),
        };
        RateLimitHandle {
            limiters: self.limiters.clone(),
            limiter: limiter.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone, F: Clone> Layer<S> for RateLimitLayer<C, F> {
    type Service = RateLimit<S, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            choice: self.choice.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }
}
