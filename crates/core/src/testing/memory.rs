//! The storage ports and the row engine in memory, for one process.
//!
//! Maps are ordered and nothing runs in the background, so the same calls in the same order give the same
//! answers. Time and ids come from the ports given.

mod buckets;
mod item_store;
mod queue;
mod row_engine;

pub use buckets::MemoryBuckets;
pub use item_store::MemoryItemStore;
pub use queue::MemoryQueue;
pub use row_engine::{EngineHook, EngineStep, MemoryRow, MemoryRowEngine};
