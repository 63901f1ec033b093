//! The steps of a warm-up.

use std::{fmt, sync::Arc};

use toolweir_core::{BoxError, BoxFuture, WarmUp};

/// A step with the name that it goes by in states and errors.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) name: Arc<str>,
    pub(crate) step: Arc<dyn WarmUp>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Step").field(&self.name).finish()
    }
}

/// A step that runs a closure. From [`step_fn`].
#[derive(Clone)]
pub struct StepFn<F> {
    run: F,
}

/// Makes a step of a closure that returns a future.
///
/// ```
/// use toolweir_core::BoxError;
///
/// let greet = toolweir_warm_up::step_fn(|| async { Ok::<_, BoxError>(()) });
/// ```
pub const fn step_fn<F, Fut>(run: F) -> StepFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    StepFn { run }
}

impl<F, Fut> WarmUp for StepFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn warm_up(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin((self.run)())
    }
}

impl<F> fmt::Debug for StepFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepFn").finish_non_exhaustive()
    }
}
