//! An item store that fails in the ways that remote ones do, by a seed or on demand.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use dormouse_core::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ports::{Clock, Ids, Item, ItemKey, ItemStore, Order, Range, Write},
    testing::seeded::SeededIds,
};
use futures::future::BoxFuture;
use tokio::sync::Notify;

/// Something that happens meanwhile.
pub(crate) type Meanwhile = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Fails a part of the calls to a store.
pub(crate) struct FaultyItems {
    inner: Arc<dyn ItemStore>,
    clock: Arc<dyn Clock>,
    dice: SeededIds,
    /// Of 100 writes, how many end badly, each way of ending badly as likely as the others.
    pub(crate) write_faults: AtomicU64,
    /// Of 100 reads, how many are not answered.
    pub(crate) read_faults: AtomicU64,
    /// As what every write fails, if it does.
    pub(crate) refusal: Mutex<Option<ErrorKind>>,
    /// What happens just before and just after each reading of a head.
    pub(crate) around_heads: Mutex<Option<Arc<Meanwhile>>>,
    /// While closed, writes wait at the gate.
    pub(crate) closed: AtomicBool,
    pub(crate) gate: Notify,
    /// Told when a write comes to the closed gate.
    pub(crate) arrived: Notify,
    pub(crate) writes: AtomicU64,
    /// How many reads were made of items by their keys.
    pub(crate) reads: AtomicU64,
    /// An item that cannot be read, nor what is read together with it.
    pub(crate) unreadable: Mutex<Option<ItemKey>>,
}

impl fmt::Debug for FaultyItems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyItems").finish_non_exhaustive()
    }
}

impl FaultyItems {
    pub(crate) fn new(inner: Arc<dyn ItemStore>, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            inner,
            clock,
            dice: SeededIds::new(seed),
            write_faults: AtomicU64::new(0),
            read_faults: AtomicU64::new(0),
            refusal: Mutex::default(),
            around_heads: Mutex::default(),
            closed: AtomicBool::new(false),
            gate: Notify::new(),
            arrived: Notify::new(),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            unreadable: Mutex::default(),
        }
    }

    fn percent(&self) -> u64 {
        self.dice.random() % 100
    }

    async fn dawdle(&self) {
        self.clock
            .sleep(self.dice.jitter(Duration::from_millis(40)))
            .await;
    }

    async fn before_read(&self) -> Result<()> {
        if self.read_faults.load(Relaxed) > 0 {
            self.dawdle().await;
            if self.percent() < self.read_faults.load(Relaxed) {
                return Err(Error::unavailable("a read was not answered"));
            }
        }
        Ok(())
    }

    fn read(&self, keys: &[ItemKey]) -> Result<()> {
        self.reads.fetch_add(1, Relaxed);
        match &*self.unreadable.lock().unwrap() {
            Some(key) if keys.contains(key) => Err(Error::corrupt("an item is damaged")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl ItemStore for FaultyItems {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        self.before_read().await?;
        self.read(std::slice::from_ref(key))?;
        let meanwhile = self.around_heads.lock().unwrap().clone();
        match meanwhile.filter(|_| key.collection == Collection::Heads) {
            Some(meanwhile) => {
                meanwhile().await;
                let head = self.inner.get(key).await;
                meanwhile().await;
                head
            }
            None => self.inner.get(key).await,
        }
    }

    async fn get_all(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>> {
        self.before_read().await?;
        // Others have the time to come.
        tokio::task::yield_now().await;
        self.read(keys)?;
        self.inner.get_all(keys).await
    }

    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>> {
        self.before_read().await?;
        self.inner.query(collection, partition, range, limit, order).await
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        if self.closed.load(Relaxed) {
            self.arrived.notify_one();
            self.gate.notified().await;
        }
        self.writes.fetch_add(1, Relaxed);
        if let Some(kind) = *self.refusal.lock().unwrap() {
            return Err(Error::new(kind, "no write is done"));
        }
        let faults = self.write_faults.load(Relaxed);
        if faults == 0 {
            return self.inner.transact(writes).await;
        }
        self.dawdle().await;
        if self.percent() >= faults {
            let result = self.inner.transact(writes).await;
            self.dawdle().await;
            return result;
        }
        match self.dice.random() % 4 {
            0 => Err(Error::unavailable("the request was lost")),
            1 => {
                let _ = self.inner.transact(writes).await;
                Err(Error::unavailable("the reply was lost"))
            }
            // The store's client sends the request again after a lost reply.
            2 => {
                let _ = self.inner.transact(writes.clone()).await;
                self.inner.transact(writes).await
            }
            _ => Err(Error::conflict("another transaction was at work")),
        }
    }
}
