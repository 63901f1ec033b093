//! How long permits are held, and so how long a wait will take.
//!
//! Pure: it reads no clock.
//!
//! Two figures are kept as TCP keeps them for its round trips (RFC 6298): a moving mean of the times
//! for which permits were held, of which each new time makes an eighth, and a moving mean deviation,
//! of which it makes a quarter. By Little's law `n` permits that are all in use come back at a rate
//! of `n / mean`, so a call that needs `turns` of them to come back waits for `turns * mean / n`.

use std::time::Duration;

use tokio::time::Instant;

/// How many times must have been seen before they say anything. After as many, one outlier at the
/// very start (a server that was cold) has lost its weight.
const EVIDENCE: u32 = 4;

/// How long what was seen counts, at least. It counts longer where permits are held long.
const FRESH: u64 = 60 * SECOND;

/// The longest time that is believed, and the longest estimate that is given.
const LONGEST: u64 = 3600 * SECOND;

const SECOND: u64 = 1_000_000_000;

/// For how long permits were held. In nanoseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holds {
    mean: u64,
    deviation: u64,
    seen: u32,
    last: Option<Instant>,
}

/// What a call needs that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// How many permits come back before it has one, that one included.
    pub(crate) turns: usize,
    /// Of how many in use.
    pub(crate) of: usize,
    /// When the last of these was taken, if that is known.
    pub(crate) last_taken: Option<Instant>,
}

impl Holds {
    /// A permit was held for so long.
    pub(crate) fn see(&mut self, hold: Duration, now: Instant) {
        let hold = nanos(hold).min(LONGEST);
        if self.seen == 0 {
            (self.mean, self.deviation) = (hold, hold / 2);
        } else {
            self.deviation = self.deviation - self.deviation / 4 + hold.abs_diff(self.mean) / 4;
            self.mean = self.mean - self.mean / 8 + hold / 8;
        }
        self.seen = self.seen.saturating_add(1);
        self.last = Some(now);
    }

    /// How many have been seen.
    pub(crate) const fn seen(&self) -> u32 {
        self.seen
    }

    /// The mean, however old it is.
    pub(crate) const fn last_mean(&self) -> Duration {
        Duration::from_nanos(self.mean)
    }

    /// The mean, where enough has been seen and not too long ago.
    pub(crate) fn mean(&self, now: Instant) -> Option<Duration> {
        self.is_evidence(now)
            .then(|| Duration::from_nanos(self.mean))
    }

    /// How long the wait will likely be. Never zero: then nothing is known.
    pub(crate) fn likely(&self, need: Need, now: Instant) -> Option<Duration> {
        let wait = need.wait(self.mean).min(LONGEST);
        (wait > 0 && self.is_evidence(now)).then(|| Duration::from_nanos(wait))
    }

    /// How long the wait will be at least, if permits are held no shorter than is usual: by the mean
    /// less its deviation. The first permit that is needed has been on its way back since the last
    /// one was taken; where that is not known, it comes back at once.
    pub(crate) fn least(&self, need: Need, now: Instant) -> Option<Duration> {
        if !self.is_evidence(now) {
            return None;
        }
        let short = self.mean.saturating_sub(self.deviation);
        let all = need.wait(short);
        let first = Need { turns: 1, ..need }.wait(short);
        let since = |taken| nanos(now.saturating_duration_since(taken));
        let gone = need.last_taken.map_or(first, since);
        Some(Duration::from_nanos(all - gone.min(first).min(all)))
    }

    fn is_evidence(&self, now: Instant) -> bool {
        let Some(last) = self.last else {
            return false;
        };
        let age = nanos(now.saturating_duration_since(last));
        self.seen >= EVIDENCE && age <= FRESH.max(self.mean.saturating_mul(8))
    }
}

impl Need {
    fn wait(self, hold: u64) -> u64 {
        let turns = u64::try_from(self.turns).unwrap_or(u64::MAX);
        let of = u64::try_from(self.of).unwrap_or(u64::MAX).max(1);
        hold.saturating_mul(turns) / of
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn need(turns: usize, of: usize, last_taken: Option<Instant>) -> Need {
        Need {
            turns,
            of,
            last_taken,
        }
    }

    fn seen(holds: &[Duration], now: Instant) -> Holds {
        let mut seen = Holds::default();
        for hold in holds {
            seen.see(*hold, now);
        }
        seen
    }

    #[test]
    fn the_first_hold_is_the_mean_and_its_half_the_deviation() {
        let holds = seen(&[8 * SECOND], Instant::now());
        assert_eq!(
            (holds.mean, holds.deviation),
            (8_000_000_000, 4_000_000_000)
        );
        assert_eq!(holds.last_mean(), 8 * SECOND);
        assert_eq!(holds.seen(), 1);
    }

    #[test]
    fn the_mean_moves_by_an_eighth_and_the_deviation_by_a_quarter() {
        let longer = seen(&[8 * SECOND, 16 * SECOND], Instant::now());
        assert_eq!(
            (longer.mean, longer.deviation),
            (9_000_000_000, 5_000_000_000)
        );
        let shorter = seen(&[8 * SECOND, Duration::ZERO], Instant::now());
        assert_eq!(
            (shorter.mean, shorter.deviation),
            (7_000_000_000, 5_000_000_000)
        );
    }

    #[test]
    fn evidence_is_four_holds_and_a_minute_old_at_most() {
        let now = Instant::now();
        assert_eq!(seen(&[SECOND; 3], now).mean(now), None);
        let holds = seen(&[SECOND; 4], now);
        assert_eq!(holds.mean(now), Some(SECOND));
        assert_eq!(holds.mean(now + 60 * SECOND), Some(SECOND));
        let late = now + 60 * SECOND + Duration::from_nanos(1);
        assert_eq!(holds.mean(late), None);
        assert_eq!(holds.likely(need(1, 1, None), late), None);
        assert_eq!(holds.least(need(1, 1, None), late), None);
    }

    #[test]
    fn evidence_of_long_holds_is_eight_of_them_old_at_most() {
        let now = Instant::now();
        let holds = seen(&[10 * SECOND; 4], now);
        assert!(holds.mean(now + 80 * SECOND).is_some());
        let late = now + 80 * SECOND + Duration::from_nanos(1);
        assert_eq!(holds.mean(late), None);
    }

    #[test]
    fn the_likely_wait_is_that_for_all_turns() {
        let now = Instant::now();
        let holds = seen(&[SECOND; 4], now);
        assert_eq!(holds.likely(need(6, 4, None), now), Some(3 * SECOND / 2));
        assert_eq!(holds.likely(need(1, 1, Some(now)), now), Some(SECOND));
        let nothing = seen(&[Duration::ZERO; 4], now);
        assert_eq!(nothing.likely(need(6, 4, None), now), None);
        assert_eq!(nothing.least(need(6, 4, None), now), Some(Duration::ZERO));
    }

    #[test]
    fn no_hold_and_no_estimate_is_longer_than_an_hour() {
        let now = Instant::now();
        let holds = seen(&[1_000 * HOUR; 4], now);
        assert_eq!(holds.mean(now), Some(HOUR));
        assert_eq!(holds.likely(need(100, 1, None), now), Some(HOUR));
        assert!(holds.least(need(100, 1, None), now) > Some(10 * HOUR));
    }

    /// By the mean less its deviation, of which little is left when all holds were alike.
    #[test]
    fn the_least_wait_is_shorter_by_what_has_gone_of_the_first_turn() {
        let now = Instant::now();
        let taken = now.checked_sub(SECOND / 8);
        let mut holds = seen(&[SECOND; 4], now);
        holds.deviation = 500_000_000;
        let least = |need| holds.least(need, now).unwrap();
        assert_eq!(least(need(4, 2, Some(now))), SECOND);
        assert_eq!(least(need(4, 2, taken)), SECOND - SECOND / 8);
        // It counts for the first turn alone, which is over after a quarter of a second.
        assert_eq!(least(need(4, 2, now.checked_sub(HOUR))), 3 * SECOND / 4);
        assert_eq!(least(need(4, 2, None)), 3 * SECOND / 4);
        assert_eq!(least(need(1, 2, None)), Duration::ZERO);
        holds.deviation = 2_000_000_000;
        assert_eq!(holds.least(need(9, 2, None), now), Some(Duration::ZERO));
    }

    #[test]
    fn the_largest_figures_saturate() {
        let now = Instant::now();
        let mut holds = seen(&[Duration::MAX; 4], now);
        assert_eq!(holds.likely(need(usize::MAX, 1, None), now), Some(HOUR));
        assert!(holds.least(need(usize::MAX, 1, None), now) > Some(HOUR));
        assert!(holds.likely(need(1, 0, None), now).is_some());
        holds.seen = u32::MAX;
        holds.see(SECOND, now);
        assert_eq!(holds.seen(), u32::MAX);
    }
}
