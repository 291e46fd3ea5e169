use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    collections::Collection,
    error::{Error, Result},
    ports::{
        Clock, Item, ItemKey, ItemStore, Order, Range, Sort, Write,
        item_store::{check_range, check_sort, check_writes},
    },
};

/// An [`ItemStore`] in memory.
#[derive(Debug)]
pub struct MemoryItemStore {
    clock: Arc<dyn Clock>,
    items: Mutex<BTreeMap<ItemKey, Item>>,
}

impl MemoryItemStore {
    /// An empty store whose items expire by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            items: Mutex::default(),
        }
    }
}

fn contains(range: &Range, sort: &Sort) -> bool {
    (range.start.as_ref(), range.end.as_ref()).contains(sort)
}

#[async_trait]
impl ItemStore for MemoryItemStore {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        check_sort(key.collection, &key.sort)?;
        let now = self.clock.now();
        Ok(self
            .items
            .lock()
            .get(key)
            .filter(|item| item.is_live(now))
            .cloned())
    }

    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>> {
        check_range(collection, &range)?;
        let now = self.clock.now();
        let items = self.items.lock();
        let start = match range.start.clone() {
            Bound::Included(sort) | Bound::Excluded(sort) => sort,
            Bound::Unbounded => Sort::None,
        };
        let mut found: Vec<_> = items
            .range(ItemKey::new(collection, partition, start)..)
            .take_while(|(key, _)| key.collection == collection && key.partition == partition)
            .filter(|(key, item)| contains(&range, &key.sort) && item.is_live(now))
            .map(|(_, item)| item)
            .collect();
        if order == Order::Descending {
            found.reverse();
        }
        Ok(found.into_iter().take(limit).cloned().collect())
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        check_writes(&writes)?;
        let now = self.clock.now();
        let mut items = self.items.lock();
        for write in &writes {
            let there = items.get(write.key()).filter(|item| item.is_live(now));
            if !write.condition().holds(there) {
                return Err(Error::conflict(format!(
                    "{:?} does not hold for item {:?}",
                    write.condition(),
                    write.key()
                )));
            }
        }
        for write in writes {
            match write {
                Write::Put { item, .. } => {
                    items.insert(item.key.clone(), item);
                }
                Write::Delete { key, .. } => {
                    items.remove(&key);
                }
                Write::Check { .. } => {}
            }
        }
        Ok(())
    }
}
