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
    /// How files are laid out and merged.
    pub layout: FileLayout,
}

/// How data files are laid out, and how much of one is merged at a time.
#[derive(Clone, Copy, Debug)]
pub struct FileLayout {
    /// Rows of a row group, at most. Default: 131,072.
    pub row_group_rows: usize,
    /// Rows of a page, at most. Default: 16,384.
    pub page_rows: usize,
    /// A thread merges about so many bytes of Parquet at a time, and up to eight times as many where pages are large:
    /// enough that the pages read twice, where one piece ends and the next begins, do not matter much; few enough that
    /// what is made before its turn fits in memory. Default: 8 MiB.
    pub piece_bytes: u64,
    /// Row groups of fewer rows, and of less than 8 MiB, are never copied as they are, lest they stay small for
    /// ever. Default: 32,768.
    pub copied_rows: u64,
}

impl Default for FileLayout {
    fn default() -> Self {
        Self {
            row_group_rows: 128 << 10,
            page_rows: 16 << 10,
            piece_bytes: 8 << 20,
            copied_rows: 32 << 10,
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 896 << 20,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            spill_directory: std::env::temp_dir(),
            layout: FileLayout::default(),
        }
    }
}
