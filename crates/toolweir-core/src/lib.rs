#![doc = include_str!("../README.md")]

mod config;
mod entry;
mod facts;
pub mod keys;
mod lease;
mod outcome;
mod rejection;
mod stamp;
mod text;
pub mod time;

pub use config::ConfigError;
pub use entry::{
    BoxFuture, CheckHealth, EnsureFresh, Health, HealthReport, ReportState, StateReport, WarmUp,
};
pub use facts::Facts;
pub use lease::{CarryLease, Lease, LeaseOwner, LeaseSlot, Ticket};
pub use outcome::{Classify, Delivery, ErrIsFailure, ErrText, Observation, Outcome, observe};
pub use rejection::{AsRejection, Reason, Rejection};
pub use stamp::{AtomicStamp, Stamp};
pub use text::{error_text, shown};

/// The error type that holds any other, as tower names it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
