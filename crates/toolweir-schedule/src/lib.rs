#![doc = include_str!("../README.md")]

mod backfill;
mod builder;
mod description;
mod error;
mod overlap;
mod progress;
mod rpc;
mod runs;
mod schedule;
mod schedules;
mod spread;
mod time;
mod times;
mod update;
mod workflow;

pub use backfill::{Backfill, BackfillRequest};
pub use builder::ScheduleBuilder;
pub use description::{Action, Description, RunRef};
pub use error::ScheduleError;
pub use overlap::{Overlap, Preset};
pub use progress::BackfillProgress;
pub use runs::{Run, RunFilter, Runs};
pub use schedule::Schedule;
pub use schedules::Schedules;
pub use spread::spread_offset;
pub use toolweir_core::ConfigError;
pub use update::Applied;
