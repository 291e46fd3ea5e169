//! One instance in memory, with as many processes as a test asks for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_core::{
    config::InstanceSettings,
    ids::{BucketName, ExportId, JobId, PartitionId, TableId, TableName},
    partition::tree_from_split_points,
    plan::export::{ExportPlan, Manifest},
    ports::{Bucket, Buckets, Clock, Ids, ItemStore, Message, Queue, QueueDepth, QueueName, QueueSettings},
    state::{Commit, CommitId, Outcome, Record, TableState, transaction::Split},
    tables::TableInfo,
    testing::{
        memory::{
            EngineStep, MemoryBuckets, MemoryItemStore, MemoryQueryEngine, MemoryQueue, MemoryRow,
            MemoryRowEngine, QueryStep,
        },
        seeded::{PausedClock, SeededIds},
    },
    time::Timestamp,
    tracker::{JobKey, JobKind, JobReport, JobStatus},
};
use dormouse_jobs::{
    Handler, Ports, Services,
    bulk::QueryWorker,
    commit::Committer,
    compaction::CompactionWorker,
    doctor::{Depth, examine},
    export::{ExportLeafWorker, ExportSplitter},
    ingest::IngestWorker,
    splitting::Splitter,
    worker,
};
use futures::{FutureExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::faults::{Faults, FaultyBuckets, FaultyItems, FaultyQueue};

pub(crate) const VISIBILITY: Duration = Duration::from_secs(30);

pub(crate) type Row = (i64, String);

pub(crate) struct World {
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) engine: Arc<MemoryRowEngine>,
    pub(crate) queries: Arc<MemoryQueryEngine>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) inputs: Arc<dyn ObjectStore>,
    ports: Ports,
    settings: InstanceSettings,
    /// The process that tests look through.
    pub(crate) services: Services,
}

/// Keeps an engine waiting at a step.
#[derive(Clone)]
pub(crate) struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            reached: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Gate {
    async fn stand(&self) {
        self.reached.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until somebody stands at the gate.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets everybody through, from now on.
    pub(crate) fn open(&self) {
        self.open.add_permits(1_000_000);
    }
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    pub(crate) fn with(properties: &str) -> Self {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let ids: Arc<dyn Ids> = Arc::new(SeededIds::new(42));
        let faults = Arc::new(Faults::default());
        let settings = InstanceSettings::read(properties, []).unwrap();
        let as_clock: Arc<dyn Clock> = clock.clone();
        let items: Arc<dyn ItemStore> = Arc::new(FaultyItems {
            inner: Arc::new(MemoryItemStore::new(as_clock.clone())),
            faults: faults.clone(),
        });
        let memory = Arc::new(MemoryBuckets::new());
        let buckets = Arc::new(FaultyBuckets {
            inner: memory.clone(),
            faults: faults.clone(),
            clock: as_clock.clone(),
            written: Arc::default(),
        });
        let queue_settings = QueueSettings {
            visibility: VISIBILITY,
            max_attempts: 5,
        };
        let queue = |name| {
            let inner = MemoryQueue::new(name, queue_settings, as_clock.clone(), ids.clone());
            let queue = FaultyQueue {
                inner: Arc::new(inner),
                faults: faults.clone(),
            };
            (name, Arc::new(queue) as Arc<dyn Queue>)
        };
        let engine = Arc::new(MemoryRowEngine::new(ids.clone()));
        let queries = Arc::new(MemoryQueryEngine::default());
        let ports = Ports {
            items,
            queues: QueueName::ALL.into_iter().map(queue).collect(),
            buckets: buckets.clone(),
            uploads: memory,
            copy: buckets.clone(),
            engine: engine.clone(),
            queries: queries.clone(),
            clock: as_clock,
            ids,
            data_bucket: bucket("data"),
            export_bucket: bucket("exports"),
        };
        let services = Services::new(ports.clone(), settings.clone()).unwrap();
        Self {
            clock,
            engine,
            queries,
            faults,
            inputs: buckets.open(&Bucket::Named(bucket("source"))).unwrap(),
            ports,
            settings,
            services,
        }
    }

    /// A process that has just started.
    pub(crate) fn process(&self) -> Services {
        Services::new(self.ports.clone(), self.settings.clone()).unwrap()
    }

    /// A table whose leaves are cut at 100, 200 and so on.
    pub(crate) async fn table(&self, name: &str, leaves: i64) -> TableInfo {
        self.table_with(name, leaves, &[]).await
    }

    pub(crate) async fn table_with(&self, name: &str, leaves: i64, properties: &[(&str, &str)]) -> TableInfo {
        let points: Vec<_> = (1..leaves).map(|i| MemoryRowEngine::key(i * 100)).collect();
        let mut next = 0;
        let partitions = tree_from_split_points(&points, || {
            next += 1;
            PartitionId::new(format!("p{next}")).unwrap()
        })
        .unwrap();
        let properties = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let name = TableName::new(name).unwrap();
        let schema = MemoryRowEngine::schema().unwrap();
        let tables = &self.services.tables;
        tables.create(name, schema, partitions, properties).await.unwrap()
    }

    pub(crate) async fn input(&self, path: &str, rows: &[Row]) {
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, text)| MemoryRow(*key, text.clone()))
            .collect();
        self.object(path, MemoryRowEngine::encode(&rows)).await;
    }

    pub(crate) async fn object(&self, path: &str, body: impl Into<object_store::PutPayload>) {
        self.inputs.put(&Path::from(path), body.into()).await.unwrap();
    }

    /// Sends a message, and returns its id.
    pub(crate) async fn send(&self, queue: QueueName, body: impl Into<String>) -> String {
        let queue = &self.ports.queues[&queue];
        queue.send(vec![Message::new(body)]).await.unwrap().remove(0)
    }

    /// Writes an input of these rows and sends a job for it; the job's id is also the object's name.
    pub(crate) async fn feed(&self, table: &TableInfo, job: &str, rows: &[Row]) {
        self.input(&format!("{job}.parquet"), rows).await;
        self.send(QueueName::Ingest, ingest_message(table, job)).await;
    }

    /// Feeds rows and works until they are in the table.
    pub(crate) async fn fed(&self, table: &TableInfo, job: &str, rows: &[Row]) {
        self.feed(table, job, rows).await;
        self.settle().await;
        assert_eq!(self.job(job).await.status, JobStatus::Finished);
    }

    pub(crate) async fn depth(&self, queue: QueueName) -> QueueDepth {
        self.ports.queues[&queue].depth().await.unwrap()
    }

    pub(crate) fn queue(&self, queue: QueueName) -> &Arc<dyn Queue> {
        &self.ports.queues[&queue]
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// Lets workers of every queue, in one new process, work until all queues are empty.
    pub(crate) async fn settle(&self) {
        let services = self.process();
        let work = self.work(&services);
        let quiet = async {
            loop {
                let mut busy = 0;
                for queue in self.ports.queues.values() {
                    let depth = queue.depth().await.unwrap();
                    busy += depth.visible + depth.hidden;
                }
                if busy == 0 {
                    return;
                }
                self.sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = quiet => {}
            () = self.sleep(Duration::from_secs(6 * 3600)) => panic!("the queues do not drain"),
        }
    }

    /// Workers of every queue in one process, for ever.
    pub(crate) async fn work(&self, services: &Services) {
        let stop = CancellationToken::new();
        let handlers = handlers(services);
        let workers = handlers
            .iter()
            .map(|handler| worker::run(services, &**handler, &stop));
        futures::future::join_all(workers.map(|worker| worker.boxed())).await;
    }

    /// A gate at the engine's steps that `which` names; all others pass.
    pub(crate) fn gate(&self, which: impl Fn(&EngineStep) -> bool + Send + Sync + 'static) -> Gate {
        let gate = Gate::default();
        let held = gate.clone();
        self.engine.set_hook(move |step| {
            let stands = which(&step);
            let held = held.clone();
            async move {
                if stands {
                    held.stand().await;
                }
                Ok(())
            }
        });
        gate
    }

    /// A gate at the steps of queries that `which` names; all others pass.
    pub(crate) fn query_gate(&self, which: impl Fn(&QueryStep) -> bool + Send + Sync + 'static) -> Gate {
        let gate = Gate::default();
        let held = gate.clone();
        self.queries.set_hook(move |step| {
            let stands = which(&step);
            let held = held.clone();
            async move {
                if stands {
                    held.stand().await;
                }
                Ok(())
            }
        });
        gate
    }

    pub(crate) async fn state(&self, table: &TableInfo) -> Arc<TableState> {
        self.services.states.state(&table.id).await.unwrap()
    }

    /// The rows of the table now, by key.
    pub(crate) async fn rows(&self, table: &TableInfo) -> Vec<Row> {
        let state = self.state(table).await;
        self.rows_of(table, &state).await
    }

    pub(crate) async fn rows_of(&self, table: &TableInfo, state: &TableState) -> Vec<Row> {
        let mut rows = Vec::new();
        for leaf in state.leaves() {
            for reference in state.references(&leaf.id) {
                let path = reference.file.name.object_path(&table.id);
                let object = self
                    .services
                    .data
                    .get(&path)
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap();
                let all = MemoryRowEngine::decode(&object).unwrap();
                rows.extend(
                    all.into_iter()
                        .filter(|row| leaf.bounds.contains(&MemoryRowEngine::key(row.0)))
                        .map(|row| (row.0, row.1)),
                );
            }
        }
        rows.sort();
        rows
    }

    /// The report of the only job with this id.
    pub(crate) async fn job(&self, job: &str) -> JobReport {
        let id = JobId::new(job).unwrap();
        let mut reports = self.services.tracker.reports(&id).await.unwrap();
        assert_eq!(reports.len(), 1, "{reports:#?}");
        reports.remove(0)
    }

    pub(crate) async fn has_job(&self, job: &str) -> bool {
        let id = JobId::new(job).unwrap();
        !self.services.tracker.reports(&id).await.unwrap().is_empty()
    }

    /// The names of the events of a job, without repeats of the same run.
    pub(crate) async fn events(&self, kind: JobKind, table: &TableInfo, job: &str) -> Vec<&'static str> {
        let key = JobKey {
            kind,
            table: Some(table.id.clone()),
            job: JobId::new(job).unwrap(),
        };
        let events = self.services.tracker.events(&key).await.unwrap();
        events.iter().map(|event| event.kind.name()).collect()
    }

    /// Every object of the export, by name.
    pub(crate) async fn exported(&self, table: &TableInfo, export: &str) -> BTreeMap<String, Vec<u8>> {
        let prefix = ExportPlan::prefix(&table.id, &ExportId::new(export).unwrap());
        let exports = &self.services.exports;
        let listed: Vec<_> = exports.list(Some(&prefix)).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for meta in listed {
            let body = exports.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.insert(meta.location.filename().unwrap().to_owned(), body.to_vec());
        }
        objects
    }

    pub(crate) async fn manifest(&self, table: &TableInfo, export: &str) -> Manifest {
        let objects = self.exported(table, export).await;
        assert!(objects.contains_key("_SUCCESS"), "{:?}", objects.keys());
        serde_json::from_slice(&objects["_manifest.json"]).unwrap()
    }

    /// The rows of a complete export, in the order of its manifest; checks that its objects are those of the
    /// manifest and no more.
    pub(crate) async fn rows_of_export(&self, table: &TableInfo, export: &str) -> Vec<Row> {
        let manifest = self.manifest(table, export).await;
        let mut objects = self.exported(table, export).await;
        for name in ["_SUCCESS", "_manifest.json", "_plan.json"] {
            objects.remove(name).unwrap();
        }
        let mut rows = Vec::new();
        for file in &manifest.files {
            let body = objects.remove(&file.file).unwrap();
            assert_eq!(body.len() as u64, file.bytes);
            assert_eq!(MemoryRowEngine::checksum(&body), file.crc64_nvme);
            let part = MemoryRowEngine::decode(&body).unwrap();
            assert_eq!(part.len() as u64, file.rows);
            assert!(part.is_sorted_by_key(|row| row.0), "{} is not sorted", file.file);
            rows.extend(part.into_iter().map(|row| (row.0, row.1)));
        }
        assert!(objects.is_empty(), "beside the manifest: {:?}", objects.keys());
        assert_eq!(rows.len() as u64, manifest.rows);
        assert!(rows.is_sorted_by_key(|row| row.0), "parts are out of order");
        rows
    }

    /// The data files that are there.
    pub(crate) async fn data_files(&self, table: &TableId) -> Vec<String> {
        let prefix = Path::from(format!("{table}/data"));
        let listed: Vec<_> = self
            .services
            .data
            .list(Some(&prefix))
            .try_collect()
            .await
            .unwrap();
        listed.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    pub(crate) async fn commit(&self, table: &TableInfo, id: &str, record: Record) -> Outcome {
        let commit = Commit::new(CommitId::new(id), record);
        self.services
            .states
            .commit(&table.id, commit)
            .await
            .unwrap()
            .outcome
    }

    /// Cuts the leaf that holds `at`.
    pub(crate) async fn split(&self, table: &TableInfo, at: i64) {
        let state = self.state(table).await;
        let at = MemoryRowEngine::key(at);
        let leaf = state.leaves().find(|leaf| leaf.bounds.contains(&at)).unwrap();
        let split = Split {
            partition: leaf.id.clone(),
            left: PartitionId::new(format!("{}-l", leaf.id)).unwrap(),
            right: PartitionId::new(format!("{}-r", leaf.id)).unwrap(),
            at,
        };
        let outcome = self
            .commit(
                table,
                &format!("split/{}", leaf.id),
                Record::PartitionSplit(split),
            )
            .await;
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    /// The doctor finds nothing, to the last row.
    pub(crate) async fn assert_sound(&self, table: &TableInfo) {
        let report = Box::pin(examine(&self.process(), table, Depth::Deep))
            .await
            .unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }

    /// Every data file is referenced, nothing is garbage, and no object is an orphan.
    pub(crate) async fn assert_no_orphans(&self, table: &TableInfo) {
        let state = self.state(table).await;
        let known: Vec<_> = state
            .files()
            .map(|(file, _)| file.name.object_path(&table.id).to_string())
            .collect();
        let mut found = self.data_files(&table.id).await;
        found.sort();
        assert_eq!(found, known);
    }
}

pub(crate) fn handlers(services: &Services) -> [Box<dyn Handler>; 7] {
    [
        Box::new(IngestWorker::new(services.clone())),
        Box::new(ExportSplitter::new(services.clone())),
        Box::new(Splitter::new(services.clone())),
        Box::new(ExportLeafWorker::new(services.clone())),
        Box::new(CompactionWorker::new(services.clone())),
        Box::new(Committer::new(services.clone())),
        Box::new(QueryWorker::new(services.clone())),
    ]
}

pub(crate) fn ingest_message(table: &TableInfo, job: &str) -> String {
    format!(
        r#"{{"id":"{job}","tableName":"{}","files":["source/{job}.parquet"]}}"#,
        table.name
    )
}

pub(crate) fn export_message(table: &TableInfo, export: &str) -> String {
    format!(r#"{{"tableId":"{}","exportId":"{export}"}}"#, table.id)
}

/// Rows with these keys, whose payloads begin with `text`.
pub(crate) fn rows(text: &str, keys: impl IntoIterator<Item = i64>) -> Vec<Row> {
    keys.into_iter()
        .map(|key| (key, format!("{text}-{key}")))
        .collect()
}
