//! The one answer to "how did the call go".

use std::{fmt, time::Duration};

use crate::AsRejection;

/// How a call went, as far as the server's health, quota and authorisation are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The server did its work.
    Success,
    /// The server, or the way to it, is at fault.
    Failure,
    /// The server asks for fewer calls. Its health is not in doubt.
    Throttled {
        /// The server's own word on when to come back.
        retry_after: Option<Duration>,
    },
    /// The server does not accept the credential.
    Unauthorized,
    /// The caller's mistake or a business error: it says nothing about the server.
    Ignored,
}

/// Whether the server executed the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Delivery {
    /// Surely not: the call never left, or the server said that it refused it.
    NotSent,
    /// Surely: the server answered.
    Executed,
    /// Nobody can tell: the answer was lost.
    Ambiguous,
}

/// What one call's result says: its outcome, and whether it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// How the call went.
    pub outcome: Outcome,
    /// Whether the server executed it.
    pub delivery: Delivery,
}

impl Observation {
    /// An observation of `outcome` with `delivery`.
    #[must_use]
    pub const fn new(outcome: Outcome, delivery: Delivery) -> Self {
        Self { outcome, delivery }
    }
}

/// Tells what a result says about the server.
///
/// Layers ask it after [`observe`] has made sure that the result is not the refusal of an inner
/// layer. It sees `Ok` responses too, because some servers hide failures there. A closure is a
/// classifier:
///
/// ```
/// use toolweir_core::{Classify, Delivery, Observation, Outcome};
///
/// let by_status = |result: Result<&u16, &std::io::Error>| match result {
///     Ok(429) => Observation::new(Outcome::Throttled { retry_after: None }, Delivery::NotSent),
///     Ok(500..) => Observation::new(Outcome::Failure, Delivery::Executed),
///     Ok(_) => Observation::new(Outcome::Success, Delivery::Executed),
///     Err(_) => Observation::new(Outcome::Failure, Delivery::Ambiguous),
/// };
/// assert_eq!(by_status.classify(Ok(&503)).outcome, Outcome::Failure);
/// ```
pub trait Classify<Res, Err> {
    /// What `result` says.
    fn classify(&self, result: Result<&Res, &Err>) -> Observation;

    /// What a failed `result` says, in words for the people who read a layer's state. By default
    /// nothing.
    ///
    /// Layers ask it of failures alone. Use [`shown`](crate::shown) or
    /// [`error_text`](crate::error_text), which bound and escape, and leave secrets out.
    fn describe(&self, result: Result<&Res, &Err>) -> Option<String> {
        let _ = result;
        None
    }
}

impl<F, Res, Err> Classify<Res, Err> for F
where
    F: Fn(Result<&Res, &Err>) -> Observation,
{
    fn classify(&self, result: Result<&Res, &Err>) -> Observation {
        self(result)
    }
}

/// The classifier that layers start with: `Ok` is a success, `Err` a failure of ambiguous delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrIsFailure;

impl<Res, Err> Classify<Res, Err> for ErrIsFailure {
    fn classify(&self, result: Result<&Res, &Err>) -> Observation {
        match result {
            Ok(_) => Observation::new(Outcome::Success, Delivery::Executed),
            Err(_) => Observation::new(Outcome::Failure, Delivery::Ambiguous),
        }
    }
}

/// Describes failures by their `Display`, and leaves all else to `C`.
///
/// It is no default, since not every error has a `Display`, and one that has may show a secret.
///
/// ```
/// use toolweir_core::{BoxError, Classify, ErrText};
///
/// let classify = ErrText::new();
/// let failed = BoxError::from("connection reset");
/// let text = Classify::<(), BoxError>::describe(&classify, Err(&failed));
/// assert_eq!(text.as_deref(), Some("connection reset"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrText<C = ErrIsFailure>(C);

impl ErrText {
    /// Takes every error for a failure.
    #[must_use]
    pub const fn new() -> Self {
        Self(ErrIsFailure)
    }
}

impl<C> ErrText<C> {
    /// Classifies as `classify` does.
    #[must_use]
    pub const fn of(classify: C) -> Self {
        Self(classify)
    }
}

impl<C, Res, Err> Classify<Res, Err> for ErrText<C>
where
    C: Classify<Res, Err>,
    Err: fmt::Display,
{
    fn classify(&self, result: Result<&Res, &Err>) -> Observation {
        self.0.classify(result)
    }

    fn describe(&self, result: Result<&Res, &Err>) -> Option<String> {
        match result {
            Ok(_) => self.0.describe(result),
            Err(error) => Some(crate::shown(error)),
        }
    }
}

/// Classifies a result, unless it is the refusal of an inner layer: then `None`.
///
/// Every layer asks through this function, so that a refusal is never taken for a failure.
pub fn observe<C, Res, Err>(classify: &C, result: Result<&Res, &Err>) -> Option<Observation>
where
    C: Classify<Res, Err>,
    Err: AsRejection,
{
    match result {
        Err(error) if error.as_rejection().is_some() => None,
        result => Some(classify.classify(result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, Reason, Rejection};

    #[test]
    fn a_refusal_is_not_observed() {
        let refused = BoxError::from(Rejection::new("semaphore", Reason::QueueFull));
        assert_eq!(observe::<_, (), _>(&ErrIsFailure, Err(&refused)), None);
    }

    #[test]
    fn a_closure_describes_nothing_until_its_errors_are_shown() {
        let classify = |result: Result<&(), &BoxError>| ErrIsFailure.classify(result);
        let failed = BoxError::from("broken\npipe");
        assert_eq!(classify.describe(Err(&failed)), None);
        let shows = ErrText::of(classify);
        assert_eq!(shows.describe(Err(&failed)), Some(r"broken\npipe".into()));
        assert_eq!(shows.describe(Ok(&())), None);
        assert_eq!(shows.classify(Err(&failed)).outcome, Outcome::Failure);
    }

    #[test]
    fn an_error_is_an_ambiguous_failure_by_default() {
        let failed = BoxError::from("broken pipe");
        assert_eq!(
            observe::<_, (), _>(&ErrIsFailure, Err(&failed)),
            Some(Observation::new(Outcome::Failure, Delivery::Ambiguous))
        );
    }
}
