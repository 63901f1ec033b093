//! One managed connection: made once for all who wait, replaced when it is lost, reaped at the end.

mod backoff;
mod connector;
mod error;
mod link;
mod manager;
mod process;

pub(crate) use connector::{Connector, Factory};
pub use error::{ConnectError, Connecting};
pub(crate) use link::{Link, UnderWay, is_loss};
pub(crate) use manager::{Manager, NoLink};
