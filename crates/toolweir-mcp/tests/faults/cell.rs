//! What must happen when a fault strikes at a moment.

use std::fmt;

use toolweir_core::{Delivery, Observation, Outcome};

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Connecting,
    Idle,
    OneCall,
    TenCalls,
}

impl Moment {
    pub(crate) const ALL: [Self; 4] = [Self::Connecting, Self::Idle, Self::OneCall, Self::TenCalls];

    /// How many calls meet the fault.
    pub(crate) const fn calls(self) -> usize {
        match self {
            Self::TenCalls => 10,
            _ => 1,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::OneCall => "one call",
            Self::TenCalls => "ten calls at once",
        }
    }
}

/// How one call ended, as far as the layers can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Done,
    /// The server is at fault, and surely did not do it.
    FailedUnsent,
    /// The server is at fault, and surely answered.
    FailedExecuted,
    /// The server is at fault, and nobody knows whether it did it.
    FailedAmbiguous,
    /// The server asks for a pause.
    Throttled,
    /// The server does not take the credential.
    Unauthorized,
    /// It was done, and says nothing of the server.
    Ignored,
    Other,
}

impl From<Observation> for End {
    fn from(observed: Observation) -> Self {
        match (observed.outcome, observed.delivery) {
            (Outcome::Success, Delivery::Executed) => Self::Done,
            (Outcome::Failure, Delivery::NotSent) => Self::FailedUnsent,
            (Outcome::Failure, Delivery::Executed) => Self::FailedExecuted,
            (Outcome::Failure, Delivery::Ambiguous) => Self::FailedAmbiguous,
            (Outcome::Throttled { .. }, Delivery::NotSent) => Self::Throttled,
            (Outcome::Unauthorized, Delivery::NotSent) => Self::Unauthorized,
            (Outcome::Ignored, Delivery::Executed) => Self::Ignored,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "Success, Executed",
            Self::FailedUnsent => "Failure, NotSent",
            Self::FailedExecuted => "Failure, Executed",
            Self::FailedAmbiguous => "Failure, Ambiguous",
            Self::Throttled => "Throttled, NotSent",
            Self::Unauthorized => "Unauthorized, NotSent",
            Self::Ignored => "Ignored, Executed",
            Self::Other => "something else",
        })
    }
}

/// What makes the next call succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing but time: the same connection serves it.
    Kept,
    /// Nothing but time: no connection was made, and the next try makes one.
    Connected,
    /// Nothing but time: another connection serves it.
    Replaced,
    /// Somebody continues the process; the same connection serves it.
    Continued,
    /// Somebody restarts the server.
    Restarted,
}

impl Recovery {
    pub(crate) const fn says(self) -> &'static str {
        match self {
            Self::Kept => "connection kept",
            Self::Connected => "the next try connects",
            Self::Replaced => "connection replaced",
            Self::Continued => "connection kept, once the process goes on",
            Self::Restarted => "replaced by `restart`",
        }
    }
}

/// One cell of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell {
    /// The fault cannot strike then.
    Never(&'static str),
    /// So many calls end so.
    Ends(&'static [(usize, End)], Recovery),
}

/// One row: a fault, and its cells in the order of [`Moment::ALL`].
#[derive(Debug)]
pub(crate) struct Fault {
    /// As a person reads it.
    pub(crate) name: &'static str,
    /// As the server reads it.
    pub(crate) code: &'static str,
    pub(crate) cells: [Cell; 4],
}

impl Fault {
    pub(crate) fn moments(&self) -> impl Iterator<Item = (Moment, &Cell)> {
        Moment::ALL.into_iter().zip(&self.cells)
    }

    /// That each call ended as it must.
    pub(crate) fn check(&self, moment: Moment, expected: &[(usize, End)], ends: &[End]) {
        let mut expected: Vec<End> = expected
            .iter()
            .flat_map(|(count, end)| std::iter::repeat_n(*end, *count))
            .collect();
        let mut ends = ends.to_vec();
        expected.sort();
        ends.sort();
        assert_eq!(ends, expected, "{} while {}", self.name, moment.name());
    }
}
