//! What the benches share: how they tell what they are doing, and what they have found.

pub mod progress;
pub mod report;
