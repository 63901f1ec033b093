//! The layers.

use std::sync::Arc;

use tokio::time::Instant;
use toolweir_core::ErrIsFailure;
use tower_layer::Layer;

use crate::{
    Admission, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerHandle, Observer,
    circuits::{Choice, Circuits},
};

/// Makes circuit breakers that share one circuit, or one for each key.
///
/// Every clone of this layer, both its halves, all their services and all handles share the
/// circuits. One layer is for one server.
///
/// As a layer it is the whole breaker. [`admission`](Self::admission) and
/// [`observation`](Self::observation) give its halves, for a stack with something between them.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C = ErrIsFailure, F = ()> {
    circuits: Arc<Circuits>,
    choice: Choice,
    name: Option<Arc<str>>,
    classify: C,
    facts: F,
}

impl CircuitBreakerLayer {
    /// A new circuit, closed. An `Err` is a failure until
    /// [`with_classifier`](Self::with_classifier) says otherwise.
    #[must_use]
    pub fn new(config: CircuitBreakerConfig) -> Self {
        let circuits = Arc::new(Circuits::new(config));
        Self {
            choice: Choice::Server(circuits.server().clone()),
            circuits,
            name: None,
            classify: ErrIsFailure,
            facts: (),
        }
    }
}

impl<C, F> CircuitBreakerLayer<C, F> {
    /// Names the server, for the key of rejections. Call it before anything is made of the layer:
    /// what was made earlier keeps the earlier name.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads results with `classify`, on the same circuits. Each call clones it.
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> CircuitBreakerLayer<D, F> {
        CircuitBreakerLayer {
            circuits: self.circuits,
            choice: self.choice,
            name: self.name,
            classify,
            facts: self.facts,
        }
    }

    /// Reads requests with `facts`, on the same circuits: their keys, for
    /// [`by_key`](Self::by_key).
    #[must_use]
    pub fn with_facts<G>(self, facts: G) -> CircuitBreakerLayer<C, G> {
        CircuitBreakerLayer {
            circuits: self.circuits,
            choice: self.choice,
            name: self.name,
            classify: self.classify,
            facts,
        }
    }

    /// A circuit for each key that [`Facts::key`](toolweir_core::Facts::key) finds in a request. The
    /// key is looked up once for each call. A request without a key belongs to the server's own
    /// circuit, and while that is held, every request does.
    #[must_use]
    pub fn by_key(mut self) -> Self {
        self.choice = Choice::ByKey(self.circuits.clone());
        self
    }

    /// The layer for the calls of one key, whatever their requests say. Its circuit is the one that
    /// [`by_key`](Self::by_key) finds for that key, and the server's own while that is held. No call
    /// looks anything up.
    ///
    /// The key keeps its circuit as long as this layer, or anything made of it, is there.
    #[must_use]
    pub fn for_key(&self, key: impl Into<Arc<str>>) -> Self
    where
        C: Clone,
        F: Clone,
    {
        let circuit = self.circuits.of_key(&key.into(), Instant::now());
        Self {
            choice: Choice::Key(circuit, self.circuits.clone()),
            ..self.clone()
        }
    }

    /// The outer half, on the same circuits: admits or refuses.
    #[must_use]
    pub fn admission(&self) -> AdmissionLayer<F>
    where
        F: Clone,
    {
        AdmissionLayer {
            choice: self.choice.clone(),
            name: self.name.clone(),
            facts: self.facts.clone(),
        }
    }

    /// The inner half, on the same circuits: dispatches and observes.
    #[must_use]
    pub fn observation(&self) -> ObservationLayer<C, F>
    where
        C: Clone,
        F: Clone,
    {
        ObservationLayer {
            choice: self.choice.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }

    /// Reads a circuit's state and operates it: that of the key the layer is
    /// [for](Self::for_key), or else the server's own.
    #[must_use]
    pub fn handle(&self) -> CircuitBreakerHandle {
        let circuit = match &self.choice {
            Choice::Server(circuit) | Choice::Key(circuit, _) => circuit,
            Choice::ByKey(circuits) => circuits.server(),
        };
        CircuitBreakerHandle {
            circuits: self.circuits.clone(),
            circuit: circuit.clone(),
            name: self.name.clone(),
        }
    }
}

impl<S, C: Clone, F: Clone> Layer<S> for CircuitBreakerLayer<C, F> {
    type Service = CircuitBreaker<S, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker {
            inner,
            choice: self.choice.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }
}

/// Makes the outer half of a breaker. From [`CircuitBreakerLayer::admission`].
#[derive(Debug, Clone)]
pub struct AdmissionLayer<F = ()> {
    choice: Choice,
    name: Option<Arc<str>>,
    facts: F,
}

impl<S, F: Clone> Layer<S> for AdmissionLayer<F> {
    type Service = Admission<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Admission {
            inner,
            choice: self.choice.clone(),
            name: self.name.clone(),
            facts: self.facts.clone(),
        }
    }
}

/// Makes the inner half of a breaker. From [`CircuitBreakerLayer::observation`].
#[derive(Debug, Clone)]
pub struct ObservationLayer<C = ErrIsFailure, F = ()> {
    choice: Choice,
    name: Option<Arc<str>>,
    classify: C,
    facts: F,
}

impl<S, C: Clone, F: Clone> Layer<S> for ObservationLayer<C, F> {
    type Service = Observer<S, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Observer {
            inner,
            choice: self.choice.clone(),
            name: self.name.clone(),
            classify: self.classify.clone(),
            facts: self.facts.clone(),
        }
    }
}
