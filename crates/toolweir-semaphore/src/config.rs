//! What can be set.

use std::time::Duration;

use toolweir_core::ConfigError;

/// The most permits that can be configured.
const MOST_PERMITS: usize = 10_000_000;

/// The longest queue that can be configured.
const LONGEST_QUEUE: usize = 100_000;

/// How many calls may be under way, and how others wait.
///
/// ```
/// use std::time::Duration;
/// use toolweir_semaphore::SemaphoreConfig;
///
/// let config = SemaphoreConfig::builder()
///     .permits(4)
///     .max_queue(20)
///     .max_wait(Duration::from_millis(500))
///     .build()
///     .expect("all values are in range");
///
/// let error = SemaphoreConfig::builder().permits(0).build().unwrap_err();
/// assert_eq!(error.to_string(), "`permits` must be from 1 to 10000000, but is 0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SemaphoreConfig {
    pub(crate) permits: usize,
    pub(crate) max_queue: usize,
    pub(crate) max_wait: Duration,
    pub(crate) max_per_key: Option<usize>,
}

impl SemaphoreConfig {
    /// A builder with the default values: 10 permits, 100 places in the queue, a wait of 1 second.
    pub fn builder() -> SemaphoreConfigBuilder {
        SemaphoreConfigBuilder(Self::default())
    }
}

impl Default for SemaphoreConfig {
    fn default() -> Self {
        Self {
            permits: 10,
            max_queue: 100,
            max_wait: Duration::from_secs(1),
            max_per_key: None,
        }
    }
}

/// Sets the values of a [`SemaphoreConfig`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct SemaphoreConfigBuilder(SemaphoreConfig);

impl SemaphoreConfigBuilder {
    /// How many calls may be under way at once: 1 to 10,000,000, by default 10.
    ///
    /// [`SemaphoreHandle::resize`](crate::SemaphoreHandle::resize) changes it later.
    pub const fn permits(mut self, permits: usize) -> Self {
        self.0.permits = permits;
        self
    }

    /// How many calls may wait for a permit: 0 to 100,000, by default 100. With 0 none waits.
    pub const fn max_queue(mut self, calls: usize) -> Self {
        self.0.max_queue = calls;
        self
    }

    /// How long a call may wait, by default 1 second. With zero none waits.
    ///
    /// A call whose own deadline comes sooner waits only until then.
    pub const fn max_wait(mut self, duration: Duration) -> Self {
        self.0.max_wait = duration;
        self
    }

    /// How many calls of one key may be under way at once: at least 1, by default as many as there
    /// are permits. All calls without a key are those of one key. More than there are permits limits
    /// nothing, and is allowed: [`resize`](crate::SemaphoreHandle::resize) may bring more of them.
    ///
    /// With it every call is counted for its key, which costs a hash and room for the key while it
    /// has calls.
    pub fn max_per_key(mut self, calls: impl Into<Option<usize>>) -> Self {
        self.0.max_per_key = calls.into();
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<SemaphoreConfig, ConfigError> {
        let Self(config) = self;
        check_permits(config.permits)?;
        if config.max_queue > LONGEST_QUEUE {
            let allowed = format!("from 0 to {LONGEST_QUEUE}");
            return Err(ConfigError::new("max_queue", config.max_queue, allowed));
        }
        if config.max_per_key == Some(0) {
            return Err(ConfigError::new("max_per_key", 0, "at least 1"));
        }
        Ok(config)
    }
}

/// No permits at all would stop every call for ever: that is the work of a breaker that is held open.
pub(crate) fn check_permits(permits: usize) -> Result<(), ConfigError> {
    if permits == 0 || permits > MOST_PERMITS {
        let allowed = format!("from 1 to {MOST_PERMITS}");
        return Err(ConfigError::new("permits", permits, allowed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_what_build_gives() {
        let built = SemaphoreConfig::builder().build().unwrap();
        assert_eq!(built, SemaphoreConfig::default());
    }

    #[test]
    fn a_refused_value_is_named_with_its_range() {
        let cases = [
            (
                SemaphoreConfig::builder().permits(0),
                "`permits` must be from 1 to 10000000, but is 0",
            ),
            (
                SemaphoreConfig::builder().permits(10_000_001),
                "`permits` must be from 1 to 10000000, but is 10000001",
            ),
            (
                SemaphoreConfig::builder().max_queue(100_001),
                "`max_queue` must be from 0 to 100000, but is 100001",
            ),
            (
                SemaphoreConfig::builder().max_per_key(0),
                "`max_per_key` must be at least 1, but is 0",
            ),
        ];
        for (builder, message) in cases {
            assert_eq!(builder.build().unwrap_err().to_string(), message);
        }
    }
}
