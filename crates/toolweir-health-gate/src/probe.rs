//! How a server is probed.

use std::{fmt, sync::Arc};

use toolweir_core::{BoxError, BoxFuture};

/// Finds out whether a server is well.
///
/// One probe is in flight at a time, in a task of its own. It is dropped when it takes longer than
/// `timeout`. It goes to the server around the gate: through it, it would be refused when it matters.
///
/// The text of its error goes into states, logs and rejections, so it must not hold a secret. An error
/// that is the refusal of another layer counts for nothing.
pub trait Probe: Send + Sync {
    /// Asks the server. `Ok` if it is well.
    fn probe(&self) -> BoxFuture<'_, Result<(), BoxError>>;

    /// Whether the server was stopped because nobody called it, so that a probe would start it. It is
    /// asked before each probe, and must not block. By default it was not.
    fn is_dormant(&self) -> bool {
        false
    }
}

impl<T: Probe + ?Sized> Probe for Arc<T> {
    fn probe(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        (**self).probe()
    }

    fn is_dormant(&self) -> bool {
        (**self).is_dormant()
    }
}

/// A probe that runs a closure. From [`probe_fn`].
#[derive(Clone)]
pub struct ProbeFn<F> {
    probe: F,
}

/// Makes a probe of a closure that returns a future.
///
/// ```
/// use toolweir_core::BoxError;
///
/// let ping = toolweir_health_gate::probe_fn(|| async { Ok::<_, BoxError>(()) });
/// ```
pub const fn probe_fn<F, Fut>(probe: F) -> ProbeFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    ProbeFn { probe }
}

impl<F, Fut> Probe for ProbeFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn probe(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin((self.probe)())
    }
}

impl<F> fmt::Debug for ProbeFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFn").finish_non_exhaustive()
    }
}
