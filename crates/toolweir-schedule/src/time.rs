//! Wall-clock times, as the server has them.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use temporalio_common::search_attributes::Timestamp;
use toolweir_core::ConfigError;

/// The first second of the year 10000, which RFC 3339 cannot write.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

const MILLISECOND: Duration = Duration::from_millis(1);

/// Whether a time is one that the server can hold and write.
pub(crate) fn is_representable(time: SystemTime) -> bool {
    time.duration_since(UNIX_EPOCH)
        .is_ok_and(|since| since < END_OF_TIME)
}

/// As RFC 3339, for messages and queries.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    Timestamp::from(time).to_prost().to_string()
}

/// Refuses a range that the server would refuse, or take for an empty one.
pub(crate) fn check_range(
    field: &'static str,
    range: &RangeInclusive<SystemTime>,
) -> Result<(), ConfigError> {
    for time in [range.start(), range.end()] {
        if !is_representable(*time) {
            return Err(ConfigError::new(
                field,
                format!("{time:?}"),
                "between the years 1970 and 9999",
            ));
        }
    }
    if range.start() > range.end() {
        let value = format!("{} to {}", rfc3339(*range.start()), rfc3339(*range.end()));
        return Err(ConfigError::new(
            field,
            value,
            "from an earlier to a later time",
        ));
    }
    Ok(())
}

/// The start to send, so that `from` itself is included.
///
/// Servers before 1.24 leave the start of a backfill out, later ones include it, and all leave out
/// the start when they list action times. Action times are whole seconds before jitter, so a
/// millisecond before the first whole second is right for all of them.
pub(crate) fn just_before(from: SystemTime) -> SystemTime {
    let since = from.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut seconds = since.as_secs();
    if since.subsec_nanos() > 0 {
        seconds = seconds.saturating_add(1);
    }
    let first = Duration::from_secs(seconds).saturating_sub(MILLISECOND);
    UNIX_EPOCH.checked_add(first).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn the_start_is_a_millisecond_before_the_first_whole_second() {
        assert_eq!(just_before(at(5_000)), at(4_999));
        assert_eq!(just_before(at(5_001)), at(5_999));
        assert_eq!(just_before(at(5_999)), at(5_999));
        assert_eq!(just_before(at(0)), at(0));
    }

    #[test]
    fn a_range_is_checked() {
        check_range("range", &(at(1)..=at(1))).unwrap();
        let error = check_range("range", &(at(2_000)..=at(1_000))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`range` must be from an earlier to a later time, but is 1970-01-01T00:00:02Z to \
             1970-01-01T00:00:01Z"
        );
        let before = UNIX_EPOCH - Duration::from_secs(1);
        let after = UNIX_EPOCH + END_OF_TIME;
        for range in [before..=at(1), at(1)..=after] {
            assert!(check_range("range", &range).is_err());
        }
    }
}
