//! When a circuit opens, for how long, and what closes it.

use std::{fmt, ops::RangeInclusive, time::Duration};

use toolweir_core::ConfigError;

const DEFAULT_MINIMUM_NUMBER_OF_CALLS: usize = 10;
const DEFAULT_MAX_WAIT_IN_OPEN: Duration = Duration::from_secs(10 * 60);
const DEFAULT_MAX_WAIT_IN_HALF_OPEN: Duration = Duration::from_secs(5 * 60);
const DEFAULT_SLOW_CALL_RATE: u8 = 100;

/// What a throttled answer does to the circuit. It is never a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnThrottled {
    /// The circuit opens until the server's own retry-after, then takes up where it was.
    #[default]
    OpenUntilRetryAfter,
    /// Nothing: a rate limit further in sees to it.
    Ignore,
}

/// How a circuit breaker is configured. [`Default`] suits a server that answers in seconds.
///
/// ```
/// use std::time::Duration;
/// use toolweir_circuit_breaker::CircuitBreakerConfig;
///
/// let config = CircuitBreakerConfig::builder()
///     .sliding_window_size(50)
///     .failure_rate_threshold(40)
///     .slow_call_duration_threshold(Duration::from_secs(20))
///     .slow_call_rate_threshold(80)
///     .build()?;
/// # Ok::<(), toolweir_core::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreakerConfig {
    pub(crate) sliding_window_size: usize,
    pub(crate) minimum_number_of_calls: usize,
    pub(crate) failure_rate_threshold: u8,
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) slow_calls: Option<SlowCalls>,
    pub(crate) wait_in_open: Duration,
    pub(crate) max_wait_in_open: Duration,
    pub(crate) jitter: u8,
    pub(crate) permitted_in_half_open: usize,
    pub(crate) success_threshold: u32,
    pub(crate) probe_lease: Duration,
    pub(crate) max_wait_in_half_open: Duration,
    pub(crate) on_throttled: OnThrottled,
    pub(crate) default_retry_after: Duration,
    pub(crate) max_retry_after: Duration,
}

/// When a call is slow, and how many may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlowCalls {
    pub(crate) duration: Duration,
    pub(crate) rate: u8,
}

impl CircuitBreakerConfig {
    /// Starts from the defaults.
    pub fn builder() -> CircuitBreakerConfigBuilder {
        CircuitBreakerConfigBuilder::default()
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self::builder().resolve()
    }
}

/// Builds a [`CircuitBreakerConfig`]. Terms that resilience4j has set carry its names.
#[derive(Debug, Clone)]
#[must_use]
pub struct CircuitBreakerConfigBuilder {
    sliding_window_size: usize,
    minimum_number_of_calls: Option<usize>,
    failure_rate_threshold: u8,
    consecutive_failures: Option<u32>,
    slow_call_duration_threshold: Option<Duration>,
    slow_call_rate_threshold: Option<u8>,
    wait_in_open: Duration,
    max_wait_in_open: Option<Duration>,
    jitter: u8,
    permitted_in_half_open: usize,
    success_threshold: u32,
    probe_lease: Duration,
    max_wait_in_half_open: Option<Duration>,
    on_throttled: OnThrottled,
    default_retry_after: Duration,
    max_retry_after: Duration,
}

impl Default for CircuitBreakerConfigBuilder {
    fn default() -> Self {
        Self {
            sliding_window_size: 100,
            minimum_number_of_calls: None,
            failure_rate_threshold: 50,
            consecutive_failures: None,
            slow_call_duration_threshold: None,
            slow_call_rate_threshold: None,
            wait_in_open: Duration::from_secs(30),
            max_wait_in_open: None,
            jitter: 10,
            permitted_in_half_open: 2,
            success_threshold: 2,
            probe_lease: Duration::from_secs(30),
            max_wait_in_half_open: None,
            on_throttled: OnThrottled::default(),
            default_retry_after: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(3600),
        }
    }
}

impl CircuitBreakerConfigBuilder {
    /// How many of the last calls are looked at: 1 to 100,000, by default 100.
    ///
    /// Each takes two bytes of memory, allocated once.
    pub const fn sliding_window_size(mut self, calls: usize) -> Self {
        self.sliding_window_size = calls;
        self
    }

    /// How many calls the window must hold before a rate opens the circuit: 1 to the window's size,
    /// by default 10 or the window's size, whichever is smaller.
    pub const fn minimum_number_of_calls(mut self, calls: usize) -> Self {
        self.minimum_number_of_calls = Some(calls);
        self
    }

    /// The share of failed calls that opens the circuit, in percent: 1 to 100, by default 50.
    ///
    /// The circuit opens when the share is equal or greater.
    pub const fn failure_rate_threshold(mut self, percent: u8) -> Self {
        self.failure_rate_threshold = percent;
        self
    }

    /// How many failures in a row open the circuit, whatever the rate: at least 1, by default off.
    ///
    /// A success ends the row. What counts as nothing does not.
    pub const fn consecutive_failures(mut self, failures: u32) -> Self {
        self.consecutive_failures = Some(failures);
        self
    }

    /// How long a call takes that is slow: more than zero, by default off.
    ///
    /// A call that takes exactly as long is slow, and so is one that is dropped no earlier.
    pub const fn slow_call_duration_threshold(mut self, duration: Duration) -> Self {
        self.slow_call_duration_threshold = Some(duration);
        self
    }

    /// The share of slow calls that opens the circuit, in percent: 1 to 100, by default 100.
    ///
    /// It needs a `slow_call_duration_threshold`.
    pub const fn slow_call_rate_threshold(mut self, percent: u8) -> Self {
        self.slow_call_rate_threshold = Some(percent);
        self
    }

    /// How long the circuit stays open the first time: more than zero, by default 30 seconds.
    ///
    /// Each further opening doubles it, up to `max_wait_duration_in_open_state`.
    pub const fn wait_duration_in_open_state(mut self, duration: Duration) -> Self {
        self.wait_in_open = duration;
        self
    }

    /// The longest open period: at least `wait_duration_in_open_state`, by default 10 minutes or
    /// that, whichever is longer.
    ///
    /// A success after the circuit has been closed for this long makes the next open period the
    /// first one again.
    pub const fn max_wait_duration_in_open_state(mut self, duration: Duration) -> Self {
        self.max_wait_in_open = Some(duration);
        self
    }

    /// By how much open periods vary, in percent: 0 to 50, by default 10.
    ///
    /// An open period is shortened by up to this share, so that the workers of a fleet do not come
    /// back as one. A pause that the server asked for is lengthened instead.
    pub const fn jitter(mut self, percent: u8) -> Self {
        self.jitter = percent;
        self
    }

    /// How many probes may be out at once while the circuit is half-open: 1 to 100, by default 2.
    pub const fn permitted_number_of_calls_in_half_open_state(mut self, probes: usize) -> Self {
        self.permitted_in_half_open = probes;
        self
    }

    /// How many successful probes close the circuit: at least 1, by default 2.
    pub const fn success_threshold(mut self, successes: u32) -> Self {
        self.success_threshold = successes;
        self
    }

    /// How long a probe keeps its slot: more than zero, by default 30 seconds.
    ///
    /// The lease runs from admission to dispatch, and anew from dispatch to the answer. A probe
    /// that outlives it frees its slot for another; its answer still counts while the circuit is
    /// in the same half-open state.
    pub const fn probe_lease(mut self, duration: Duration) -> Self {
        self.probe_lease = duration;
        self
    }

    /// The longest stay in half-open without a verdict: at least `probe_lease`, by default 5
    /// minutes or that, whichever is longer. Choose it longer than an honest call may take.
    pub const fn max_wait_duration_in_half_open_state(mut self, duration: Duration) -> Self {
        self.max_wait_in_half_open = Some(duration);
        self
    }

    /// What a throttled answer does. By default the circuit opens until the server's retry-after.
    pub const fn on_throttled(mut self, on_throttled: OnThrottled) -> Self {
        self.on_throttled = on_throttled;
        self
    }

    /// How long to pause for a throttled answer that names no time: more than zero, by default 5
    /// seconds.
    pub const fn default_retry_after(mut self, duration: Duration) -> Self {
        self.default_retry_after = duration;
        self
    }

    /// The longest pause that a server may ask for: more than zero, by default one hour.
    pub const fn max_retry_after(mut self, duration: Duration) -> Self {
        self.max_retry_after = duration;
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<CircuitBreakerConfig, ConfigError> {
        let slow_rate = self.slow_call_rate_threshold;
        if let (Some(rate), None) = (slow_rate, self.slow_call_duration_threshold) {
            let allowed = "unset without a `slow_call_duration_threshold`";
            return Err(ConfigError::new("slow_call_rate_threshold", rate, allowed));
        }
        let config = self.resolve();
        config.check_thresholds()?;
        config.check_numbers()?;
        config.check_durations()?;
        Ok(config)
    }

    /// Fills in what depends on other values.
    fn resolve(self) -> CircuitBreakerConfig {
        CircuitBreakerConfig {
            sliding_window_size: self.sliding_window_size,
            minimum_number_of_calls: self
                .minimum_number_of_calls
                .unwrap_or(DEFAULT_MINIMUM_NUMBER_OF_CALLS.min(self.sliding_window_size)),
            failure_rate_threshold: self.failure_rate_threshold,
            consecutive_failures: self.consecutive_failures,
            slow_calls: self.slow_call_duration_threshold.map(|duration| SlowCalls {
                duration,
                rate: self
                    .slow_call_rate_threshold
                    .unwrap_or(DEFAULT_SLOW_CALL_RATE),
            }),
            wait_in_open: self.wait_in_open,
            max_wait_in_open: self
                .max_wait_in_open
                .unwrap_or(DEFAULT_MAX_WAIT_IN_OPEN.max(self.wait_in_open)),
            jitter: self.jitter,
            permitted_in_half_open: self.permitted_in_half_open,
            success_threshold: self.success_threshold,
            probe_lease: self.probe_lease,
            max_wait_in_half_open: self
                .max_wait_in_half_open
                .unwrap_or(DEFAULT_MAX_WAIT_IN_HALF_OPEN.max(self.probe_lease)),
            on_throttled: self.on_throttled,
            default_retry_after: self.default_retry_after,
            max_retry_after: self.max_retry_after,
        }
    }
}

impl CircuitBreakerConfig {
    fn check_thresholds(&self) -> Result<(), ConfigError> {
        within(
            "failure_rate_threshold",
            self.failure_rate_threshold,
            1..=100,
        )?;
        if let Some(slow_calls) = self.slow_calls {
            within("slow_call_rate_threshold", slow_calls.rate, 1..=100)?;
            positive("slow_call_duration_threshold", slow_calls.duration)?;
        }
        within("jitter", self.jitter, 0..=50)
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let window = self.sliding_window_size;
        within("sliding_window_size", window, 1..=100_000)?;
        within(
            "minimum_number_of_calls",
            self.minimum_number_of_calls,
            1..=window,
        )?;
        within(
            "consecutive_failures",
            self.consecutive_failures.unwrap_or(1),
            1..=u32::MAX,
        )?;
        within(
            "permitted_number_of_calls_in_half_open_state",
            self.permitted_in_half_open,
            1..=100,
        )?;
        within("success_threshold", self.success_threshold, 1..=u32::MAX)
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        positive("wait_duration_in_open_state", self.wait_in_open)?;
        at_least(
            "max_wait_duration_in_open_state",
            self.max_wait_in_open,
            "wait_duration_in_open_state",
            self.wait_in_open,
        )?;
        positive("probe_lease", self.probe_lease)?;
        at_least(
            "max_wait_duration_in_half_open_state",
            self.max_wait_in_half_open,
            "probe_lease",
            self.probe_lease,
        )?;
        positive("default_retry_after", self.default_retry_after)?;
        positive("max_retry_after", self.max_retry_after)
    }
}

fn within<T: PartialOrd + fmt::Display>(
    field: &'static str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let allowed = format!("from {} to {}", allowed.start(), allowed.end());
    Err(ConfigError::new(field, value, allowed))
}

fn positive(field: &'static str, value: Duration) -> Result<(), ConfigError> {
    if value.is_zero() {
        let value = format!("{value:?}");
        return Err(ConfigError::new(field, value, "longer than zero"));
    }
    Ok(())
}

fn at_least(
    field: &'static str,
    value: Duration,
    floor_field: &'static str,
    floor: Duration,
) -> Result<(), ConfigError> {
    if value < floor {
        let allowed = format!("at least `{floor_field}` ({floor:?})");
        return Err(ConfigError::new(field, format!("{value:?}"), allowed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_what_build_gives() {
        let built = CircuitBreakerConfig::builder().build().unwrap();
        assert_eq!(built, CircuitBreakerConfig::default());
    }

    #[test]
    fn what_depends_on_other_values_follows_them() {
        let config = CircuitBreakerConfig::builder()
            .sliding_window_size(4)
            .wait_duration_in_open_state(Duration::from_secs(3600))
            .probe_lease(Duration::from_secs(900))
            .build()
            .unwrap();
        assert_eq!(config.minimum_number_of_calls, 4);
        assert_eq!(config.max_wait_in_open, Duration::from_secs(3600));
        assert_eq!(config.max_wait_in_half_open, Duration::from_secs(900));
    }

    #[test]
    fn a_refused_value_is_named_with_its_range() {
        let second = Duration::from_secs(1);
        let builder = CircuitBreakerConfig::builder;
        let cases = [
            (
                builder().sliding_window_size(0),
                "`sliding_window_size` must be from 1 to 100000, but is 0",
            ),
            (
                builder().sliding_window_size(5).minimum_number_of_calls(6),
                "`minimum_number_of_calls` must be from 1 to 5, but is 6",
            ),
            (
                builder().failure_rate_threshold(101),
                "`failure_rate_threshold` must be from 1 to 100, but is 101",
            ),
            (
                builder().consecutive_failures(0),
                "`consecutive_failures` must be from 1 to 4294967295, but is 0",
            ),
            (
                builder().slow_call_rate_threshold(80),
                "`slow_call_rate_threshold` must be unset without a \
                 `slow_call_duration_threshold`, but is 80",
            ),
            (
                builder().probe_lease(Duration::ZERO),
                "`probe_lease` must be longer than zero, but is 0ns",
            ),
            (
                builder().max_wait_duration_in_open_state(second),
                "`max_wait_duration_in_open_state` must be at least \
                 `wait_duration_in_open_state` (30s), but is 1s",
            ),
            (
                builder().max_wait_duration_in_half_open_state(second),
                "`max_wait_duration_in_half_open_state` must be at least `probe_lease` (30s), \
                 but is 1s",
            ),
            (
                builder().jitter(51),
                "`jitter` must be from 0 to 50, but is 51",
            ),
        ];
        for (builder, message) in cases {
            assert_eq!(builder.build().unwrap_err().to_string(), message);
        }
    }
}
