//! Arithmetic on time that saturates.

use std::time::Duration;

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
}
