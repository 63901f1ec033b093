//! The layers.

use std::sync::Arc;

use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{
    Admission, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerHandle, Observer, shared::Shared,
};

/// Makes circuit breakers that share one circuit.
///
/// Every clone of this layer, both its halves, all their services and all handles share that
/// circuit. One layer is for one server.
///
/// As a layer it is the whole breaker. [`admission`](Self::admission) and
/// [`observation`](Self::observation) give its halves, for a stack with something between them.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C = ErrIsFailure> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    classify: C,
}

impl CircuitBreakerLayer {
    /// A new circuit, closed. An `Err` is a failure until
    /// [`with_classifier`](Self::with_classifier) says otherwise.
    #[must_use]
    pub fn new(config: CircuitBreakerConfig) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
            name: None,
            classify: ErrIsFailure,
        }
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads results with `classify`, on the same circuit. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> CircuitBreakerLayer<D> {
        CircuitBreakerLayer {
            shared: self.shared,
            name: self.name,
            classify,
        }
    }

    /// The outer half, on the same circuit: admits or refuses.
    #[must_use]
    pub fn admission(&self) -> AdmissionLayer {
        AdmissionLayer {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }

    /// The inner half, on the same circuit: dispatches and observes.
    #[must_use]
    pub fn observation(&self) -> ObservationLayer<C>
    where
        C: Clone,
    {
        ObservationLayer {
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
        }
    }

    /// Reads the circuit's state and operates it.
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle {
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
        }
    }
}

/// Makes the outer half of a breaker. From [`CircuitBreakerLayer::admission`].
#[derive(Debug, Clone)]
pub struct AdmissionLayer {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Admission {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
        }
    }
}

/// Makes the inner half of a breaker. From [`CircuitBreakerLayer::observation`].
#[derive(Debug, Clone)]
pub struct ObservationLayer<C = ErrIsFailure> {
    shared: Arc<Shared>,
    name: Option<Arc<str>>,
    classify: C,
}

impl<S, C: Clone> Layer<S> for ObservationLayer<C> {
    type Service = Observer<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Observer {
            inner,
            shared: self.shared.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
        }
    }
}
