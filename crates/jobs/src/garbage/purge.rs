//! The end of deleted tables.
//!
//! A run that began before a table was deleted may still write files. For as long as orphans are given, the table
//! stays listed as deleted and is collected like others. Then everything of it goes, and only its id stays known:
//! what a run that slept for longer writes below it is swept in the same time.

use std::{collections::BTreeSet, time::Duration};

use dormouse_core::{ErrorKind, Result, ids::TableId, state::table_state::TableStatus};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, path::Path};

use super::{Collected, delete, list_old};
use crate::{repair, services::Services};

/// Removes every object of a deleted table once its files are collected and it is older than `orphan_age`, ends its
/// jobs that were left unended, and forgets the table but for its id. Says whether it is forgotten.
///
/// The caller knows from the index of tables that it was deleted.
///
/// # Errors
/// Errors of the stores.
pub async fn deleted(services: &Services, table: &TableId, orphan_age: Duration) -> Result<bool> {
    let state = match services.states.state(table).await {
        // An earlier purge removed a part of the log, which it does only when nothing else is left.
        Err(error) if error.kind() == ErrorKind::Corrupt => Default::default(),
        state => state?,
    };
    match state.status() {
        TableStatus::Live => return Ok(false),
        TableStatus::Deleted => {
            if services.ports.clock.now().since(state.at()) < orphan_age {
                return Ok(false);
            }
            let mut data = services.data.list(Some(&Path::from(format!("{table}/data"))));
            if state.garbage().next().is_some() || data.next().await.transpose()?.is_some() {
                return Ok(false);
            }
            repair::jobs_of_deleted(services, table, &state).await?;
        }
        // An earlier purge removed all of the log and came no further.
        TableStatus::Absent => {}
    }
    services.states.remove(table).await?;
    let rest: Vec<ObjectMeta> = services
        .data
        .list(Some(&Path::from(table.as_str())))
        .try_collect()
        .await?;
    for meta in rest {
        delete(services, meta.location).await?;
    }
    services.tables.forget_deleted(table).await?;
    Ok(true)
}

/// Removes objects that are older than `orphan_age` of tables that are not there any more. `known` are the tables
/// that others take care of. Gives the tables of which there was something.
///
/// # Errors
/// Errors of the stores.
pub async fn late_objects(
    services: &Services,
    known: &BTreeSet<TableId>,
    orphan_age: Duration,
) -> Result<Vec<(TableId, Collected)>> {
    let now = services.ports.clock.now();
    let mut swept = Vec::new();
    for prefix in services.data.list_with_delimiter(None).await?.common_prefixes {
        let table = TableId::new(prefix.as_ref()).ok();
        let Some(table) = table.filter(|table| !known.contains(table)) else {
            continue;
        };
        if !services.tables.is_purged(&table).await? {
            continue;
        }
        let mut collected = Collected::default();
        for meta in list_old(services, &prefix, now, orphan_age).await? {
            collected.files += 1;
            collected.orphans += 1;
            collected.bytes += meta.size;
            delete(services, meta.location).await?;
        }
        if collected.files > 0 {
            swept.push((table, collected));
        }
    }
    Ok(swept)
}
