//! Arithmetic on time that saturates.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Longer than any wait that makes sense, short enough for every platform's clock.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `instant + duration`, or an instant thirty years ahead where that cannot be told.
#[must_use]
pub fn saturating_add(instant: Instant, duration: Duration) -> Instant {
    let duration = duration.min(FAR);
    // Thirty years after any instant that a running machine can read is in range.
    instant.checked_add(duration).unwrap_or(instant)
}

/// When a wait that begins `now` ends: after `longest`, or at the caller's `deadline` if that is sooner.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use toolweir_core::time::until;
///
/// let (now, second) = (Instant::now(), Duration::from_secs(1));
/// assert_eq!(until(now, 2 * second, None), now + 2 * second);
/// assert_eq!(until(now, 2 * second, Some(now + second)), now + second);
/// assert_eq!(until(now, 2 * second, Some(now + 3 * second)), now + 2 * second);
/// ```
#[must_use]
pub fn until(now: Instant, longest: Duration, deadline: Option<Instant>) -> Instant {
    let longest = saturating_add(now, longest);
    deadline.map_or(longest, |deadline| longest.min(deadline))
}

/// Whole milliseconds, rounded up: who comes back after them never comes too early.
#[must_use]
pub fn millis_ceil(duration: Duration) -> u64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// Whole milliseconds, rounded down, for ages and latencies.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Below this, waits are told to the millisecond.
const SHORT: Duration = Duration::from_secs(10);

/// A wait as people read it: rounded up, to the millisecond below ten seconds, from then on to the
/// tenth of a second. Who comes back after it does not come too early, and what is not over is never
/// told as nothing.
///
/// ```
/// use std::time::Duration;
/// use toolweir_core::time::told;
///
/// assert_eq!(told(Duration::from_nanos(28_260_658_413)).to_string(), "28.3s");
/// assert_eq!(told(Duration::from_micros(219_700)).to_string(), "220ms");
/// ```
#[must_use]
pub fn told(wait: Duration) -> impl fmt::Display {
    Told(wait)
}

struct Told(Duration);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let step = if self.0 < SHORT { 1 } else { 100 };
        let millis = millis_ceil(self.0).div_ceil(step).saturating_mul(step);
        write!(f, "{:?}", Duration::from_millis(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_saturates() {
        let now = Instant::now();
        assert!(saturating_add(now, Duration::MAX) > now + Duration::from_secs(3600));
    }

    #[test]
    fn a_part_of_a_millisecond_counts_as_a_whole_one() {
        assert_eq!(millis_ceil(Duration::from_nanos(1)), 1);
        assert_eq!(millis_ceil(Duration::from_millis(7)), 7);
        assert_eq!(millis_ceil(Duration::MAX), u64::MAX);
        assert_eq!(millis(Duration::from_micros(1999)), 1);
    }

    #[test]
    fn a_wait_is_told_rounded_up_and_never_as_nothing() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1_000_000, "1ms"),
            (1_000_001, "2ms"),
            (1_500_000_000, "1.5s"),
            (9_998_000_001, "9.999s"),
            (9_999_000_001, "10s"),
            (10_000_000_000, "10s"),
            (10_000_000_001, "10.1s"),
            (28_260_658_413, "28.3s"),
            (600_000_000_000, "600s"),
        ] {
            assert_eq!(told(Duration::from_nanos(nanos)).to_string(), text);
        }
        // It saturates, and does not wrap to a short wait.
        let longest = told(Duration::MAX).to_string();
        assert!(longest.starts_with("18446744073709551."), "{longest}");
    }
}
