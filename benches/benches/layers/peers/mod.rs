//! The peers, each set up as its users would to get what ours gives.

pub(crate) mod failsafe;
pub(crate) mod governor;
pub(crate) mod recloser;
pub(crate) mod tower_resilience;
