//! What happens by itself, from time to time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use dormouse_core::{
    ErrorKind, Result,
    ids::TableId,
    plan::garbage::GarbagePolicy,
    tables::{TableInfo, TablePhase},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bulk,
    compaction::{self, CompactionWorker},
    export::{ExportLeafWorker, ExportSplitter},
    garbage,
    garbage::{Collected, Override},
    ingest::IngestWorker,
    repair,
    services::Services,
    snapshots,
    splitting::{self, Splitter},
    worker::Handler,
};

/// A thing that happens from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Making compactions.
    Compaction,
    /// Looking for leaves to split.
    Splitting,
    /// Snapshots and cutting logs.
    Snapshots,
    /// Garbage collection.
    Garbage,
    /// Repair of the tracker.
    Repair,
    /// Looking after bulk jobs.
    Bulk,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 6] = [
        Self::Compaction,
        Self::Splitting,
        Self::Snapshots,
        Self::Garbage,
        Self::Repair,
        Self::Bulk,
    ];

    fn period(self, services: &Services) -> Duration {
        match self {
            Self::Compaction => services.settings.compaction_period(),
            Self::Splitting => services.settings.splitting_period(),
            Self::Snapshots => services.settings.snapshot_period(),
            Self::Garbage => services.settings.gc_period(),
            Self::Repair => services.settings.tracker_repair_period(),
            Self::Bulk => services.settings.bulk_sweep_period(),
        }
    }

    /// Does it once.
    ///
    /// # Errors
    /// Errors of the stores; tables that failed do not keep others from their turn.
    pub async fn run_once(self, services: &Services) -> Result<()> {
        match self {
            Self::Compaction => compact_all(services).await,
            Self::Splitting => split_all(services).await,
            Self::Snapshots => snapshot_all(services).await,
            Self::Garbage => {
                let turns = collect_all(services, Override::default()).await?;
                turns
                    .into_iter()
                    .find_map(|(_, turn)| turn.err())
                    .map_or(Ok(()), Err)
            }
            Self::Repair => repair_all(services).await,
            Self::Bulk => Box::pin(bulk::sweep(services)).await,
        }
    }

    /// Does it again and again until `stop` is cancelled, which may be half-way; failures are logged.
    pub async fn run(self, services: &Services, stop: &CancellationToken) {
        let turns = async {
            loop {
                if let Err(error) = self.run_once(services).await {
                    tracing::warn!(schedule = ?self, error = error.report(), "schedule failed");
                }
                services.ports.clock.sleep(self.period(services)).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = turns => {}
        }
    }
}

async fn compact_all(services: &Services) -> Result<()> {
    each(online(services).await?, async |table| {
        let policy = services.table_settings(&table)?.compaction_policy();
        compaction::create(services, &table, policy).await.map(|_| ())
    })
    .await
}

async fn split_all(services: &Services) -> Result<()> {
    each(online(services).await?, async |table| {
        splitting::find(services, &table).await.map(|_| ())
    })
    .await
}

async fn snapshot_all(services: &Services) -> Result<()> {
    let online = online(services).await?;
    each(online, async |table| {
        snapshots::run(services, &table).await.map(|_| ())
    })
    .await
}

async fn online(services: &Services) -> Result<Vec<TableInfo>> {
    let tables = services.tables.list().await?;
    Ok(tables
        .into_iter()
        .filter(|table| table.phase == TablePhase::Online)
        .collect())
}

/// Runs `work` for all, and returns the first error after the last.
pub(crate) async fn each<T, F: Future<Output = Result<()>>>(
    all: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<()> {
    let mut first = Ok(());
    for one in all {
        let result = work(one).await;
        if first.is_ok() {
            first = result;
        }
    }
    first
}

/// Collects the garbage of every table that is online and of every deleted one, with the result for each by name
/// or id: a table that fails keeps no other from its turn.
///
/// # Errors
/// Errors of the index of tables, and of sweeping late objects and abandoned uploads.
pub async fn collect_all(services: &Services, times: Override) -> Result<Vec<(String, Result<Collected>)>> {
    let orphan_age = times.orphan_age.unwrap_or(services.settings.orphan_age());
    let mut turns = Vec::new();
    let mut known = BTreeSet::new();
    for table in services.tables.list().await? {
        known.insert(table.id.clone());
        if table.phase == TablePhase::Online || times.offline {
            let turn = collect(services, &table, times, orphan_age).await;
            turns.push((table.name.to_string(), turn));
        }
    }
    for id in services.tables.deleted().await? {
        let turn = collect_deleted(services, &id, times, orphan_age).await;
        turns.push((id.to_string(), turn));
        known.insert(id);
    }
    let late = garbage::purge::late_objects(services, &known, orphan_age).await?;
    turns.extend(late.into_iter().map(|(id, swept)| (id.to_string(), Ok(swept))));
    for bucket in [services.data_bucket(), services.export_bucket()] {
        services
            .ports
            .uploads
            .abort_older_than(&bucket, orphan_age)
            .await?;
    }
    Ok(turns)
}

async fn collect(
    services: &Services,
    table: &TableInfo,
    times: Override,
    orphan_age: Duration,
) -> Result<Collected> {
    let settings = services.table_settings(table)?;
    let policy = GarbagePolicy {
        delay: times.delay.unwrap_or(settings.gc_delay()),
        history: settings.history_retention(),
    };
    garbage::run(services, &table.id, policy, orphan_age).await
}

async fn collect_deleted(
    services: &Services,
    table: &TableId,
    times: Override,
    orphan_age: Duration,
) -> Result<Collected> {
    let settings = services.settings.for_table(&BTreeMap::new())?;
    let policy = GarbagePolicy {
        delay: times.delay.unwrap_or(settings.gc_delay()),
        history: Duration::ZERO,
    };
    let collected = match garbage::run(services, table, policy, orphan_age).await {
        // A purge that was cut short leaves a part of the log, and it is taken up again; one of another process
        // leaves nothing.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            Collected::default()
        }
        collected => collected?,
    };
    garbage::purge::deleted(services, table, orphan_age).await?;
    Ok(collected)
}

async fn repair_all(services: &Services) -> Result<()> {
    let tables = services.tables.list().await?;
    let commits = each(tables, async |table| {
        repair::commits(services, &table).await.map(|_| ())
    })
    .await;
    let handlers: [Box<dyn Handler>; 5] = [
        Box::new(IngestWorker::new(services.clone())),
        Box::new(CompactionWorker::new(services.clone())),
        Box::new(Splitter::new(services.clone())),
        Box::new(ExportSplitter::new(services.clone())),
        Box::new(ExportLeafWorker::new(services.clone())),
    ];
    let letters = each(handlers, async |handler| {
        repair::dead_letters(services, &*handler).await.map(|_| ())
    })
    .await;
    let lost = repair::lost_jobs(services).await.map(|_| ());
    commits.and(letters).and(lost)
}
