//! What a query may call and use.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use datafusion::{
    execution::{
        SessionState, SessionStateBuilder,
        cache::{cache_manager::FileMetadataCache, default_cache::DefaultCache},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::SessionConfig,
};
use dormouse_core::{Error, Result, ports::QueryLimits};

/// How many of those that hold most memory are named when there is not enough.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// The session of one query.
pub(super) fn session(threads: NonZeroUsize, spill: &Path, limits: &QueryLimits) -> Result<SessionState> {
    let memory = usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX);
    let pool = TrackConsumersPool::new(FairSpillPool::new(memory), NAMED_CONSUMERS);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]))
        .with_max_temp_directory_size(limits.disk_bytes);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(|error| Error::unavailable("queries cannot use the disk").with_source(error))?;
    let mut config = SessionConfig::new().with_target_partitions(threads.get());
    let options = config.options_mut();
    // Names are written as tables have them, quoted or not.
    options.sql_parser.enable_ident_normalization = false;
    // Rows that no filter wants are not decoded.
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    Ok(SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .build())
}

/// Footers that are kept for other queries.
pub(super) fn footer_cache(bytes: usize) -> Arc<FileMetadataCache> {
    Arc::new(DefaultCache::new(bytes))
}
