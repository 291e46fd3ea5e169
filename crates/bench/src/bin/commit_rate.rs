//! How many commits a second tables take, on AWS or an emulator of it.
//!
//! `commit_rate INSTANCE direct|queued COMMITS TABLES [--tracked]`: makes so many commits to each of the tables. Each
//! adds a file of its own, as an ingest job does, and counts once its outcome was read back. Direct commits come from
//! one process; queued ones are sent by one and appended by a committer in another task. Tracked commits also write
//! their job's last event to the tracker. Prints one line of JSON.

#![expect(clippy::print_stdout, reason = "this program prints its findings")]
#![expect(clippy::disallowed_methods, reason = "this program measures real time")]

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Instant};

use dormouse_aws::{AwsInstance, Clients, Location, Names, objects::S3Buckets};
use dormouse_core::{
    config::InstanceSettings,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, RunId, TableName},
    key::{Key, KeyRange, KeyValue},
    ports::{Clock, Ids, SystemClock, SystemIds},
    schema::{Column, DataType, Schema},
    state::{Commit, CommitId, Outcome, Record},
    tables::TableInfo,
    tracker::{EventKind, JobKey, JobKind},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine, SqlEngine};
use dormouse_jobs::{
    Ports, Services,
    commit::{Committer, commit},
    worker::{self, Lifetime},
};
use futures::{StreamExt, TryStreamExt};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Done<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many commits of a table are under way at a time: as many as a fleet of workers has.
const AT_ONCE: usize = 2000;

#[tokio::main]
async fn main() -> Done<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [instance, mode, commits, tables, flags @ ..] = arguments.as_slice() else {
        return Err("commit_rate INSTANCE direct|queued COMMITS TABLES [--tracked]".into());
    };
    let (commits, table_count): (usize, usize) = (commits.parse()?, tables.parse()?);
    let tracked = flags.iter().any(|flag| flag == "--tracked");
    let services = open(instance).await?;
    let mut tables = Vec::new();
    for _ in 0..table_count {
        tables.push(make_table(&services, mode).await?);
    }
    let lifetime = Lifetime::default();
    let committer = Committer::new(services.clone());
    let work = async {
        let started = Instant::now();
        let done = commit_all(&services, &tables, commits, tracked).await;
        let seconds = started.elapsed().as_secs_f64();
        lifetime.stop();
        done.map(|()| seconds)
    };
    let seconds = match mode.as_str() {
        "direct" => work.await?,
        _ => {
            let (seconds, worked) = tokio::join!(work, worker::run_for(&services, &committer, &lifetime));
            worked?;
            seconds?
        }
    };
    let mut transactions = 0;
    for table in &tables {
        let state = services.states.state(&table.id).await?;
        if state.file_count() != commits {
            return Err(format!("table {} has {} files", table.name, state.file_count()).into());
        }
        transactions += state.transaction().0;
    }
    let commits = commits * table_count;
    let line = serde_json::json!({
        "mode": mode, "tables": table_count, "commits": commits, "tracked": tracked,
        "seconds": seconds, "commitsPerSecond": commits as f64 / seconds,
        "commitsPerTransaction": commits as f64 / transactions as f64,
    });
    println!("{line}");
    Ok(())
}

async fn open(instance: &str) -> Done<Services> {
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(SystemIds));
    let location = Location::new(Clients::from_environment().await?, Names::new(instance)?, None);
    let buckets = Arc::new(S3Buckets::new(&location.clients, clock.clone()));
    let text = location.properties(&buckets).await?.unwrap_or_default();
    let settings = InstanceSettings::read(&text, [])?;
    let opened = AwsInstance::open(&location, &settings, buckets, clock.clone(), ids.clone()).await?;
    let engine = Arc::new(ParquetRowEngine::new(EngineOptions::default(), ids.clone()));
    let ports = Ports {
        queues: opened.queues().collect(),
        items: opened.items,
        buckets: opened.buckets.clone(),
        uploads: opened.buckets,
        copy: opened.copy,
        engine,
        queries: Arc::new(SqlEngine::new(&EngineOptions::default(), 0, &*ids)),
        clock,
        ids,
        data_bucket: opened.data_bucket,
        export_bucket: opened.export_bucket,
    };
    Ok(Services::new(ports, settings)?)
}

async fn make_table(services: &Services, mode: &str) -> Done<TableInfo> {
    let schema = Schema::new(vec![Column::required("key", DataType::Utf8)], vec![], vec![])?;
    let properties = BTreeMap::from([("dormouse.table.commit.mode".to_owned(), mode.to_owned())]);
    let name = TableName::new(format!("commits-{}", SystemIds.uuid()))?;
    Ok(services
        .create_table(name, Arc::new(schema), &[], properties)
        .await?)
}

/// So many commits to each table, those of each in a task of their own.
async fn commit_all(services: &Services, tables: &[TableInfo], commits: usize, tracked: bool) -> Done<()> {
    let of_table = |table: &TableInfo| {
        let (services, table) = (services.clone(), table.clone());
        tokio::spawn(async move {
            futures::stream::iter((0..commits).map(|_| one(&services, &table, tracked)))
                .buffer_unordered(AT_ONCE)
                .try_collect::<Vec<()>>()
                .await
        })
    };
    let tasks: Vec<_> = tables.iter().map(of_table).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// A job's commit, from its request to its outcome.
async fn one(services: &Services, table: &TableInfo, tracked: bool) -> Done<()> {
    let job = JobId::new(SystemIds.uuid().to_string())?;
    let run = RunId::new(SystemIds.uuid().to_string())?;
    let record = Record::FilesAdded {
        job: job.clone(),
        run: run.clone(),
        issued: SystemClock.now(),
        files: vec![file()?],
    };
    let outcome = commit(services, table, Commit::new(CommitId::of_run(&job, &run), record)).await?;
    let Outcome::Applied(transaction) = outcome else {
        return Err(format!("a commit was not applied: {outcome:?}").into());
    };
    if tracked {
        let key = JobKey {
            kind: JobKind::Ingest,
            table: Some(table.id.clone()),
            job,
        };
        let event = EventKind::Committed {
            transaction,
            rows: 1,
            files: 1,
        };
        services
            .tracker
            .record(&key, Some(table.name.as_str()), (&run, 1), event)
            .await?;
    }
    Ok(())
}

fn file() -> Done<Arc<DataFile>> {
    let key = Key::new([KeyValue::Utf8("k".into())]);
    let range = KeyRange {
        min: key.clone(),
        max: key,
    };
    let part = FilePart {
        range,
        rows: 1,
        digest: RowDigest(1),
    };
    Ok(Arc::new(DataFile {
        name: FileName::new(&PartitionId::root(), SystemIds.uuid()),
        rows: 1,
        bytes: 1000,
        checksum: Checksum(1),
        parts: vec![part],
    }))
}
