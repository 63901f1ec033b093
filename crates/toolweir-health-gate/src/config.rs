//! When a server is probed, and how many results decide.

use std::time::Duration;

use toolweir_core::ConfigError;

/// What the gate does while nothing is known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UnknownPolicy {
    /// Calls pass, and their results tell.
    #[default]
    Allow,
    /// Calls are refused until a probe has succeeded.
    Refuse,
}

/// How a health gate is configured, in the words of Kubernetes' probes.
///
/// ```
/// use std::time::Duration;
/// use toolweir_health_gate::{HealthGateConfig, UnknownPolicy};
///
/// let config = HealthGateConfig::builder()
///     .period(Duration::from_secs(20))
///     .failure_threshold(2)
///     .unknown(UnknownPolicy::Refuse)
///     .build()?;
/// # Ok::<(), toolweir_core::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthGateConfig {
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) failure_threshold: u32,
    pub(crate) success_threshold: u32,
    pub(crate) unknown: UnknownPolicy,
}

impl HealthGateConfig {
    /// Starts from the defaults.
    pub fn builder() -> HealthGateConfigBuilder {
        HealthGateConfigBuilder::default()
    }
}

impl Default for HealthGateConfig {
    fn default() -> Self {
        Self::builder().config
    }
}

/// Builds a [`HealthGateConfig`].
#[derive(Debug, Clone)]
#[must_use]
pub struct HealthGateConfigBuilder {
    config: HealthGateConfig,
}

impl Default for HealthGateConfigBuilder {
    fn default() -> Self {
        Self {
            config: HealthGateConfig {
                period: Duration::from_secs(10),
                timeout: Duration::from_secs(5),
                failure_threshold: 3,
                success_threshold: 1,
                unknown: UnknownPolicy::Allow,
            },
        }
    }
}

impl HealthGateConfigBuilder {
    /// How long a result stays recent: more than zero, by default 10 seconds.
    ///
    /// So long after the last result the server may be probed again.
    pub const fn period(mut self, duration: Duration) -> Self {
        self.config.period = duration;
        self
    }

    /// How long a probe may take: more than zero, by default 5 seconds. After that it has failed.
    pub const fn timeout(mut self, duration: Duration) -> Self {
        self.config.timeout = duration;
        self
    }

    /// How many failures in a row close the gate: at least 1, by default 3.
    pub const fn failure_threshold(mut self, failures: u32) -> Self {
        self.config.failure_threshold = failures;
        self
    }

    /// How many successful probes in a row open the gate again: at least 1, by default 1.
    pub const fn success_threshold(mut self, successes: u32) -> Self {
        self.config.success_threshold = successes;
        self
    }

    /// What the gate does while nothing is known: by default calls pass.
    pub const fn unknown(mut self, policy: UnknownPolicy) -> Self {
        self.config.unknown = policy;
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<HealthGateConfig, ConfigError> {
        let config = self.config;
        for (field, value) in [("period", config.period), ("timeout", config.timeout)] {
            if value.is_zero() {
                let value = format!("{value:?}");
                return Err(ConfigError::new(field, value, "longer than zero"));
            }
        }
        for (field, value) in [
            ("failure_threshold", config.failure_threshold),
            ("success_threshold", config.success_threshold),
        ] {
            if value == 0 {
                return Err(ConfigError::new(field, value, "at least 1"));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_what_build_gives() {
        let built = HealthGateConfig::builder().build().unwrap();
        assert_eq!(built, HealthGateConfig::default());
    }

    #[test]
    fn each_wrong_value_is_named() {
        let builder = HealthGateConfig::builder;
        for (field, wrong) in [
            ("period", builder().period(Duration::ZERO)),
            ("timeout", builder().timeout(Duration::ZERO)),
            ("failure_threshold", builder().failure_threshold(0)),
            ("success_threshold", builder().success_threshold(0)),
        ] {
            assert_eq!(wrong.build().unwrap_err().field(), field);
        }
    }

    #[test]
    fn the_text_names_field_value_and_range() {
        let error = HealthGateConfig::builder()
            .failure_threshold(0)
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`failure_threshold` must be at least 1, but is 0"
        );
    }
}
