//! The thresholds that ours and the peers are given alike. They are so wide that nothing waits.

use std::time::Duration;

/// How many calls a window of calls holds.
pub(crate) const WINDOW_CALLS: usize = 100;
/// How long a window of time is: longer than any case lasts.
pub(crate) const WINDOW_TIME: Duration = Duration::from_secs(60);
/// How many calls there must be before a rate counts.
pub(crate) const MINIMUM_CALLS: usize = 10;
/// When a call is slow.
pub(crate) const SLOW: Duration = Duration::from_secs(1);
/// How long an open circuit stays so: longer than any case lasts.
pub(crate) const OPEN: Duration = Duration::from_secs(3600);
/// How many calls may be under way.
pub(crate) const PERMITS: usize = 1_000;
/// How long a call may wait for a permit or a quota.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(250);
/// How many calls a second: a cell every nanosecond.
pub(crate) const QUOTA: u32 = 1_000_000_000;
/// How many at once.
pub(crate) const BURST: u32 = 1_000_000_000;
/// The key of every call, where calls have one.
pub(crate) const KEY: &str = "search_tracks";
