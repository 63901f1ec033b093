//! What can be set.

use std::{num::NonZeroU32, time::Duration};

use toolweir_core::ConfigError;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest period of a quota.
const LONGEST_PERIOD: Duration = Duration::from_secs(366 * 24 * 3600);

/// The longest time in which an empty bucket may fill up. It bounds the arithmetic.
const LONGEST_FILL: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The longest grace of a booking.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// The largest table of bookings.
const MOST_BOOKINGS: usize = 1_000_000;

/// The most keys.
const MOST_KEYS: usize = 1_000_000;

/// The largest burst where the quota is learned: it bounds the arithmetic.
const MOST_LEARNED_BURST: u32 = 10_000;

/// The burst where the quota is learned, by default: one, and one for a caller that is late.
const LEARNED_BURST: u32 = 2;

/// The longest wait. Longer ones are for whoever schedules the calls.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How many calls a server takes in which time, and how others wait.
///
/// ```
/// use std::time::Duration;
/// use toolweir_rate_limit::RateLimitConfig;
///
/// let config = RateLimitConfig::builder()
///     .quota(300, Duration::from_secs(60))
///     .burst(10)
///     .build()
///     .expect("all values are in range");
///
/// let error = RateLimitConfig::builder().build().unwrap_err();
/// assert_eq!(error.to_string(), "`quota` must be set, but is unset");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitConfig {
    pub(crate) pace: Pace,
    pub(crate) burst: NonZeroU32,
    pub(crate) max_wait: Duration,
    pub(crate) default_pause: Duration,
    pub(crate) max_pause: Duration,
    pub(crate) max_bookings: usize,
    pub(crate) booking_grace: Duration,
    pub(crate) max_keys: usize,
    pub(crate) key_idle: Duration,
}

/// How fast calls may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Quota {
        calls: NonZeroU32,
        per: Duration,
    },
    /// As fast as the server lets them.
    Learned {
        /// In a second.
        first_rate: NonZeroU32,
    },
}

impl RateLimitConfig {
    /// A builder with default values for all but the quota, which only the server's documentation
    /// can tell. Where it does not, the quota is [`learned`](RateLimitConfigBuilder::learned).
    pub fn builder() -> RateLimitConfigBuilder {
        RateLimitConfigBuilder::default()
    }

    /// In how much time one cell comes back, rounded up: never faster than the quota.
    pub(crate) fn interval(&self) -> Duration {
        match self.pace {
            Pace::Quota { calls, per } => interval(calls, per),
            Pace::Learned { first_rate } => interval(first_rate, Duration::from_secs(1)),
        }
    }
}

fn interval(calls: NonZeroU32, per: Duration) -> Duration {
    let nanos = per.as_nanos().div_ceil(u128::from(calls.get()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Sets the values of a [`RateLimitConfig`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimitConfigBuilder {
    quota: Option<(u32, Duration)>,
    learned: bool,
    first_rate: u32,
    burst: Option<u32>,
    max_cost: u32,
    max_wait: Duration,
    default_pause: Duration,
    max_pause: Duration,
    max_bookings: usize,
    booking_grace: Duration,
    max_keys: usize,
    key_idle: Duration,
}

impl Default for RateLimitConfigBuilder {
    fn default() -> Self {
        Self {
            quota: None,
            learned: false,
            first_rate: 8,
            burst: None,
            max_cost: 1,
            max_wait: Duration::from_millis(250),
            default_pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(3600),
            max_bookings: 10_000,
            booking_grace: Duration::from_secs(10),
            max_keys: 1_000,
            key_idle: Duration::from_secs(10 * 60),
        }
    }
}

impl RateLimitConfigBuilder {
    /// How many calls pass in a time: at least 1, in more than zero and at most 366 days. It must
    /// be set, or [`learned`](Self::learned).
    ///
    /// A call that costs more counts as more. The cells come back one by one, each `per / calls`
    /// after the last, rounded up to a nanosecond, and not all at once at the end of a period.
    pub const fn quota(mut self, calls: u32, per: Duration) -> Self {
        self.quota = Some((calls, per));
        self
    }

    /// [`quota`](Self::quota) in a second.
    pub const fn calls_per_second(self, calls: u32) -> Self {
        self.quota(calls, Duration::from_secs(1))
    }

    /// [`quota`](Self::quota) in a minute. Set a `burst` too, or a whole minute's calls may pass
    /// at once.
    pub const fn calls_per_minute(self, calls: u32) -> Self {
        self.quota(calls, Duration::from_secs(60))
    }

    /// There is no quota that anybody could tell: it is learned from when the server asks for fewer
    /// calls. The classifier must say when it does. How, the
    /// [crate's documentation](crate#a-quota-that-is-learned) says.
    pub const fn learned(mut self) -> Self {
        self.learned = true;
        self
    }

    /// Where the quota is learned: with how many calls a second to begin, at least 1, by default 8.
    pub const fn first_rate(mut self, calls_per_second: u32) -> Self {
        self.first_rate = calls_per_second;
        self
    }

    /// How many calls may pass at once after a rest: at least 1, by default the quota's calls, or 2
    /// where it is learned.
    ///
    /// In the worst case `burst + calls` pass in a time of `per`: those saved up, and those that
    /// come back meanwhile. No call may cost more than the burst.
    pub const fn burst(mut self, cells: u32) -> Self {
        self.burst = Some(cells);
        self
    }

    /// What the costliest call costs: at least 1, by default that, and at most the burst. A burst that
    /// is too small for the calls that are meant to be made is then an error here, and not a refusal of
    /// each of them.
    pub const fn max_cost(mut self, cells: u32) -> Self {
        self.max_cost = cells;
        self
    }

    /// How long a call may wait: at most 60 seconds, by default 250 milliseconds. With zero none
    /// waits.
    ///
    /// A call whose own deadline comes sooner waits only until then.
    pub const fn max_wait(mut self, duration: Duration) -> Self {
        self.max_wait = duration;
        self
    }

    /// How long to pause for a throttled answer that names no time: more than zero, by default 1
    /// second.
    pub const fn default_pause(mut self, duration: Duration) -> Self {
        self.default_pause = duration;
        self
    }

    /// The longest pause that a server may ask for: more than zero, at most a day, by default one
    /// hour.
    pub const fn max_pause(mut self, duration: Duration) -> Self {
        self.max_pause = duration;
        self
    }

    /// How many refused calls may have a booking at once: by default 10,000, at most a million. With
    /// zero none has.
    pub const fn max_bookings(mut self, calls: usize) -> Self {
        self.max_bookings = calls;
        self
    }

    /// How much later than it was told a caller may come and still find its booking: more than zero,
    /// at most an hour, by default 10 seconds.
    pub const fn booking_grace(mut self, duration: Duration) -> Self {
        self.booking_grace = duration;
        self
    }

    /// How many keys have limiters of their own: 1 to 1,000,000, by default 1,000.
    ///
    /// A further key takes the place of the one that was not used for longest, if that may leave: no
    /// call of it is under way, waits or has a booking, it has all its burst, and its quota was not
    /// changed. Else it shares one limiter with others that came too late.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// How long a key's limiter is kept without a call: more than zero, by default 10 minutes.
    ///
    /// One that is paused, has not all its burst by then or has another quota, or that somebody has a
    /// handle of, stays.
    pub const fn key_idle(mut self, duration: Duration) -> Self {
        self.key_idle = duration;
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Names the field, its value and what is allowed.
    pub fn build(self) -> Result<RateLimitConfig, ConfigError> {
        let (pace, burst) = self.pace()?;
        let max_cost = at_least_one("max_cost", self.max_cost)?;
        if burst < max_cost {
            let allowed = format!("at least the `max_cost` of {max_cost}");
            return Err(ConfigError::new("burst", burst, allowed));
        }
        self.check_times()?;
        if self.max_bookings > MOST_BOOKINGS {
            let allowed = format!("at most {MOST_BOOKINGS}");
            return Err(ConfigError::new("max_bookings", self.max_bookings, allowed));
        }
        if !(1..=MOST_KEYS).contains(&self.max_keys) {
            let allowed = format!("from 1 to {MOST_KEYS}");
            return Err(ConfigError::new("max_keys", self.max_keys, allowed));
        }
        Ok(RateLimitConfig {
            pace,
            burst,
            max_wait: self.max_wait,
            default_pause: self.default_pause,
            max_pause: self.max_pause,
            max_bookings: self.max_bookings,
            booking_grace: self.booking_grace,
            max_keys: self.max_keys,
            key_idle: self.key_idle,
        })
    }

    fn pace(&self) -> Result<(Pace, NonZeroU32), ConfigError> {
        if self.learned {
            if self.quota.is_some() {
                let allowed = "unset where it is `learned`";
                return Err(ConfigError::new("quota", "set", allowed));
            }
            let first_rate = at_least_one("first_rate", self.first_rate)?;
            let burst = at_least_one("burst", self.burst.unwrap_or(LEARNED_BURST))?;
            if burst.get() > MOST_LEARNED_BURST {
                let allowed = format!("from 1 to {MOST_LEARNED_BURST} where it is `learned`");
                return Err(ConfigError::new("burst", burst, allowed));
            }
            return Ok((Pace::Learned { first_rate }, burst));
        }
        let (calls, per) = self
            .quota
            .ok_or_else(|| ConfigError::new("quota", "unset", "set"))?;
        let calls = at_least_one("quota", calls)?;
        if per.is_zero() || per > LONGEST_PERIOD {
            let allowed = "per more than zero and at most 366 days";
            return Err(ConfigError::new("quota", format!("per {per:?}"), allowed));
        }
        let burst = at_least_one("burst", self.burst.unwrap_or(calls.get()))?;
        let most = LONGEST_FILL.as_nanos() / interval(calls, per).as_nanos();
        if u128::from(burst.get()) > most {
            let allowed = format!("from 1 to {most}, or it would take more than ten years to fill");
            return Err(ConfigError::new("burst", burst, allowed));
        }
        Ok((Pace::Quota { calls, per }, burst))
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        if self.max_wait > LONGEST_WAIT {
            return Err(duration("max_wait", self.max_wait, "at most 60s"));
        }
        if self.default_pause.is_zero() {
            let value = self.default_pause;
            return Err(duration("default_pause", value, "longer than zero"));
        }
        if self.max_pause.is_zero() || self.max_pause > DAY {
            let allowed = "longer than zero and at most a day";
            return Err(duration("max_pause", self.max_pause, allowed));
        }
        if self.booking_grace.is_zero() || self.booking_grace > LONGEST_GRACE {
            let allowed = "longer than zero and at most an hour";
            return Err(duration("booking_grace", self.booking_grace, allowed));
        }
        if self.key_idle.is_zero() {
            return Err(duration("key_idle", self.key_idle, "longer than zero"));
        }
        Ok(())
    }
}

fn at_least_one(field: &'static str, value: u32) -> Result<NonZeroU32, ConfigError> {
    NonZeroU32::new(value).ok_or_else(|| ConfigError::new(field, value, "at least 1"))
}

fn duration(field: &'static str, value: Duration, allowed: &'static str) -> ConfigError {
    ConfigError::new(field, format!("{value:?}"), allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_burst_is_the_quota_by_default() {
        let config = RateLimitConfig::builder().calls_per_second(7).build();
        let config = config.unwrap();
        assert_eq!(config.burst.get(), 7);
        let config = RateLimitConfig::builder().calls_per_minute(90).burst(2);
        let config = config.build().unwrap();
        assert_eq!(
            (config.interval(), config.burst.get()),
            (SECOND * 2 / 3 + Duration::from_nanos(1), 2)
        );
    }

    #[test]
    fn cells_come_back_no_faster_than_the_quota() {
        let interval = |calls, per| {
            let config = RateLimitConfig::builder().quota(calls, per).build();
            config.unwrap().interval()
        };
        assert_eq!(interval(10, SECOND), Duration::from_millis(100));
        assert_eq!(interval(3, SECOND), Duration::from_nanos(333_333_334));
        assert_eq!(interval(1, 2 * SECOND), 2 * SECOND);
        assert_eq!(interval(u32::MAX, SECOND), Duration::from_nanos(1));
    }

    #[test]
    fn values_at_the_edge_of_their_range_are_taken() {
        let builder = RateLimitConfig::builder()
            .quota(1, 366 * DAY)
            .burst(10)
            .max_cost(10)
            .max_wait(60 * SECOND)
            .max_pause(DAY)
            .max_bookings(1_000_000)
            .booking_grace(3600 * SECOND);
        assert_eq!(builder.build().map(|config| config.burst.get()), Ok(10));
        let learned = RateLimitConfig::builder().learned().burst(10_000);
        assert!(learned.max_bookings(0).build().is_ok());
    }

    fn second() -> RateLimitConfigBuilder {
        RateLimitConfig::builder().calls_per_second(10)
    }

    #[test]
    fn a_refused_quota_or_burst_is_named_with_its_range() {
        all_are_refused([
            (
                RateLimitConfig::builder().calls_per_second(0),
                "`quota` must be at least 1, but is 0",
            ),
            (
                RateLimitConfig::builder().quota(1, Duration::ZERO),
                "`quota` must be per more than zero and at most 366 days, but is per 0ns",
            ),
            (second().burst(0), "`burst` must be at least 1, but is 0"),
            (
                second().max_cost(0),
                "`max_cost` must be at least 1, but is 0",
            ),
            (
                second().burst(4).max_cost(5),
                "`burst` must be at least the `max_cost` of 5, but is 4",
            ),
            (
                RateLimitConfig::builder().learned().max_cost(3),
                "`burst` must be at least the `max_cost` of 3, but is 2",
            ),
            (
                RateLimitConfig::builder().learned().burst(0),
                "`burst` must be at least 1, but is 0",
            ),
            (
                RateLimitConfig::builder().quota(1, 367 * DAY),
                "`quota` must be per more than zero and at most 366 days, but is per 31708800s",
            ),
            (
                second().learned(),
                "`quota` must be unset where it is `learned`, but is set",
            ),
            (
                RateLimitConfig::builder().learned().first_rate(0),
                "`first_rate` must be at least 1, but is 0",
            ),
            (
                RateLimitConfig::builder().learned().burst(10_001),
                "`burst` must be from 1 to 10000 where it is `learned`, but is 10001",
            ),
            (
                RateLimitConfig::builder().quota(1, DAY).burst(4_000),
                "`burst` must be from 1 to 3660, or it would take more than ten years to fill, \
                 but is 4000",
            ),
        ]);
    }

    #[test]
    fn a_refused_bound_of_keys_is_named_with_its_range() {
        all_are_refused([
            (
                second().max_keys(0),
                "`max_keys` must be from 1 to 1000000, but is 0",
            ),
            (
                second().max_keys(1_000_001),
                "`max_keys` must be from 1 to 1000000, but is 1000001",
            ),
            (
                second().key_idle(Duration::ZERO),
                "`key_idle` must be longer than zero, but is 0ns",
            ),
        ]);
    }

    fn all_are_refused<const N: usize>(cases: [(RateLimitConfigBuilder, &str); N]) {
        for (builder, message) in cases {
            assert_eq!(builder.build().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_refused_time_or_table_is_named_with_its_range() {
        all_are_refused([
            (
                second().max_bookings(1_000_001),
                "`max_bookings` must be at most 1000000, but is 1000001",
            ),
            (
                second().booking_grace(Duration::ZERO),
                "`booking_grace` must be longer than zero and at most an hour, but is 0ns",
            ),
            (
                second().booking_grace(3601 * SECOND),
                "`booking_grace` must be longer than zero and at most an hour, but is 3601s",
            ),
            (
                second().max_wait(61 * SECOND),
                "`max_wait` must be at most 60s, but is 61s",
            ),
            (
                second().default_pause(Duration::ZERO),
                "`default_pause` must be longer than zero, but is 0ns",
            ),
            (
                second().max_pause(2 * DAY),
                "`max_pause` must be longer than zero and at most a day, but is 172800s",
            ),
            (
                second().max_pause(Duration::ZERO),
                "`max_pause` must be longer than zero and at most a day, but is 0ns",
            ),
        ]);
    }
}
