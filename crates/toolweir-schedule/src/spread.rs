//! Spreading many schedules over a window.

use std::time::Duration;

/// Where in `window` the schedule `id` has its place: the same at every call, and in every version
/// of this crate.
///
/// A thousand schedules that all say "hourly" start a thousand runs in one second. Jitter moves
/// each run anew; a spread gives each schedule a fixed place, so the distance between two runs of
/// one schedule stays what it was. [`ScheduleBuilder::spread_over`] uses this.
///
/// [`ScheduleBuilder::spread_over`]: crate::ScheduleBuilder::spread_over
///
/// ```
/// use std::time::Duration;
/// use toolweir_schedule::spread_offset;
///
/// let hour = Duration::from_secs(3600);
/// let anna = spread_offset("playlist-sync/anna", hour);
/// assert!(anna < hour);
/// assert_eq!(anna, spread_offset("playlist-sync/anna", hour));
/// assert_ne!(anna, spread_offset("playlist-sync/ben", hour));
/// ```
#[must_use]
pub fn spread_offset(id: &str, window: Duration) -> Duration {
    // Whole seconds, because the server knows no others.
    let seconds = window.as_secs().max(1);
    Duration::from_secs(mixed(fnv1a(id.as_bytes())) % seconds)
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finaliser of `splitmix64`: ids that differ in their last digit land far apart.
const fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_the_published_ones() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    /// A running schedule would move if these changed. Computed apart from this code.
    #[test]
    fn a_place_never_changes() {
        let hour = Duration::from_secs(3600);
        for (id, place) in [("playlist-sync/anna", 322), ("playlist-sync/ben", 1179)] {
            assert_eq!(spread_offset(id, hour), Duration::from_secs(place), "{id}");
        }
    }

    #[test]
    fn a_thousand_schedules_fill_the_window_evenly() {
        let mut minutes = [0_u32; 60];
        for user in 0..6000 {
            let offset = spread_offset(&format!("sync/{user}"), Duration::from_secs(3600));
            let minute = usize::try_from(offset.as_secs() / 60).unwrap();
            minutes[minute] += 1;
        }
        // 100 a minute on average; a fair draw of 6000 stays well within these.
        assert!(
            minutes.iter().all(|count| (50..=160).contains(count)),
            "{minutes:?}"
        );
    }

    #[test]
    fn a_window_below_a_second_has_one_place() {
        assert_eq!(spread_offset("x", Duration::ZERO), Duration::ZERO);
        assert_eq!(
            spread_offset("x", Duration::from_millis(900)),
            Duration::ZERO
        );
    }
}
