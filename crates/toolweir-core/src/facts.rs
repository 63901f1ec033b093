//! What a layer may want to know of a request.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

/// Reads the facts of a request that a layer can make use of.
///
/// Every method has a default that knows nothing, and `()` implements them all so: a layer works
/// for any request, and knows more where the request says more.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use toolweir_core::Facts;
///
/// struct Job { user: String, until: Instant }
///
/// #[derive(Clone)]
/// struct JobFacts;
///
/// impl Facts<Job> for JobFacts {
///     fn deadline(&self, job: &Job) -> Option<Instant> {
///         Some(job.until)
///     }
///     fn key<'r>(&self, job: &'r Job) -> Option<&'r str> {
///         Some(&job.user)
///     }
/// }
/// ```
pub trait Facts<Req> {
    /// When the caller stops waiting for an answer.
    fn deadline(&self, request: &Req) -> Option<Instant> {
        let _ = request;
        None
    }

    /// Whose call it is, for layers that are fair between keys or keep a state for each.
    fn key<'r>(&self, request: &'r Req) -> Option<&'r str> {
        let _ = request;
        None
    }

    /// Which call this is: the same for each of its attempts, and no other call's.
    fn call_id<'r>(&self, request: &'r Req) -> Option<&'r str> {
        let _ = request;
        None
    }

    /// How many cells of a quota the call takes.
    fn cost(&self, request: &Req) -> NonZeroU32 {
        let _ = request;
        NonZeroU32::MIN
    }

    /// How long the token must still be valid. `None`: as long as the layer's own default.
    fn min_ttl(&self, request: &Req) -> Option<Duration> {
        let _ = request;
        None
    }
}

/// Knows nothing of any request.
impl<Req> Facts<Req> for () {}
