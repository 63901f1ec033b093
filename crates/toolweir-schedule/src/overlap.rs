//! What happens when a time comes while an earlier run is open.

use std::time::Duration;

use temporalio_common::protos::temporal::api::enums::v1::ScheduleOverlapPolicy;

/// What a schedule does at an action time while a run it started before is still open.
///
/// | policy | while a run is open | 17 days backfilled, where a run takes longer than the backfill |
/// |---|---|---|
/// | [`Skip`](Self::Skip) | drops the time | the first runs; of the rest, one at most |
/// | [`BufferOne`](Self::BufferOne) | keeps **one** time for later, drops the rest | 3 run, 14 are dropped |
/// | [`BufferAll`](Self::BufferAll) | keeps every time for later | all 17 run, one after the other |
/// | [`CancelOther`](Self::CancelOther) | cancels the open run, then starts | the tenth runs, then the last |
/// | [`TerminateOther`](Self::TerminateOther) | terminates the open run and starts | the tenth runs, then the last |
/// | [`AllowAll`](Self::AllowAll) | starts beside it | all 17 run at the same time |
///
/// So a sequential backfill is `BufferAll`, and `BufferOne` is not a small version of it. (The
/// server takes a backfill in steps of ten times, hence the tenth.)
///
/// `CancelOther` and `TerminateOther` end the *workflow*. An activity of a terminated run goes on
/// until its next heartbeat fails, so for a while two can be at work.
///
/// A run that waits for a worker is an open run: with no worker up, `Skip` starts one run and
/// drops the rest, and that run goes on when a worker comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overlap {
    /// Starts nothing, and counts the time as skipped. For work of which only the latest matters.
    #[default]
    Skip,
    /// Keeps one time and starts it when the open run ends. All further times are skipped.
    BufferOne,
    /// Keeps every time, and starts them one after the other. Sequential, and nothing is dropped
    /// (up to the server's limit of 1000 kept times).
    BufferAll,
    /// Cancels the open run, and starts the new one when that has finished cancelling.
    CancelOther,
    /// Terminates the open run, and starts the new one at once.
    TerminateOther,
    /// Starts any number of runs beside each other.
    AllowAll,
}

impl Overlap {
    pub(crate) fn to_proto(self) -> i32 {
        let policy = match self {
            Self::Skip => ScheduleOverlapPolicy::Skip,
            Self::BufferOne => ScheduleOverlapPolicy::BufferOne,
            Self::BufferAll => ScheduleOverlapPolicy::BufferAll,
            Self::CancelOther => ScheduleOverlapPolicy::CancelOther,
            Self::TerminateOther => ScheduleOverlapPolicy::TerminateOther,
            Self::AllowAll => ScheduleOverlapPolicy::AllowAll,
        };
        policy.into()
    }

    /// `None` for a policy that this crate does not know.
    pub(crate) fn from_proto(policy: i32) -> Option<Self> {
        Some(match ScheduleOverlapPolicy::try_from(policy).ok()? {
            ScheduleOverlapPolicy::Unspecified | ScheduleOverlapPolicy::Skip => Self::Skip,
            ScheduleOverlapPolicy::BufferOne => Self::BufferOne,
            ScheduleOverlapPolicy::BufferAll => Self::BufferAll,
            ScheduleOverlapPolicy::CancelOther => Self::CancelOther,
            ScheduleOverlapPolicy::TerminateOther => Self::TerminateOther,
            ScheduleOverlapPolicy::AllowAll => Self::AllowAll,
        })
    }
}

/// Policies that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// A run brings something up to date, so a missed one is made good by the next: overlap
    /// [`Skip`](Overlap::Skip), catch-up window 60 s. What a schedule has unless told otherwise.
    Latest,
    /// Each time has work of its own, such as the report of a day, and none may be lost: overlap
    /// [`BufferAll`](Overlap::BufferAll), catch-up window 7 days.
    EveryTime,
}

impl Preset {
    pub(crate) const fn overlap(self) -> Overlap {
        match self {
            Self::Latest => Overlap::Skip,
            Self::EveryTime => Overlap::BufferAll,
        }
    }

    pub(crate) const fn catch_up_window(self) -> Duration {
        match self {
            Self::Latest => Duration::from_secs(60),
            Self::EveryTime => Duration::from_secs(7 * 24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_goes_to_the_server_and_back() {
        for overlap in [
            Overlap::Skip,
            Overlap::BufferOne,
            Overlap::BufferAll,
            Overlap::CancelOther,
            Overlap::TerminateOther,
            Overlap::AllowAll,
        ] {
            assert_eq!(Overlap::from_proto(overlap.to_proto()), Some(overlap));
        }
        assert_eq!(Overlap::from_proto(0), Some(Overlap::Skip));
        assert_eq!(Overlap::from_proto(99), None);
    }
}
