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
