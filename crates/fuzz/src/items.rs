//! Stored items, as a JSON list: `[{"collection","partition","sort","attributes"}]`, where a sort key is null, a
//! number or text, and an attribute a number, text, a flag, or a list of bytes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Result,
    collections::{Collection, SortKind},
    ids::{JobId, TableId, TableName, TransactionNumber},
    ports::{Clock, Condition, Item, ItemKey, ItemStore, SystemIds, Value},
    state::{AsOf, StateStore},
    tables::Tables,
    testing::memory::MemoryItemStore,
    time::Timestamp,
    tracker::{JobCursor, JobFilter, JobKey, JobKind, Tracker},
};
use futures::executor::block_on;
use object_store::memory::InMemory;
use serde::{Deserialize, Serialize};

use crate::transaction::table;

/// An item as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct StoredItem {
    collection: String,
    partition: String,
    #[serde(default)]
    sort: serde_json::Value,
    attributes: BTreeMap<String, serde_json::Value>,
}

impl StoredItem {
    fn item(self) -> Option<Item> {
        let collection = Collection::ALL
            .into_iter()
            .find(|collection| collection.as_str() == self.collection)?;
        let key = match collection.sort_kind() {
            SortKind::None => ItemKey::new(collection, self.partition, ()),
            SortKind::Number => {
                ItemKey::new(collection, self.partition, self.sort.as_u64().unwrap_or_default())
            }
            SortKind::Text => {
                ItemKey::new(collection, self.partition, self.sort.as_str().unwrap_or_default())
            }
        };
        let mut item = Item::new(key);
        for (name, value) in self.attributes {
            let value = match value {
                serde_json::Value::String(text) => Value::Text(text),
                serde_json::Value::Bool(flag) => Value::Flag(flag),
                serde_json::Value::Number(number) => Value::Number(number.as_i64().unwrap_or(i64::MAX)),
                other => Value::Bytes(serde_json::to_vec(&other).unwrap_or_default().into()),
            };
            item.attributes.insert(name, value);
        }
        Some(item)
    }
}

/// A clock that stands still and never waits.
#[derive(Debug)]
struct StoppedClock;

#[async_trait]
impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000)
    }

    async fn sleep(&self, _: Duration) {}
}

pub(crate) fn run(data: &[u8]) {
    let Ok(stored) = serde_json::from_slice::<Vec<StoredItem>>(data) else {
        return;
    };
    let clock = Arc::new(StoppedClock);
    let items = Arc::new(MemoryItemStore::new(clock.clone()));
    let ids = Arc::new(SystemIds);
    let cursors: Vec<_> = stored
        .iter()
        .take(4)
        .map(|item| JobCursor::new(item.partition.as_str()))
        .collect();
    for item in stored.into_iter().filter_map(StoredItem::item) {
        let _ = block_on(items.put(item, Condition::None));
    }
    let states = Arc::new(StateStore::new(
        items.clone(),
        Arc::new(InMemory::new()),
        clock.clone(),
        ids.clone(),
    ));
    let tables = Tables::new(items.clone(), states.clone(), clock.clone(), ids.clone());
    let tracker = Tracker::new(items, clock, ids, Duration::from_secs(3600));
    block_on(ask_tables(&tables, &states));
    block_on(ask_tracker(&tracker, &cursors));
}

fn report<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| assert!(!error.report().is_empty())).ok()
}

async fn ask_tables(tables: &Tables, states: &StateStore) {
    if let Some(Some(info)) = report(tables.by_id(&table()).await) {
        assert_eq!(info.id, table());
    }
    if let Ok(name) = TableName::new("events") {
        let _ = report(tables.by_name(&name).await);
        let _ = report(tables.named(&name).await);
    }
    let _ = report(tables.list().await);
    let _ = report(tables.deleted().await);
    if let Some(state) = report(states.state(&table()).await) {
        let _ = state.rows();
    }
    let _ = report(states.live_state(&table()).await);
    let _ = report(states.snapshots(&table()).await);
    let _ = report(states.object_paths(&table()).await);
    for as_of in [
        AsOf::Transaction(TransactionNumber(1)),
        AsOf::Time(Timestamp::from_millis(1_795_000_000_000)),
    ] {
        let _ = report(states.state_as_of(&table(), as_of).await);
    }
}

/// The partition keys of items serve as places in the list of jobs, too: users send those back.
async fn ask_tracker(tracker: &Tracker, cursors: &[JobCursor]) {
    let Ok(job) = JobId::new("job-1") else { return };
    for table in [None, TableId::new("0a1b2c3d").ok()] {
        for kind in [JobKind::Ingest, JobKind::Export] {
            let key = JobKey {
                kind,
                table: table.clone(),
                job: job.clone(),
            };
            let _ = report(tracker.report(&key).await);
            let _ = report(tracker.events(&key).await);
        }
    }
    let _ = report(tracker.reports(&job).await);
    // As the day of the stopped clock, so that the walk over days is short.
    let filter = JobFilter {
        since: Some(Timestamp::from_millis(1_795_000_000_000 - 86_400_000)),
        ..JobFilter::default()
    };
    let _ = report(tracker.list(&filter, 100).await);
    for cursor in cursors {
        let _ = report(tracker.list_after(&filter, Some(cursor), 100).await);
    }
}
