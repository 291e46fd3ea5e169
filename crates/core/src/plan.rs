//! Planners: pure functions from a state to what should be done.

pub mod compaction;
pub mod export;
pub mod garbage;
pub mod purge;
pub mod split;
