//! How many calls a second the service takes: a token bucket, told by one instant.

use std::time::Duration;

use tokio::time::Instant;

/// A full bucket has `burst` tokens; a call takes one, and `rate` a second come back.
///
/// The bucket is kept as the instant at which it would be full again (the generic cell rate
/// algorithm), so it is exact: no tick, no fraction of a token lost.
#[derive(Debug)]
pub struct Quota {
    /// How long one token takes to come back.
    interval: Duration,
    /// How far ahead `full_at` may be while a token is left.
    tolerance: Duration,
    full_at: Option<Instant>,
}

impl Quota {
    /// A full bucket. `rate` is in calls a second; `burst` of zero counts as one.
    ///
    /// # Panics
    ///
    /// If `rate` is not a positive number that a [`Duration`] can express the inverse of. The
    /// command line takes rates from 0.001 to 1,000,000.
    #[must_use]
    pub fn new(rate: f64, burst: u32) -> Self {
        let interval = Duration::from_secs_f64(rate.recip());
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.max(1) - 1),
            full_at: None,
        }
    }

    /// Takes a token for a call at `now`.
    ///
    /// # Errors
    ///
    /// The exact time until a token is there. A refusal costs nothing.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let wait = full_at
            .saturating_duration_since(now)
            .saturating_sub(self.tolerance);
        if !wait.is_zero() {
            return Err(wait);
        }
        // Past the end of time the bucket stays as it is.
        self.full_at = full_at.checked_add(self.interval).or(self.full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, in integers: a bucket measured in nanoseconds of filling.
    struct Model {
        level: u128,
        capacity: u128,
        interval: u128,
        at: u128,
    }

    impl Model {
        fn new(interval: Duration, burst: u32) -> Self {
            let interval = interval.as_nanos();
            let capacity = interval * u128::from(burst);
            Self {
                level: capacity,
                capacity,
                interval,
                at: 0,
            }
        }

        fn take(&mut self, now: Duration) -> Result<(), Duration> {
            let now = now.as_nanos();
            self.level = (self.level + now - self.at).min(self.capacity);
            self.at = now;
            if self.level >= self.interval {
                self.level -= self.interval;
                return Ok(());
            }
            let missing = u64::try_from(self.interval - self.level).expect("below an interval");
            Err(Duration::from_nanos(missing))
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(
            rate in 0.01..1000.0_f64,
            burst in 1..20_u32,
            steps in prop::collection::vec(0..2_000_000_000_u64, 1..200),
        ) {
            let start = Instant::now();
            let mut quota = Quota::new(rate, burst);
            let mut model = Model::new(Duration::from_secs_f64(rate.recip()), burst);
            let mut elapsed = Duration::ZERO;
            for step in steps {
                elapsed += Duration::from_nanos(step);
                prop_assert_eq!(quota.take(start + elapsed), model.take(elapsed));
            }
        }

        #[test]
        fn the_answer_is_the_exact_time(rate in 0.01..1000.0_f64, burst in 1..20_u32) {
            let start = Instant::now();
            let mut quota = Quota::new(rate, burst);
            for _ in 0..burst {
                prop_assert_eq!(quota.take(start), Ok(()));
            }
            let wait = quota.take(start).expect_err("the burst is used up");
            let just_before = start + wait - Duration::from_nanos(1);
            prop_assert_eq!(quota.take(just_before), Err(Duration::from_nanos(1)));
            prop_assert_eq!(quota.take(start + wait), Ok(()));
        }
    }
}
