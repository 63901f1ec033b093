//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use crate::{Semaphore, SemaphoreConfig, SemaphoreHandle, shared::Shared};

/// Limits how many calls are under way at once.
///
/// Every clone of this layer, all their services and all handles share one set of permits and one
/// queue. One layer is for one server.
#[derive(Debug, Clone)]
pub struct SemaphoreLayer<F = ()> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    facts: F,
}

impl SemaphoreLayer {
    /// A new semaphore with all its permits free. It knows no deadline of any request until
    /// [`with_facts`](Self::with_facts) tells it where to look.
    #[must_use]
    pub fn new(config: SemaphoreConfig) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
            name: None,
            facts: (),
        }
    }
}

impl<F> SemaphoreLayer<F> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads the deadlines of requests with `facts`, on the same permits.
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> SemaphoreLayer<G> {
        SemaphoreLayer {
            shared: self.shared,
            name: self.name,
            facts,
        }
    }

    /// Reads the state and changes the number of permits.
    #[must_use]
    pub fn handle(&self) -> SemaphoreHandle {
        SemaphoreHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, F: Clone> Layer<S> for SemaphoreLayer<F> {
    type Service = Semaphore<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Semaphore {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            facts: self.facts.clone(),
        }
    }
}
