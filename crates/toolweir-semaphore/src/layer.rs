//! The layer.

use tower_layer::Layer;

use crate::{
    Semaphore, SemaphoreConfig, SemaphoreHandle, keys::Name, service::KeyOf, shared::Shared,
    sync::Arc,
};

/// Limits how many calls are under way at once.
///
/// Every clone of this layer, all their services and all handles share one set of permits and one
/// queue. One layer is for one server.
#[derive(Debug, Clone)]
pub struct SemaphoreLayer<F = ()> {
    shared: Arc<Shared>,
    name: Option<Name>,
    key: KeyOf,
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
            key: KeyOf::Nobody,
            facts: (),
        }
    }
}

impl<F> SemaphoreLayer<F> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads the deadlines of requests with `facts`, on the same permits.
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> SemaphoreLayer<G> {
        SemaphoreLayer {
            shared: self.shared,
            name: self.name,
            key: self.key,
            facts,
        }
    }

    /// The layer for the calls of one key, on the same permits.
    ///
    /// Permits go to keys in turn, so that no key's calls wait for all those of another. A call that
    /// need not wait does not cost more for having a key.
    #[must_use]
    pub fn for_key(mut self, key: impl Into<Name>) -> Self {
        self.key = KeyOf::Bound(key.into());
        self
    }

    /// The layer for the calls of many keys, each of which is read from its request by
    /// [`Facts::key`](toolweir_core::Facts::key). Calls without a key are those of one key.
    ///
    /// A key is read when its call finds no permit, and not before, unless there is a
    /// [`max_per_key`](crate::SemaphoreConfigBuilder::max_per_key).
    #[must_use]
    pub fn by_key(mut self) -> Self {
        self.key = KeyOf::Request;
        self
    }

    /// Reads the state and changes the number of permits.
    #[must_use]
    pub fn handle(&self) -> SemaphoreHandle {
        SemaphoreHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
            key: self.key.bound().cloned(),
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
            key: self.key.clone(),
            facts: self.facts.clone(),
        }
    }
}
