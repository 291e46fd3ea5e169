//! The ports of a simulated process: storage in memory, shared by all processes, behind the stage.

mod objects;
mod queue;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    collections::Collection,
    config::InstanceSettings,
    ids::BucketName,
    ports::{
        Bucket, Buckets, Clock, Ids, Item, ItemKey, ItemStore, Order, Queue, QueueName, QueueSettings, Range,
        Write,
    },
    testing::{
        memory::{MemoryBuckets, MemoryItemStore, MemoryQueryEngine},
        rows::Rows,
        seeded::SeededIds,
    },
    time::Timestamp,
};
use object_store::ObjectStore;

use self::{
    objects::SimulatedBuckets,
    queue::{SharedQueue, SimulatedQueue},
};
use super::stage::{Control, Stage};
use crate::{Ports, Services};

/// The bucket that clients put their inputs into.
pub const INPUTS: &str = "inputs";

/// What outlives every process: items, messages and objects.
#[derive(Debug)]
pub struct Storage {
    /// Items, without faults.
    pub items: Arc<MemoryItemStore>,
    buckets: Arc<MemoryBuckets>,
    times: Arc<objects::Times>,
    queues: BTreeMap<QueueName, Arc<SharedQueue>>,
    ids: Arc<SeededIds>,
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

impl Storage {
    /// Empty storage in which all ids follow from `seed`.
    pub fn new(clock: &Arc<dyn Clock>, seed: u64, queues: QueueSettings) -> Self {
        let ids = Arc::new(SeededIds::new(seed));
        let queue = |name| {
            let queue = SharedQueue::new(name, queues, clock.clone(), ids.clone());
            (name, Arc::new(queue))
        };
        Self {
            items: Arc::new(MemoryItemStore::new(clock.clone())),
            buckets: Arc::new(MemoryBuckets::new()),
            times: Arc::default(),
            queues: QueueName::ALL.into_iter().map(queue).collect(),
            ids,
        }
    }

    /// A bucket, without faults.
    pub fn bucket(&self, name: &str) -> Arc<dyn ObjectStore> {
        self.buckets.open(&Bucket::Named(bucket(name))).unwrap()
    }

    /// A queue, without faults.
    pub fn queue(&self, name: QueueName) -> &dyn Queue {
        &**self.queues.get(&name).unwrap()
    }

    /// How many messages are in a queue, copies that are still on their way left out.
    pub async fn waiting(&self, name: QueueName) -> u64 {
        let depth = self.queue(name).depth().await.unwrap();
        depth.visible + depth.hidden
    }

    /// Delivers again what was delivered before, as it was: one copy of each message of that queue.
    pub fn deliver_again(&self, name: QueueName) -> usize {
        self.queues.get(&name).map_or(0, |queue| queue.deliver_again())
    }

    /// The services of a new process whose clock is `skew` milliseconds ahead.
    pub fn services(
        &self,
        stage: &Arc<Stage>,
        control: &Arc<Control>,
        settings: &InstanceSettings,
        rows: &dyn Rows,
        skew: i64,
    ) -> Services {
        let clock: Arc<dyn Clock> = Arc::new(SkewedClock {
            stage: stage.clone(),
            ahead: AtomicI64::new(skew),
        });
        let buckets = Arc::new(SimulatedBuckets {
            inner: self.buckets.clone(),
            times: self.times.clone(),
            stage: stage.clone(),
            control: control.clone(),
        });
        let queues = self.queues.iter().map(|(name, queue)| {
            let queue = SimulatedQueue {
                inner: queue.clone(),
                stage: stage.clone(),
                control: control.clone(),
            };
            (*name, Arc::new(queue) as Arc<dyn Queue>)
        });
        let ids: Arc<dyn Ids> = self.ids.clone();
        let ports = Ports {
            items: Arc::new(SimulatedItems {
                inner: self.items.clone(),
                stage: stage.clone(),
                control: control.clone(),
            }),
            queues: queues.collect(),
            copy: buckets.clone(),
            uploads: self.buckets.clone(),
            buckets,
            engine: rows.engine(ids.clone()),
            queries: Arc::new(MemoryQueryEngine::default()),
            clock,
            ids,
            data_bucket: bucket("data"),
            export_bucket: bucket("exports"),
        };
        Services::new(ports, settings.clone()).unwrap()
    }
}

/// The true time, and a bit more or less.
#[derive(Debug)]
struct SkewedClock {
    stage: Arc<Stage>,
    ahead: AtomicI64,
}

#[async_trait]
impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let now = self.stage.clock.now().as_millis();
        Timestamp::from_millis(now + self.ahead.load(Ordering::Relaxed))
    }

    async fn sleep(&self, duration: Duration) {
        self.stage.clock.sleep(duration).await;
    }
}

#[derive(Debug)]
struct SimulatedItems {
    inner: Arc<MemoryItemStore>,
    stage: Arc<Stage>,
    control: Arc<Control>,
}

fn collections(writes: &[Write]) -> String {
    let mut names: Vec<_> = writes
        .iter()
        .map(|write| {
            let name = write.key().collection.as_str();
            match write {
                Write::Delete { .. } => format!("-{name}"),
                Write::Put { .. } | Write::Check { .. } => name.to_owned(),
            }
        })
        .collect();
    names.dedup();
    names.join(",")
}

#[async_trait]
impl ItemStore for SimulatedItems {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        let operation = format!("items get {}", key.collection);
        self.stage
            .around(&self.control, operation, self.inner.get(key))
            .await
    }

    async fn get_all(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>> {
        let mut names: Vec<_> = keys.iter().map(|key| key.collection.as_str()).collect();
        names.dedup();
        let operation = format!("items get {}", names.join(","));
        self.stage
            .around(&self.control, operation, self.inner.get_all(keys))
            .await
    }

    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>> {
        self.stage.auditor.reads(collection, partition, &range);
        let operation = format!("items query {collection}");
        let query = self.inner.query(collection, partition, range, limit, order);
        self.stage.around(&self.control, operation, query).await
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        let operation = format!("items write {}", collections(&writes));
        let (call, fate) = self.stage.fate(&self.control, operation);
        self.stage.before::<Error>(&self.control, &call, fate).await?;
        let written = self.inner.transact(writes.clone()).await;
        self.stage
            .auditor
            .written(&self.stage, &writes, written.is_ok(), fate)
            .await;
        self.stage.after::<Error>(&self.control, &call, fate).await?;
        written
    }
}
