//! How long a warm-up may take, how long calls wait for it, and when it is tried again.

use std::time::Duration;

use toolweir_core::ConfigError;

const DEFAULT_STEP_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How a warm-up is configured. [`Default`] suits a server that starts in seconds.
///
/// ```
/// use std::time::Duration;
/// use toolweir_warm_up::WarmUpConfig;
///
/// let config = WarmUpConfig::builder()
///     .timeout(Duration::from_secs(20))
///     .max_wait(Duration::from_secs(5))
///     .build()?;
/// # Ok::<(), toolweir_core::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUpConfig {
    pub(crate) timeout: Duration,
    pub(crate) step_timeout: Duration,
    pub(crate) max_wait: Duration,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
}

impl WarmUpConfig {
    /// Starts from the defaults.
    pub fn builder() -> WarmUpConfigBuilder {
        WarmUpConfigBuilder::default()
    }
}

impl Default for WarmUpConfig {
    fn default() -> Self {
        Self::builder().resolve()
    }
}

/// Builds a [`WarmUpConfig`].
#[derive(Debug, Clone)]
#[must_use]
pub struct WarmUpConfigBuilder {
    timeout: Duration,
    step_timeout: Option<Duration>,
    max_wait: Duration,
    initial_backoff: Duration,
    max_backoff: Option<Duration>,
}

impl Default for WarmUpConfigBuilder {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            step_timeout: None,
            max_wait: Duration::from_secs(10),
            initial_backoff: Duration::from_millis(500),
            max_backoff: None,
        }
    }
}

impl WarmUpConfigBuilder {
    /// How long all steps together may take: more than zero, by default one minute.
    pub const fn timeout(mut self, duration: Duration) -> Self {
        self.timeout = duration;
        self
    }

    /// How long each step may take: more than zero and at most `timeout`, by default 30 seconds or
    /// `timeout`, whichever is shorter.
    pub const fn step_timeout(mut self, duration: Duration) -> Self {
        self.step_timeout = Some(duration);
        self
    }

    /// How long a call waits for the warm-up, by default 10 seconds. A call whose own deadline comes
    /// first waits until then.
    ///
    /// With zero no call waits: the first one starts the warm-up, and is refused with the rest.
    pub const fn max_wait(mut self, duration: Duration) -> Self {
        self.max_wait = duration;
        self
    }

    /// How long nothing is tried after a first failure: more than zero, by default half a second.
    ///
    /// Each further failure in a row doubles it, up to `max_backoff`.
    pub const fn initial_backoff(mut self, duration: Duration) -> Self {
        self.initial_backoff = duration;
        self
    }

    /// The longest time without a new try: at least `initial_backoff`, by default 30 seconds or that,
    /// whichever is longer.
    pub const fn max_backoff(mut self, duration: Duration) -> Self {
        self.max_backoff = Some(duration);
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<WarmUpConfig, ConfigError> {
        let config = self.resolve();
        positive("timeout", config.timeout)?;
        positive("step_timeout", config.step_timeout)?;
        positive("initial_backoff", config.initial_backoff)?;
        if config.step_timeout > config.timeout {
            let allowed = format!("at most `timeout` ({:?})", config.timeout);
            return Err(wrong("step_timeout", config.step_timeout, allowed));
        }
        if config.max_backoff < config.initial_backoff {
            let allowed = format!("at least `initial_backoff` ({:?})", config.initial_backoff);
            return Err(wrong("max_backoff", config.max_backoff, allowed));
        }
        Ok(config)
    }

    /// Fills in what depends on other values.
    fn resolve(self) -> WarmUpConfig {
        WarmUpConfig {
            timeout: self.timeout,
            step_timeout: self
                .step_timeout
                .unwrap_or(DEFAULT_STEP_TIMEOUT.min(self.timeout)),
            max_wait: self.max_wait,
            initial_backoff: self.initial_backoff,
            max_backoff: self
                .max_backoff
                .unwrap_or(DEFAULT_MAX_BACKOFF.max(self.initial_backoff)),
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
        let built = WarmUpConfig::builder().build().unwrap();
        assert_eq!(built, WarmUpConfig::default());
    }

    #[test]
    fn what_depends_on_other_values_follows_them() {
        let config = WarmUpConfig::builder()
            .timeout(Duration::from_secs(2))
            .initial_backoff(Duration::from_secs(90))
            .build()
            .unwrap();
        assert_eq!(config.step_timeout, Duration::from_secs(2));
        assert_eq!(config.max_backoff, Duration::from_secs(90));
    }

    #[test]
    fn each_wrong_value_is_named() {
        let second = Duration::from_secs(1);
        let builder = WarmUpConfig::builder;
        for (field, wrong) in [
            ("timeout", builder().timeout(Duration::ZERO)),
            ("step_timeout", builder().step_timeout(Duration::ZERO)),
            ("step_timeout", builder().step_timeout(61 * second)),
            ("initial_backoff", builder().initial_backoff(Duration::ZERO)),
            (
                "max_backoff",
                builder().initial_backoff(2 * second).max_backoff(second),
            ),
        ] {
            assert_eq!(wrong.build().unwrap_err().field(), field);
        }
    }

    #[test]
    fn the_text_names_field_value_and_range() {
        let error = WarmUpConfig::builder()
            .timeout(Duration::from_secs(2))
            .step_timeout(Duration::from_secs(3))
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`step_timeout` must be at most `timeout` (2s), but is 3s"
        );
    }
}
