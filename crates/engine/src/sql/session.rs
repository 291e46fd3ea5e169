//! What a query may call and use.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use datafusion::{
    execution::{
        SessionState, SessionStateBuilder, SessionStateDefaults,
        cache::{cache_manager::FileMetadataCache, default_cache::DefaultCache},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::planner::ExprPlanner,
    prelude::SessionConfig,
};
use dormouse_core::{Error, Result, ports::QueryLimits};

use super::{decimals::AlignedDecimals, growth::bounded, operators::BoundedOperators};

/// How many of those that hold most memory are named when there is not enough.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// While one partition waits for its file, another computes: a scan takes a sixth less time.
const PARTITIONS_PER_THREAD: usize = 2;

/// How much a partition that sorts keeps back for its merge at most.
const MERGE_RESERVATION_BYTES: usize = 10 << 20;

/// Functions about the files that rows are in, which are nobody's business.
const WITHHELD: [&str; 2] = ["input_file_name", "file_row_index"];

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
    let partitions = threads.get().saturating_mul(PARTITIONS_PER_THREAD);
    let mut config = SessionConfig::new().with_target_partitions(partitions);
    let options = config.options_mut();
    // Names are written as tables have them, quoted or not.
    options.sql_parser.enable_ident_normalization = false;
    // Rows that no filter wants are not decoded.
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    // Each partition that sorts keeps it back for its merge: not more than memory has room for.
    options.execution.sort_spill_reservation_bytes = (memory / 8 / partitions).min(MERGE_RESERVATION_BYTES);
    options.execution.enable_recursive_ctes = false;
    options.execution.enforce_batch_size_in_joins = true;
    let functions = SessionStateDefaults::default_scalar_functions().into_iter();
    let functions = functions.filter(|function| !WITHHELD.contains(&function.name()));
    let functions = functions.map(|function| bounded(&function).map_or(function, Arc::new));
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(BoundedOperators)];
    planners.extend(SessionStateDefaults::default_expr_planners());
    let mut session = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_scalar_functions(functions.collect())
        // They compute what no bound is known for.
        .with_higher_order_functions(Vec::new())
        .with_expr_planners(planners)
        .with_optimizer_rule(Arc::new(AlignedDecimals))
        .build();
    // What functions take for now.
    session.mark_start_execution();
    Ok(session)
}

/// Footers that are kept for other queries.
pub(super) fn footer_cache(bytes: usize) -> Arc<FileMetadataCache> {
    Arc::new(DefaultCache::new(bytes))
}
