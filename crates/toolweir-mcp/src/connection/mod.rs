//! Managed connections: each made once for all who wait, replaced when it is lost, reaped at the end.

mod backoff;
mod budget;
mod catalogue;
mod connector;
mod dialect;
mod ending;
mod error;
mod lines;
mod link;
mod listener;
mod lock;
mod manager;
mod pipes;
mod place;
mod pool;
mod process;

pub(crate) use budget::Budget;
pub(crate) use connector::{Connector, Factory};
pub use error::{ConnectError, Connecting};
use lock::lock;

pub(crate) use link::{Link, UnderWay, is_loss};
pub(crate) use manager::{Manager, NoLink, Settings, Snapshot};
pub(crate) use pool::{NoManager, Pool, Reach};
