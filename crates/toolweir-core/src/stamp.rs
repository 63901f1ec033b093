//! Until when nothing is to be done, and for which generation, in one atomic word.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

/// The bits of the word that hold the generation. The rest hold milliseconds: 8900 years of them.
const GENERATION_BITS: u32 = u16::BITS;
const FOR_EVER: u64 = u64::MAX >> GENERATION_BITS;

/// What a layer reads where nothing is to be done: until when that holds, and the generation.
///
/// The layer's state machine decides behind a lock, and writes down here until when its answer to
/// every call is "pass". A call that comes before then reads one word and takes no lock.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use toolweir_core::AtomicStamp;
///
/// let now = Instant::now();
/// let stamp = AtomicStamp::new(now);
/// assert!(!stamp.load().covers(now));
///
/// stamp.store(7, Some(now + Duration::from_secs(60)));
/// assert!(stamp.load().covers(now + Duration::from_secs(59)));
/// assert!(!stamp.load().covers(now + Duration::from_secs(60)));
/// assert_eq!(stamp.load().generation(), 7);
/// ```
pub struct AtomicStamp {
    base: Instant,
    word: AtomicU64,
}

/// One reading of an [`AtomicStamp`].
#[derive(Clone, Copy)]
pub struct Stamp {
    base: Instant,
    word: u64,
}

impl AtomicStamp {
    /// A stamp of generation 0 that covers no time. It can tell times from `base` on.
    #[must_use]
    pub const fn new(base: Instant) -> Self {
        Self {
            base,
            word: AtomicU64::new(0),
        }
    }

    /// Covers the time before `until`, rounded down to a millisecond, or all time if it is `None`.
    pub fn store(&self, generation: u16, until: Option<Instant>) {
        let millis = until.map_or(FOR_EVER, |until| self.millis(until));
        let word = millis << GENERATION_BITS | u64::from(generation);
        self.word.store(word, Ordering::Release);
    }

    /// The stamp as it is now.
    #[must_use]
    pub fn load(&self) -> Stamp {
        Stamp {
            base: self.base,
            word: self.word.load(Ordering::Acquire),
        }
    }

    fn millis(&self, instant: Instant) -> u64 {
        millis_since(self.base, instant)
    }
}

impl Stamp {
    /// Whether `now` is in the covered time.
    #[must_use]
    pub fn covers(self, now: Instant) -> bool {
        let until = self.word >> GENERATION_BITS;
        until == FOR_EVER || millis_since(self.base, now) < until
    }

    /// The generation that was stored with it.
    #[must_use]
    pub const fn generation(self) -> u16 {
        // The last two bytes: a conversion that loses nothing else.
        let [.., high, low] = self.word.to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

fn millis_since(base: Instant, instant: Instant) -> u64 {
    crate::time::millis(instant.saturating_duration_since(base)).min(FOR_EVER)
}

impl fmt::Debug for AtomicStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamp")
            .field("generation", &self.generation())
            .field("until_ms", &(self.word >> GENERATION_BITS))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_part_of_a_millisecond_is_not_covered() {
        let base = Instant::now();
        let stamp = AtomicStamp::new(base);
        stamp.store(1, Some(base + Duration::from_micros(2900)));
        assert!(stamp.load().covers(base + Duration::from_micros(1999)));
        assert!(!stamp.load().covers(base + Duration::from_micros(2000)));
    }

    #[test]
    fn all_time_is_covered_where_there_is_no_end() {
        let base = Instant::now();
        let stamp = AtomicStamp::new(base);
        stamp.store(u16::MAX, None);
        let late = base + Duration::from_secs(100 * 365 * 24 * 3600);
        assert!(stamp.load().covers(late));
        assert_eq!(stamp.load().generation(), u16::MAX);
    }

    #[test]
    fn a_time_before_the_base_covers_nothing() {
        let early = Instant::now();
        let base = early + Duration::from_secs(60);
        let stamp = AtomicStamp::new(base);
        stamp.store(0, Some(early));
        assert!(!stamp.load().covers(early));
        assert!(!stamp.load().covers(base));
    }
}
