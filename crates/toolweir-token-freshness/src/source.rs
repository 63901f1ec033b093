//! Where tokens come from.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use toolweir_core::{BoxError, BoxFuture};

/// Holds one credential, says how long its token lives, and gets the next one.
///
/// The layer never sees the token itself: the source, or the server behind it, keeps it and puts it
/// into the calls. There is one answer in flight at a time, in a task of its own. It is dropped when it
/// takes longer than `refresh_timeout`. A source whose provider rotates its tokens stores the new one
/// before it answers, and guards it against other processes.
pub trait TokenSource: Send + Sync {
    /// How much is left of the token that the source has, without getting another one.
    ///
    /// Asked when nothing is known: at first, and after a reset. A source that has no token, or an
    /// expired one, answers [`TokenLife::EXPIRED`], and is then asked to refresh. So does the default.
    fn current(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        Box::pin(async { Ok(TokenLife::EXPIRED) })
    }

    /// Gets a new token, and tells its life.
    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>>;
}

impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    fn current(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        (**self).current()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        (**self).refresh()
    }
}

/// How long a token lives, from the moment at which the layer gets to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenLife {
    /// What is left of its life. `None`: it does not expire.
    pub expires_in: Option<Duration>,
}

impl TokenLife {
    /// A token that has expired, or none at all.
    pub const EXPIRED: Self = Self::of(Duration::ZERO);

    /// A token that does not expire.
    pub const ENDLESS: Self = Self { expires_in: None };

    /// A token that expires in so much time.
    #[must_use]
    pub const fn of(expires_in: Duration) -> Self {
        Self {
            expires_in: Some(expires_in),
        }
    }

    /// A token of which a wall-clock time is known: here, at the edge, it becomes what is left.
    ///
    /// `now` is the wall-clock time that the source reads from a clock which its tests can set. A jump
    /// of that clock later on changes nothing.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use toolweir_token_freshness::TokenLife;
    ///
    /// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    /// let expires_at = now + Duration::from_secs(3600);
    /// assert_eq!(
    ///     TokenLife::until(expires_at, now),
    ///     TokenLife::of(Duration::from_secs(3600))
    /// );
    /// assert_eq!(TokenLife::until(now, expires_at), TokenLife::EXPIRED);
    /// ```
    #[must_use]
    pub fn until(expires_at: SystemTime, now: SystemTime) -> Self {
        Self::of(expires_at.duration_since(now).unwrap_or_default())
    }
}

/// Why there is no new token.
///
/// Its text goes into states, logs and rejections, so it must not hold a secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// The grant is no longer any good (`invalid_grant`): no refresh can succeed until somebody acts.
    #[non_exhaustive]
    Rejected {
        /// What the authorisation server said.
        source: BoxError,
        /// What somebody has to do, as an instruction.
        recovery: Cow<'static, str>,
    },
    /// It did not work this time.
    #[non_exhaustive]
    Unavailable {
        /// What went wrong. If this is the refusal of a layer, it is no failure of the source's.
        source: BoxError,
        /// When to try again, in the words of the authorisation server.
        retry_after: Option<Duration>,
    },
}

impl TokenError {
    /// The grant was rejected. `recovery` says what somebody has to do, as an instruction.
    pub fn rejected(source: impl Into<BoxError>, recovery: impl Into<Cow<'static, str>>) -> Self {
        Self::Rejected {
            source: source.into(),
            recovery: recovery.into(),
        }
    }

    /// It did not work this time.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable {
            source: source.into(),
            retry_after: None,
        }
    }

    /// Says when to try again. A rejected grant stays rejected.
    #[must_use]
    pub fn with_retry_after(mut self, duration: Duration) -> Self {
        if let Self::Unavailable { retry_after, .. } = &mut self {
            *retry_after = Some(duration);
        }
        self
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { source, recovery } => {
                write!(
                    f,
                    "the grant was rejected: {source}; to recover, {recovery}"
                )
            }
            Self::Unavailable { source, .. } => write!(f, "no new token: {source}"),
        }
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Rejected { source, .. } | Self::Unavailable { source, .. } => Some(&**source),
        }
    }
}

/// A source that runs a closure for each refresh. From [`refresh_fn`].
#[derive(Clone)]
pub struct RefreshFn<F> {
    refresh: F,
}

/// Makes a token source of a closure that returns a future.
///
/// ```
/// use std::time::Duration;
/// use toolweir_token_freshness::{TokenLife, refresh_fn};
///
/// let source = refresh_fn(|| async { Ok(TokenLife::of(Duration::from_secs(3600))) });
/// ```
pub const fn refresh_fn<F, Fut>(refresh: F) -> RefreshFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<TokenLife, TokenError>> + Send + 'static,
{
    RefreshFn { refresh }
}

impl<F, Fut> TokenSource for RefreshFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<TokenLife, TokenError>> + Send + 'static,
{
    fn refresh(&self) -> BoxFuture<'_, Result<TokenLife, TokenError>> {
        Box::pin((self.refresh)())
    }
}

impl<F> fmt::Debug for RefreshFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshFn").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_what_to_do() {
        let error = TokenError::rejected("invalid_grant", "run `music login`");
        assert_eq!(
            error.to_string(),
            "the grant was rejected: invalid_grant; to recover, run `music login`"
        );
        assert_eq!(error.source().unwrap().to_string(), "invalid_grant");
    }

    #[test]
    fn a_rejected_grant_has_no_retry_after() {
        let error = TokenError::rejected("invalid_grant", "log in");
        let error = error.with_retry_after(Duration::from_secs(1));
        assert!(matches!(error, TokenError::Rejected { .. }));
    }
}
