//! Schedule: snapshots of table states, and cutting the logs behind them.

use dormouse_core::{Result, tables::TableInfo};

use crate::services::Services;

/// Looks after the snapshots of one table. Returns how many log entries were cut.
///
/// # Errors
/// Errors of the stores.
pub async fn run(services: &Services, table: &TableInfo) -> Result<u64> {
    let settings = services.table_settings(table)?;
    services
        .states
        .snapshot(&table.id, settings.snapshot_min_transactions())
        .await?;
    let keep_from = services.ports.clock.now().minus(settings.history_retention());
    services.states.truncate(&table.id, keep_from).await
}
