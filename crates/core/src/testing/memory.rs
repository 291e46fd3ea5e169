//! The storage ports and the engines of rows and queries in memory, for one process.
//!
//! Maps are ordered and nothing runs in the background, so the same calls in the same order give the same
//! answers. Time and ids come from the ports given.

mod buckets;
mod item_store;
mod query_engine;
mod queue;
mod row_engine;

pub use buckets::MemoryBuckets;
pub use item_store::MemoryItemStore;
pub use query_engine::{MemoryQueryEngine, QueryHook, QueryStep};
pub use queue::MemoryQueue;
pub use row_engine::{EngineHook, EngineStep, MemoryRow, MemoryRowEngine};
