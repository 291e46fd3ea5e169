//! A simulated instance: its storage, its processes, and an operator whose calls meet no faults.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dormouse_core::{
    bulk::{NewBulkJob, Operation, QueryRequest},
    config::InstanceSettings,
    ids::{BulkJobId, PartitionId, TableName},
    partition::tree_from_split_points,
    ports::{Clock, Compression, FileFormat, Message, QueueName, QueueSettings},
    tables::TableInfo,
    tenants::TenantId,
    testing::{
        rows::{Row, Rows},
        seeded::PausedClock,
    },
    time::Timestamp,
};
use object_store::{ObjectStoreExt, path::Path};
use parking_lot::Mutex;

use super::{
    auditor::Auditor,
    ports::{INPUTS, Storage},
    process::{self, Ended},
    stage::{Control, Stage},
};
use crate::{Services, bulk};

/// The actor whose calls meet no faults.
pub const OPERATOR: &str = "operator";

/// The keys of simulated rows are smaller, and not negative.
pub const KEYS: i64 = 1000;

/// How long queues may take to drain once faults have stopped, in simulated time.
pub const LIVENESS: Duration = Duration::from_secs(4 * 3600);

const PROPERTIES: &str = "
dormouse.ingest.concurrency=2
dormouse.export.concurrency=2
dormouse.worker.drain.seconds=5
dormouse.compaction.job.creation.period.minutes=2
dormouse.compaction.lease.minutes=10
dormouse.partition.splitting.period.minutes=4
dormouse.statestore.snapshot.period.seconds=60
dormouse.gc.period.minutes=3
dormouse.gc.orphan.age.hours=1
dormouse.tracker.repair.period.seconds=60
dormouse.export.pin.hours=6
dormouse.job.lost.hours=2
dormouse.bulk.sweep.period.seconds=60
dormouse.bulk.max.concurrent.jobs=1
dormouse.bulk.result.retention.days=0.1
dormouse.bulk.job.retention.days=0.2
";

/// How a simulated table is made.
#[derive(Clone, Copy, Debug)]
pub struct TableForm {
    /// How many leaves.
    pub leaves: i64,
    /// Whether commits go through the queue.
    pub queued: bool,
    /// How many transactions make a snapshot.
    pub snapshot: u64,
    /// How large files are.
    pub target: u64,
    /// How many files a compaction takes.
    pub batch: u64,
    /// How many rows a leaf may have.
    pub threshold: u64,
}

/// A simulated instance.
#[derive(Debug)]
pub struct Instance {
    /// Where all calls pass.
    pub stage: Arc<Stage>,
    /// What outlives processes.
    pub storage: Storage,
    /// The form of the rows.
    pub rows: Arc<dyn Rows>,
    /// The services of clients, operators and checks.
    pub operator: Services,
    settings: InstanceSettings,
    slots: Mutex<Vec<Arc<Control>>>,
    started: Mutex<u32>,
    kills: Mutex<u64>,
}

impl Instance {
    /// An instance without tables, whose trace keeps so many of the newest lines.
    pub fn new(seed: u64, rows: Arc<dyn Rows>, queues: QueueSettings, kept: usize) -> Self {
        let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let storage = Storage::new(&as_clock, seed, queues);
        let auditor = Auditor::new(storage.items.clone(), storage.bucket("data"));
        let stage = Stage::new(clock, auditor, kept);
        let settings = InstanceSettings::read(PROPERTIES, []).unwrap();
        let operator = storage.services(&stage, &Control::new(0), &settings, &*rows, 0);
        Self {
            stage,
            storage,
            rows,
            operator,
            settings,
            slots: Mutex::default(),
            started: Mutex::default(),
            kills: Mutex::default(),
        }
    }

    /// Keeps a process running, one after the other. `skew` tells by how many milliseconds the next one's clock is
    /// ahead, `down` how long it takes to come.
    pub async fn host(&self, slot: usize, skew: impl Fn() -> i64, down: impl Fn() -> Duration) {
        loop {
            let number = {
                let mut started = self.started.lock();
                *started += 1;
                *started
            };
            let control = Control::new(number);
            {
                let mut slots = self.slots.lock();
                let places = slots.len().max(slot + 1);
                slots.resize_with(places, || Control::new(0));
                slots[slot] = control.clone();
            }
            let ahead = skew();
            let services = self
                .storage
                .services(&self.stage, &control, &self.settings, &*self.rows, ahead);
            self.stage
                .note(format_args!("process {number} starts, {ahead} ms ahead"));
            let ended = process::run(&self.stage, &control, process::serve(services, control.clone())).await;
            self.stage.note(format_args!("process {number}: {ended:?}"));
            if ended == Ended::Killed {
                *self.kills.lock() += 1;
            }
            self.sleep(down()).await;
        }
    }

    /// The processes that run.
    pub fn processes(&self) -> Vec<Arc<Control>> {
        self.slots.lock().clone()
    }

    /// How many processes were killed.
    pub fn kills(&self) -> u64 {
        *self.kills.lock()
    }

    /// Waits, in true time.
    pub async fn sleep(&self, time: Duration) {
        self.stage.clock.sleep(time).await;
    }

    /// Lets all clocks leap.
    pub fn leap(&self, time: Duration) {
        self.stage.clock.jump(time.as_millis() as i64);
    }

    /// Sends a message, and returns its id.
    pub async fn send(&self, queue: QueueName, body: String) -> String {
        let queue = self.storage.queue(queue);
        queue.send(vec![Message::new(body)]).await.unwrap().remove(0)
    }

    /// Makes a table.
    pub async fn create(&self, name: &str, form: TableForm) -> TableInfo {
        let leaves = form.leaves;
        let points: Vec<_> = (1..leaves).map(|i| self.rows.key(i * KEYS / leaves)).collect();
        let mut next = 0;
        let partitions = tree_from_split_points(&points, || {
            next += 1;
            PartitionId::new(format!("p{next}")).unwrap()
        })
        .unwrap();
        let mode = if form.queued { "queued" } else { "direct" };
        let properties = [
            ("commit.mode", mode.to_owned()),
            ("statestore.snapshot.min.transactions", form.snapshot.to_string()),
            ("state.history.retention.hours", "0.1".to_owned()),
            ("gc.delay.minutes", "2".to_owned()),
            ("ingest.file.target.bytes", form.target.to_string()),
            ("compaction.strategy", "basic".to_owned()),
            ("compaction.files.batch.size", form.batch.to_string()),
            ("partition.splitting.threshold", form.threshold.to_string()),
        ];
        let properties = properties
            .into_iter()
            .map(|(key, value)| (format!("dormouse.table.{key}"), value))
            .collect();
        let name = TableName::new(name).unwrap();
        let tables = &self.operator.tables;
        tables
            .create(name, self.rows.schema().unwrap(), partitions, properties)
            .await
            .unwrap()
    }

    /// Makes a bulk job that writes all rows of a table, and starts it.
    pub async fn bulk_job(&self, id: &BulkJobId, table: &str) {
        let new = NewBulkJob {
            tenant: TenantId::instance(),
            id: id.clone(),
            operation: Operation::Query,
            object: None,
            query: QueryRequest {
                sql: format!("SELECT * FROM {table}"),
                parameters: BTreeMap::new(),
                as_of: None,
            },
            format: FileFormat::JsonLines {
                compression: Compression::None,
            },
            metadata: serde_json::Map::new(),
            deadline: self.stage.clock.now().plus(LIVENESS),
            request: id.to_string(),
            starts: true,
        };
        bulk::create(&self.operator, new).await.unwrap();
    }

    /// Waits until all bulk jobs have ended.
    pub async fn bulk_ended(&self) {
        let limit = self.stage.clock.now().plus(LIVENESS);
        loop {
            let queue = self.operator.bulk.queue(&TenantId::instance()).await.unwrap();
            if queue.is_empty() {
                return;
            }
            if self.stage.clock.now() > limit {
                let text = format!("Liveness: bulk jobs have no end: {queue:?}");
                return self.stage.auditor.violation(text);
            }
            self.sleep(Duration::from_secs(2)).await;
        }
    }

    /// Writes the input objects of a job: its rows, in so many files.
    pub async fn input(&self, job: &str, rows: &[Row], files: usize) {
        let per_file = rows.len().div_ceil(files).max(1);
        let inputs = self.storage.bucket(INPUTS);
        for file in 0..files {
            let part = rows.chunks(per_file).nth(file).unwrap_or_default();
            let path = Path::from(format!("{job}/{file}.parquet"));
            inputs.put(&path, self.rows.encode(part).into()).await.unwrap();
        }
    }

    /// Waits until all queues are empty.
    pub async fn drained(&self, when: &str) {
        let limit = self.stage.clock.now().plus(LIVENESS);
        loop {
            let mut waiting = 0;
            for queue in QueueName::ALL {
                waiting += self.storage.waiting(queue).await;
            }
            if waiting == 0 {
                return;
            }
            if self.stage.clock.now() > limit {
                let mut left = Vec::new();
                for queue in QueueName::ALL {
                    left.push((queue, self.storage.queue(queue).peek(3).await.unwrap()));
                }
                let text = format!("Liveness: {when}, queues hold {left:?}");
                return self.stage.auditor.violation(text);
            }
            self.sleep(Duration::from_secs(2)).await;
        }
    }
}
