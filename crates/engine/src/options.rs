//! What a deployment decides about an engine.

use std::{num::NonZeroUsize, path::PathBuf};

/// The limits that an engine keeps to.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How many bytes of rows, with their sort entries, ingest holds in memory before it spills. Calls that run at
    /// the same time share it; a large one waits until it has it alone. Readers, writers and the allocator come
    /// on top: about 100 MB a thread. Default: 896 MiB.
    pub memory_bytes: u64,
    /// How many threads one call works on. Default: the machine's parallelism.
    pub threads: NonZeroUsize,
    /// Where rows beyond the memory go, in a directory of the call's own that goes when the call ends. Default:
    /// the system's temporary directory.
    pub spill_directory: PathBuf,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 896 << 20,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            spill_directory: std::env::temp_dir(),
        }
    }
}
