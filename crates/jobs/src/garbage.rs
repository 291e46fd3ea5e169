//! Schedule: delete what no state that is kept refers to. Tables that were deleted go in [`purge`].
//!
//! A file goes in three steps, each of which may run again: the log marks it, so that no commit can bring it back
//! and no reader can pin a state that has it; its object is deleted; the log forgets it and remembers its name
//! as used. Orphans, objects that no state knows, go the same way once they are old enough: a run that is still
//! on its way to commit them is refused and starts again.
//!
//! Objects are listed before the state is read, so what a state learns of in between is never taken for an
//! orphan.

pub mod purge;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dormouse_core::{
    Result,
    ids::{FileName, TableId, TransactionNumber},
    plan::garbage::{GarbagePolicy, deletable, markable},
    state::{
        Commit, CommitId, Record, TableState, log::bodies_prefix, snapshot::snapshots_prefix,
        table_state::TableStatus,
    },
    time::Timestamp,
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStoreExt, path::Path};
use serde::Serialize;

use crate::services::Services;

/// How many files one record names.
const BATCH: usize = 1000;

/// How many objects are deleted at a time.
const DELETES: usize = 16;

/// What a collection did to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Files whose objects were deleted.
    pub files: u64,
    /// Their bytes, as far as known.
    pub bytes: u64,
    /// How many of the files no state knew.
    pub orphans: u64,
    /// Parts of the log and of commits that no entry refers to.
    pub leftovers: u64,
    /// Files that no state that is kept refers to, and that are not old enough.
    pub waiting: u64,
}

/// How long things are kept; `None` follows the table's properties.
#[derive(Clone, Copy, Debug, Default)]
pub struct Override {
    /// How old garbage must be.
    pub delay: Option<Duration>,
    /// How old orphans must be.
    pub orphan_age: Option<Duration>,
    /// Whether offline tables have their turn too.
    pub offline: bool,
}

/// Collects the garbage of one table.
///
/// # Errors
/// Errors of the stores; what was done stays done.
pub async fn run(
    services: &Services,
    table: &TableId,
    policy: GarbagePolicy,
    orphan_age: Duration,
) -> Result<Collected> {
    let now = services.ports.clock.now();
    let unknown = unknown_files(services, table, now, orphan_age).await?;
    let mut state = services.states.state(table).await?;
    let policy = match state.status() {
        TableStatus::Deleted => GarbagePolicy {
            history: Duration::ZERO,
            ..policy
        },
        TableStatus::Live | TableStatus::Absent => policy,
    };
    let orphans: Vec<FileName> = unknown.into_iter().filter(|name| !state.knows(name)).collect();
    let mut collected = Collected {
        orphans: orphans.len() as u64,
        ..Collected::default()
    };
    let mut marking = markable(&state, policy, now);
    marking.extend(orphans);
    for files in marking.chunks(BATCH) {
        let record = Record::GarbageMarked {
            files: files.to_vec(),
        };
        state = commit(services, table, "mark", record).await?;
    }
    let deleting = deletable(&state);
    let sizes: BTreeMap<FileName, u64> = state
        .garbage()
        .map(|(name, garbage)| (name.clone(), garbage.bytes))
        .collect();
    for files in deleting.chunks(BATCH) {
        let deletes: Vec<_> = files
            .iter()
            .map(|name| delete(services, name.object_path(table)))
            .collect();
        stream::iter(deletes)
            .buffer_unordered(DELETES)
            .try_collect::<()>()
            .await?;
        let record = Record::FilesDeleted {
            files: files.to_vec(),
        };
        state = commit(services, table, "forget", record).await?;
        collected.files += files.len() as u64;
        collected.bytes += files.iter().filter_map(|name| sizes.get(name)).sum::<u64>();
    }
    collected.waiting = state.garbage().count() as u64;
    collected.leftovers = sweep_leftovers(services, table, &state, now, orphan_age).await?;
    Ok(collected)
}

async fn commit(
    services: &Services,
    table: &TableId,
    what: &str,
    record: Record,
) -> Result<std::sync::Arc<TableState>> {
    let id = CommitId::new(format!("{what}/{}", services.ports.ids.uuid()));
    let committed = services.states.commit(table, Commit::new(id, record)).await?;
    committed.outcome.into_result()?;
    Ok(committed.state)
}

/// Old objects that the state of this moment does not know; a newer one may.
async fn unknown_files(
    services: &Services,
    table: &TableId,
    now: Timestamp,
    age: Duration,
) -> Result<Vec<FileName>> {
    let state = services.states.state(table).await?;
    let prefix = Path::from(format!("{table}/data"));
    let names = services.data.list(Some(&prefix)).try_filter_map(|meta| {
        let name = Some(meta)
            .filter(|meta| is_old(meta, now, age))
            .and_then(|meta| FileName::from_object_path(table, &meta.location))
            .filter(|name| !state.knows(name));
        std::future::ready(Ok(name))
    });
    Ok(names.try_collect().await?)
}

fn is_old(meta: &ObjectMeta, now: Timestamp, age: Duration) -> bool {
    let modified = Timestamp::from_millis(meta.last_modified.timestamp_millis());
    now.since(modified) >= age
}

async fn list_old(
    services: &Services,
    prefix: &Path,
    now: Timestamp,
    age: Duration,
) -> Result<Vec<ObjectMeta>> {
    let listed = services.data.list(Some(prefix));
    Ok(listed
        .try_filter(|meta| std::future::ready(is_old(meta, now, age)))
        .try_collect()
        .await?)
}

async fn delete(services: &Services, path: Path) -> Result<()> {
    match services.data.delete(&path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes bodies of entries that lost their race, snapshots that were never listed, and commit requests that
/// were answered.
///
/// A body numbered beyond the log's end may still become an entry, so it stays.
async fn sweep_leftovers(
    services: &Services,
    table: &TableId,
    state: &TableState,
    now: Timestamp,
    age: Duration,
) -> Result<u64> {
    let commits = Path::from(format!("{table}/commits"));
    let mut old = Vec::new();
    for prefix in [bodies_prefix(table), snapshots_prefix(table), commits.clone()] {
        old.extend(list_old(services, &prefix, now, age).await?);
    }
    if old.is_empty() {
        return Ok(0);
    }
    let used: BTreeSet<Path> = services.states.object_paths(table).await?.into_iter().collect();
    let mut swept = 0;
    for meta in old {
        let number = meta
            .location
            .filename()
            .and_then(|name| name.split('-').next()?.parse().ok());
        let may_come = !meta.location.prefix_matches(&commits)
            && number.is_some_and(|number| TransactionNumber(number) > state.transaction());
        if !used.contains(&meta.location) && !may_come {
            delete(services, meta.location).await?;
            swept += 1;
        }
    }
    Ok(swept)
}
