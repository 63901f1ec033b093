//! The layer.

use std::sync::Arc;

use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{
    TokenFreshness, TokenFreshnessConfig, TokenFreshnessHandle, TokenSource, shared::Shared,
};

/// Makes services whose calls go out with a fresh token.
///
/// Every clone of this layer, all services made from them and all handles share one token. One layer
/// is for one credential.
#[derive(Debug, Clone)]
pub struct TokenFreshnessLayer<C = ErrIsFailure, F = ()> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    classify: C,
    facts: F,
}

impl TokenFreshnessLayer {
    /// A layer that knows nothing of its token yet: the first call asks the source.
    ///
    /// No result is unauthorised until [`with_classifier`](Self::with_classifier) says which is.
    #[must_use]
    pub fn new(config: TokenFreshnessConfig, source: impl TokenSource + 'static) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, Arc::new(source))),
            name: None,
            classify: ErrIsFailure,
            facts: (),
        }
    }
}

impl<C, F> TokenFreshnessLayer<C, F> {
    /// Names the credential, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads results with `classify`, for the same token. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> TokenFreshnessLayer<D, F> {
        TokenFreshnessLayer {
            shared: self.shared,
            name: self.name,
            classify,
            facts: self.facts,
        }
    }

    /// Reads deadlines of requests, and how long they need the token, with `facts`.
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> TokenFreshnessLayer<C, G> {
        TokenFreshnessLayer {
            shared: self.shared,
            name: self.name,
            classify: self.classify,
            facts,
        }
    }

    /// Reads the token's state and operates it.
    #[must_use]
    pub fn handle(&self) -> TokenFreshnessHandle {
        TokenFreshnessHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone, F: Clone> Layer<S> for TokenFreshnessLayer<C, F> {
    type Service = TokenFreshness<S, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        TokenFreshness {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }
}
