//! Stores in memory that several processes share.

use std::{sync::Arc, time::Duration};

use dormouse_core::{
    collections::Collection,
    ids::TransactionNumber,
    ports::{Clock, Condition, Item, ItemKey, ItemStore, Order, Range, Value},
    state::{Commit, StateStore, log::Entry},
    testing::{
        memory::MemoryItemStore,
        seeded::{PausedClock, SeededIds},
    },
};
use object_store::{ObjectStoreExt, memory::InMemory};

use crate::{faulty_items::FaultyItems, samples::*};

/// Stores that several processes share.
pub(crate) struct World {
    pub(crate) items: Arc<MemoryItemStore>,
    pub(crate) objects: Arc<InMemory>,
    pub(crate) clock: Arc<PausedClock>,
    seed: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = Arc::new(PausedClock::new(START));
        Self {
            items: Arc::new(MemoryItemStore::new(clock.clone())),
            objects: Arc::new(InMemory::new()),
            clock,
            seed,
        }
    }

    /// A process of its own.
    pub(crate) fn process(&self, number: u64) -> StateStore {
        self.process_on(self.items.clone(), number)
    }

    pub(crate) fn process_on(&self, items: Arc<dyn ItemStore>, number: u64) -> StateStore {
        let ids = SeededIds::new(self.seed.wrapping_mul(1000).wrapping_add(number));
        StateStore::new(items, self.objects.clone(), self.clock.clone(), Arc::new(ids))
    }

    pub(crate) fn faulty(&self, number: u64) -> Arc<FaultyItems> {
        let seed = self.seed.wrapping_mul(77).wrapping_add(number);
        Arc::new(FaultyItems::new(self.items.clone(), self.clock.clone(), seed))
    }

    pub(crate) async fn with_table(seed: u64, split_points: &[i32]) -> (Self, StateStore) {
        let world = Self::new(seed);
        let store = world.process(0);
        store
            .create(&table(), commit("create", created(split_points)), vec![])
            .await
            .unwrap();
        (world, store)
    }

    pub(crate) async fn entries(&self) -> Vec<Item> {
        let table = table();
        let all = Range::all();
        let found = self.items.query(
            Collection::Transactions,
            table.as_str(),
            all,
            100_000,
            Order::Ascending,
        );
        found.await.unwrap()
    }

    pub(crate) async fn decoded(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for item in self.entries().await {
            let body = match item.attributes.get("body_object") {
                Some(Value::Text(path)) => {
                    let path = object_store::path::Path::parse(path).unwrap();
                    self.objects.get(&path).await.unwrap().bytes().await.unwrap()
                }
                _ => item.text("body").unwrap().to_owned().into(),
            };
            entries.push(Entry::decode(&body).unwrap().0);
        }
        entries
    }

    pub(crate) async fn change_entry(&self, number: u64, change: impl FnOnce(&mut Item)) {
        let key = ItemKey::new(Collection::Transactions, table().as_str(), number);
        let mut item = self.items.get(&key).await.unwrap().unwrap();
        change(&mut item);
        self.items.put(item, Condition::None).await.unwrap();
    }
}

pub(crate) fn add(job_id: &str) -> Commit {
    commit(job_id, added(job_id, &[file(job_id, &[(1, 2, 1)])]))
}

pub(crate) async fn apply(store: &StateStore, one: Commit) -> TransactionNumber {
    store
        .commit(&table(), one)
        .await
        .unwrap()
        .outcome
        .into_result()
        .unwrap()
}

/// A commit that changes little.
pub(crate) async fn tick(world: &World, store: &StateStore, text: &str) -> TransactionNumber {
    world.clock.sleep(Duration::from_secs(60)).await;
    let newest = store.state(&table()).await.unwrap().transaction();
    apply(store, commit(text, pinned(text, newest.0, at(-DAY)))).await
}

/// Makes two snapshots, and cuts the log behind the older one.
pub(crate) async fn truncate(world: &World, store: &StateStore) -> u64 {
    store.snapshot(&table(), 1).await.unwrap();
    tick(world, store, "between").await;
    store.snapshot(&table(), 1).await.unwrap();
    store.truncate(&table(), world.clock.now()).await.unwrap()
}
