//! When a token is refreshed, how long that may take, and how long calls wait for it.

use std::time::Duration;

use toolweir_core::ConfigError;

const DEFAULT_MIN_TTL: Duration = Duration::from_secs(30);
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How a token is kept fresh. [`Default`] suits tokens that live for minutes or hours.
///
/// ```
/// use std::time::Duration;
/// use toolweir_token_freshness::TokenFreshnessConfig;
///
/// let config = TokenFreshnessConfig::builder()
///     .refresh_ahead(Duration::from_secs(120))
///     .min_ttl(Duration::from_secs(20))
///     .build()?;
/// # Ok::<(), toolweir_core::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFreshnessConfig {
    pub(crate) refresh_ahead: Duration,
    pub(crate) min_ttl: Duration,
    pub(crate) refresh_timeout: Duration,
    pub(crate) max_wait: Duration,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) jitter: u8,
}

impl TokenFreshnessConfig {
    /// Starts from the defaults.
    pub fn builder() -> TokenFreshnessConfigBuilder {
        TokenFreshnessConfigBuilder::default()
    }
}

impl Default for TokenFreshnessConfig {
    fn default() -> Self {
        Self::builder().resolve()
    }
}

/// Builds a [`TokenFreshnessConfig`].
#[derive(Debug, Clone)]
#[must_use]
pub struct TokenFreshnessConfigBuilder {
    refresh_ahead: Duration,
    min_ttl: Option<Duration>,
    refresh_timeout: Duration,
    max_wait: Duration,
    initial_backoff: Duration,
    max_backoff: Option<Duration>,
    jitter: u8,
}

impl Default for TokenFreshnessConfigBuilder {
    fn default() -> Self {
        Self {
            refresh_ahead: Duration::from_secs(5 * 60),
            min_ttl: None,
            refresh_timeout: Duration::from_secs(30),
            max_wait: Duration::from_secs(10),
            initial_backoff: Duration::from_secs(1),
            max_backoff: None,
            jitter: 10,
        }
    }
}

impl TokenFreshnessConfigBuilder {
    /// How long before its expiry a token is refreshed behind the calls, by default 5 minutes.
    ///
    /// This is the advisory window. It is at most half of a token's life, however long that is.
    pub const fn refresh_ahead(mut self, duration: Duration) -> Self {
        self.refresh_ahead = duration;
        self
    }

    /// How long a token should still be valid when a call is made with it: at most `refresh_ahead`,
    /// by default 30 seconds or that, whichever is shorter.
    ///
    /// This is the mandatory window: a call that comes in it waits for the refresh. It is at most a
    /// quarter of a token's life.
    pub const fn min_ttl(mut self, duration: Duration) -> Self {
        self.min_ttl = Some(duration);
        self
    }

    /// How long the token source may take for an answer: more than zero, by default 30 seconds.
    pub const fn refresh_timeout(mut self, duration: Duration) -> Self {
        self.refresh_timeout = duration;
        self
    }

    /// How long a call waits for a token, by default 10 seconds. A call whose own deadline comes
    /// first waits until then.
    pub const fn max_wait(mut self, duration: Duration) -> Self {
        self.max_wait = duration;
        self
    }

    /// How long nothing is tried after a first failure: more than zero, by default one second.
    ///
    /// Each further failure in a row doubles it, up to `max_backoff`.
    pub const fn initial_backoff(mut self, duration: Duration) -> Self {
        self.initial_backoff = duration;
        self
    }

    /// The longest time without a new try: at least `initial_backoff`, by default one minute or that,
    /// whichever is longer. A source that asks for more time gets it, up to an hour.
    pub const fn max_backoff(mut self, duration: Duration) -> Self {
        self.max_backoff = Some(duration);
        self
    }

    /// By how much the advisory window and the backoff vary, in percent: 0 to 50, by default 10.
    ///
    /// Each is shortened by a random share of up to this, so that the workers of a fleet do not come
    /// as one.
    pub const fn jitter(mut self, percent: u8) -> Self {
        self.jitter = percent;
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<TokenFreshnessConfig, ConfigError> {
        let config = self.resolve();
        positive("refresh_timeout", config.refresh_timeout)?;
        positive("initial_backoff", config.initial_backoff)?;
        if config.min_ttl > config.refresh_ahead {
            let allowed = format!("at most `refresh_ahead` ({:?})", config.refresh_ahead);
            return Err(wrong("min_ttl", config.min_ttl, allowed));
        }
        if config.max_backoff < config.initial_backoff {
            let allowed = format!("at least `initial_backoff` ({:?})", config.initial_backoff);
            return Err(wrong("max_backoff", config.max_backoff, allowed));
        }
        if config.jitter > 50 {
            return Err(ConfigError::new("jitter", config.jitter, "from 0 to 50"));
        }
        Ok(config)
    }

    /// Fills in what depends on other values.
    fn resolve(self) -> TokenFreshnessConfig {
        TokenFreshnessConfig {
            refresh_ahead: self.refresh_ahead,
            min_ttl: self
                .min_ttl
                .unwrap_or(DEFAULT_MIN_TTL.min(self.refresh_ahead)),
            refresh_timeout: self.refresh_timeout,
            max_wait: self.max_wait,
            initial_backoff: self.initial_backoff,
            max_backoff: self
                .max_backoff
                .unwrap_or(DEFAULT_MAX_BACKOFF.max(self.initial_backoff)),
            jitter: self.jitter,
        }
    }
}

fn positive(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    if value.is_zero() {
        return Err(wrong(field, value, "longer than zero".to_owned()));
    }
    Ok(())
}

fn wrong(field: &'static str, value: Duration, allowed: String) -> ConfigError {
    ConfigError::new(field, format!("{value:?}"), allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_what_build_gives() {
        let built = TokenFreshnessConfig::builder().build().unwrap();
        assert_eq!(built, TokenFreshnessConfig::default());
    }

    #[test]
    fn what_depends_on_other_values_follows_them() {
        let config = TokenFreshnessConfig::builder()
            .refresh_ahead(Duration::from_secs(2))
            .initial_backoff(Duration::from_secs(90))
            .build()
            .unwrap();
        assert_eq!(config.min_ttl, Duration::from_secs(2));
        assert_eq!(config.max_backoff, Duration::from_secs(90));
    }

    #[test]
    fn each_wrong_value_is_named() {
        let second = Duration::from_secs(1);
        let builder = TokenFreshnessConfig::builder;
        for (field, wrong) in [
            ("refresh_timeout", builder().refresh_timeout(Duration::ZERO)),
            ("initial_backoff", builder().initial_backoff(Duration::ZERO)),
            ("min_ttl", builder().min_ttl(301 * second)),
            (
                "max_backoff",
                builder().initial_backoff(2 * second).max_backoff(second),
            ),
            ("jitter", builder().jitter(51)),
        ] {
            assert_eq!(wrong.build().unwrap_err().field(), field);
        }
    }

    #[test]
    fn the_text_names_field_value_and_range() {
        let error = TokenFreshnessConfig::builder()
            .refresh_ahead(Duration::from_secs(2))
            .min_ttl(Duration::from_secs(3))
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`min_ttl` must be at most `refresh_ahead` (2s), but is 3s"
        );
    }
}
