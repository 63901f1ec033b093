//! When a circuit opens, for how long, and what closes it.

use std::{fmt, ops::RangeInclusive, time::Duration};

use toolweir_core::ConfigError;

const DEFAULT_SLIDING_WINDOW_SIZE: usize = 100;
const DEFAULT_SLIDING_WINDOW_BUCKETS: u32 = 10;
const DEFAULT_MINIMUM_NUMBER_OF_CALLS: usize = 10;
/// More calls than these no window is waited for to hold.
const MOST_CALLS: usize = 1_000_000_000;
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
    pub(crate) sliding_window: SlidingWindow,
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
    pub(crate) max_keys: usize,
    pub(crate) key_idle: Duration,
}

/// When a call is slow, and how many may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlowCalls {
    pub(crate) duration: Duration,
    pub(crate) rate: u8,
}

/// Which calls are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlidingWindow {
    /// The last so many.
    Count { size: usize },
    /// Those of the last so long.
    Time { duration: Duration, buckets: u32 },
}

impl SlidingWindow {
    /// How many calls it can hold.
    const fn most_calls(self) -> usize {
        match self {
            Self::Count { size } => size,
            Self::Time { .. } => usize::MAX,
        }
    }
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
    sliding_window_size: Option<usize>,
    sliding_window_duration: Option<Duration>,
    sliding_window_buckets: Option<u32>,
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
    max_keys: usize,
    key_idle: Duration,
}

impl Default for CircuitBreakerConfigBuilder {
    fn default() -> Self {
        Self {
            sliding_window_size: None,
            sliding_window_duration: None,
            sliding_window_buckets: None,
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
            max_keys: 1_000,
            key_idle: Duration::from_secs(10 * 60),
        }
    }
}

impl CircuitBreakerConfigBuilder {
    /// How many of the last calls are looked at, however long ago they were: 1 to 100,000, by
    /// default 100.
    ///
    /// Each takes two bits of memory, allocated once.
    pub const fn sliding_window_size(mut self, calls: usize) -> Self {
        self.sliding_window_size = Some(calls);
        self
    }

    /// Looks at the calls of the last `duration` instead, however many they are: 1 millisecond to 1
    /// day.
    ///
    /// They are counted by the bucket, so that neither time nor memory depends on their number. A
    /// call is left out with its bucket: when it is at most this old, and less than one bucket
    /// younger.
    pub const fn sliding_window_duration(mut self, duration: Duration) -> Self {
        self.sliding_window_duration = Some(duration);
        self
    }

    /// How many buckets a window of time has: 2 to 1,000, by default 10.
    ///
    /// Each takes 24 bytes of memory, allocated once.
    pub const fn sliding_window_buckets(mut self, buckets: u32) -> Self {
        self.sliding_window_buckets = Some(buckets);
        self
    }

    /// How many calls the window must hold before a rate opens the circuit: at least 1, and at most
    /// the window's size where it has one; by default 10 or the window's size, whichever is smaller.
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
    /// seconds. It is never longer than [`max_retry_after`](Self::max_retry_after).
    pub const fn default_retry_after(mut self, duration: Duration) -> Self {
        self.default_retry_after = duration;
        self
    }

    /// The longest pause that a server may ask for: more than zero, by default one hour.
    pub const fn max_retry_after(mut self, duration: Duration) -> Self {
        self.max_retry_after = duration;
        self
    }

    /// How many keys have a circuit of their own at most: 1 to 1,000,000, by default 1,000.
    ///
    /// Where a new key needs room, the one that was not called for the longest time leaves, if its
    /// circuit is closed and no call of its is under way. If none may leave, the new key's calls
    /// share one circuit with those of all others that found no room.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// How long a key's circuit is kept without a call: more than zero, by default 10 minutes.
    ///
    /// One that would refuse calls by then, that is held, or that somebody has a handle of, stays.
    pub const fn key_idle(mut self, duration: Duration) -> Self {
        self.key_idle = duration;
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
        self.check_window()?;
        let config = self.resolve();
        config.check_thresholds()?;
        config.check_numbers()?;
        config.check_durations()?;
        Ok(config)
    }

    /// Whether the window is one of calls or one of time.
    fn check_window(&self) -> Result<(), ConfigError> {
        match (
            self.sliding_window_size,
            self.sliding_window_duration,
            self.sliding_window_buckets,
        ) {
            (Some(_), Some(duration), _) => {
                let allowed = "unset with a `sliding_window_size`";
                let value = format!("{duration:?}");
                let error = ConfigError::new("sliding_window_duration", value, allowed);
                Err(error)
            }
            (_, None, Some(buckets)) => {
                let allowed = "unset without a `sliding_window_duration`";
                Err(ConfigError::new("sliding_window_buckets", buckets, allowed))
            }
            _ => Ok(()),
        }
    }

    fn window(&self) -> SlidingWindow {
        match self.sliding_window_duration {
            Some(duration) => SlidingWindow::Time {
                duration,
                buckets: self
                    .sliding_window_buckets
                    .unwrap_or(DEFAULT_SLIDING_WINDOW_BUCKETS),
            },
            None => SlidingWindow::Count {
                size: self
                    .sliding_window_size
                    .unwrap_or(DEFAULT_SLIDING_WINDOW_SIZE),
            },
        }
    }

    /// Fills in what depends on other values.
    fn resolve(self) -> CircuitBreakerConfig {
        let sliding_window = self.window();
        CircuitBreakerConfig {
            sliding_window,
            minimum_number_of_calls: self
                .minimum_number_of_calls
                .unwrap_or(DEFAULT_MINIMUM_NUMBER_OF_CALLS.min(sliding_window.most_calls())),
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
            max_keys: self.max_keys,
            key_idle: self.key_idle,
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
        match self.sliding_window {
            SlidingWindow::Count { size } => within("sliding_window_size", size, 1..=100_000)?,
            SlidingWindow::Time { duration, buckets } => {
                let span = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
                if !span.contains(&duration) {
                    let (value, allowed) = (format!("{duration:?}"), "from 1ms to 86400s");
                    return Err(ConfigError::new("sliding_window_duration", value, allowed));
                }
                within("sliding_window_buckets", buckets, 2..=1_000)?;
            }
        }
        within(
            "minimum_number_of_calls",
            self.minimum_number_of_calls,
            1..=self.sliding_window.most_calls().min(MOST_CALLS),
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
        within("success_threshold", self.success_threshold, 1..=u32::MAX)?;
        within("max_keys", self.max_keys, 1..=1_000_000)
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
        positive("max_retry_after", self.max_retry_after)?;
        positive("key_idle", self.key_idle)
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
    fn the_readme_says_what_the_defaults_are() {
        let config = CircuitBreakerConfig::default();
        let SlidingWindow::Count { size } = config.sliding_window else {
            panic!("by default calls are counted");
        };
        assert_eq!(
            (config.consecutive_failures, config.slow_calls),
            (None, None)
        );
        let seconds = |duration: Duration| format!("{} s", duration.as_secs());
        let percent = |share: u8| format!("{share} %");
        let defaults = [
            ("sliding_window_size", size.to_string()),
            (
                "minimum_number_of_calls",
                config.minimum_number_of_calls.to_string(),
            ),
            (
                "failure_rate_threshold",
                percent(config.failure_rate_threshold),
            ),
            ("consecutive_failures", "off".into()),
            ("slow_call_duration_threshold", "off".into()),
            ("wait_duration_in_open_state", seconds(config.wait_in_open)),
            (
                "max_wait_duration_in_open_state",
                seconds(config.max_wait_in_open),
            ),
            ("jitter", percent(config.jitter)),
            (
                "permitted_number_of_calls_in_half_open_state",
                config.permitted_in_half_open.to_string(),
            ),
            ("success_threshold", config.success_threshold.to_string()),
            ("probe_lease", seconds(config.probe_lease)),
            (
                "max_wait_duration_in_half_open_state",
                seconds(config.max_wait_in_half_open),
            ),
            ("on_throttled", format!("`{:?}`", config.on_throttled)),
            ("default_retry_after", seconds(config.default_retry_after)),
            ("max_retry_after", seconds(config.max_retry_after)),
            ("max_keys", config.max_keys.to_string()),
            ("key_idle", seconds(config.key_idle)),
        ];
        let readme = include_str!("../README.md");
        for (setting, default) in defaults {
            let row = format!("| `{setting}` | {default}");
            let follows = readme.split_once(&row).map(|(_, rest)| rest);
            let ends =
                follows.is_some_and(|rest| rest.starts_with(" |") || rest.starts_with(", or"));
            assert!(ends, "no row {row:?}");
        }
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

    const SECOND: Duration = Duration::from_secs(1);

    fn builder() -> CircuitBreakerConfigBuilder {
        CircuitBreakerConfig::builder()
    }

    fn assert_refused<const N: usize>(cases: [(CircuitBreakerConfigBuilder, &str); N]) {
        for (builder, message) in cases {
            assert_eq!(builder.build().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_window_that_cannot_be_is_refused() {
        let timed = || builder().sliding_window_duration(SECOND);
        assert_refused([
            (
                builder().sliding_window_size(0),
                "`sliding_window_size` must be from 1 to 100000, but is 0",
            ),
            (
                builder().sliding_window_size(100_001),
                "`sliding_window_size` must be from 1 to 100000, but is 100001",
            ),
            (
                builder().sliding_window_duration(Duration::ZERO),
                "`sliding_window_duration` must be from 1ms to 86400s, but is 0ns",
            ),
            (
                builder().sliding_window_duration(SECOND * 86_401),
                "`sliding_window_duration` must be from 1ms to 86400s, but is 86401s",
            ),
            (
                timed().sliding_window_size(5),
                "`sliding_window_duration` must be unset with a `sliding_window_size`, but is 1s",
            ),
            (
                builder().sliding_window_buckets(5),
                "`sliding_window_buckets` must be unset without a `sliding_window_duration`, but \
                 is 5",
            ),
            (
                timed().sliding_window_buckets(1),
                "`sliding_window_buckets` must be from 2 to 1000, but is 1",
            ),
            (
                timed().sliding_window_buckets(1_001),
                "`sliding_window_buckets` must be from 2 to 1000, but is 1001",
            ),
            (
                timed().minimum_number_of_calls(0),
                "`minimum_number_of_calls` must be from 1 to 1000000000, but is 0",
            ),
            (
                builder().sliding_window_size(5).minimum_number_of_calls(6),
                "`minimum_number_of_calls` must be from 1 to 5, but is 6",
            ),
        ]);
    }

    #[test]
    fn a_threshold_that_cannot_be_is_refused() {
        let slow = || builder().slow_call_duration_threshold(SECOND);
        assert_refused([
            (
                builder().failure_rate_threshold(101),
                "`failure_rate_threshold` must be from 1 to 100, but is 101",
            ),
            (
                builder().failure_rate_threshold(0),
                "`failure_rate_threshold` must be from 1 to 100, but is 0",
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
                slow().slow_call_rate_threshold(101),
                "`slow_call_rate_threshold` must be from 1 to 100, but is 101",
            ),
            (
                builder().slow_call_duration_threshold(Duration::ZERO),
                "`slow_call_duration_threshold` must be longer than zero, but is 0ns",
            ),
            (
                builder().jitter(51),
                "`jitter` must be from 0 to 50, but is 51",
            ),
        ]);
    }

    #[test]
    fn an_open_period_that_cannot_be_is_refused() {
        assert_refused([
            (
                builder().wait_duration_in_open_state(Duration::ZERO),
                "`wait_duration_in_open_state` must be longer than zero, but is 0ns",
            ),
            (
                builder().max_wait_duration_in_open_state(SECOND),
                "`max_wait_duration_in_open_state` must be at least \
                 `wait_duration_in_open_state` (30s), but is 1s",
            ),
            (
                builder().default_retry_after(Duration::ZERO),
                "`default_retry_after` must be longer than zero, but is 0ns",
            ),
            (
                builder().max_retry_after(Duration::ZERO),
                "`max_retry_after` must be longer than zero, but is 0ns",
            ),
        ]);
    }

    #[test]
    fn probes_and_keys_that_cannot_be_are_refused() {
        assert_refused([
            (
                builder().permitted_number_of_calls_in_half_open_state(0),
                "`permitted_number_of_calls_in_half_open_state` must be from 1 to 100, but is 0",
            ),
            (
                builder().permitted_number_of_calls_in_half_open_state(101),
                "`permitted_number_of_calls_in_half_open_state` must be from 1 to 100, but is 101",
            ),
            (
                builder().success_threshold(0),
                "`success_threshold` must be from 1 to 4294967295, but is 0",
            ),
            (
                builder().probe_lease(Duration::ZERO),
                "`probe_lease` must be longer than zero, but is 0ns",
            ),
            (
                builder().max_wait_duration_in_half_open_state(SECOND),
                "`max_wait_duration_in_half_open_state` must be at least `probe_lease` (30s), \
                 but is 1s",
            ),
            (
                builder().max_keys(0),
                "`max_keys` must be from 1 to 1000000, but is 0",
            ),
            (
                builder().max_keys(1_000_001),
                "`max_keys` must be from 1 to 1000000, but is 1000001",
            ),
            (
                builder().key_idle(Duration::ZERO),
                "`key_idle` must be longer than zero, but is 0ns",
            ),
        ]);
    }
}
