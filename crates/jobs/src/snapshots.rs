//! Schedule: snapshots of table states, and cutting the logs behind them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use dormouse_core::{
    Result,
    ids::{TableId, TransactionNumber},
    ports::Metric,
    state::TableState,
    tables::TableInfo,
};

use crate::services::Services;

/// Looks after the snapshots of one table. Returns how many log entries were cut.
///
/// # Errors
/// Errors of the stores.
pub async fn run(services: &Services, table: &TableInfo) -> Result<u64> {
    let settings = services.table_settings(table)?;
    measure(services, table, &*services.states.state(&table.id).await?);
    services
        .states
        .snapshot(&table.id, settings.snapshot_min_transactions())
        .await?;
    let keep_from = services.ports.clock.now().minus(settings.history_retention());
    services.states.truncate(&table.id, keep_from).await
}

/// The transaction at which each table was measured last.
pub(crate) type Measured = Mutex<BTreeMap<TableId, TransactionNumber>>;

/// Measures a table when it has changed: a table at rest costs nothing.
fn measure(services: &Services, table: &TableInfo, state: &TableState) {
    let mut measured = services.measured.lock().unwrap_or_else(PoisonError::into_inner);
    let before = measured.insert(table.id.clone(), state.transaction());
    if before == Some(state.transaction()) {
        return;
    }
    drop(measured);
    let leaves = state.leaf_count() as f64;
    let metrics = [
        (Metric::Files, state.file_count() as f64),
        (Metric::Rows, state.rows() as f64),
        (Metric::Partitions, state.partitions().count() as f64),
        (Metric::Leaves, leaves),
        (
            Metric::FilesPerLeaf,
            state.reference_count() as f64 / leaves.max(1.0),
        ),
    ];
    services.metrics.put(Some(table.name.as_str()), &metrics);
}
