//! Planners: pure functions from a state to what should be done.

pub mod export;
pub mod garbage;
