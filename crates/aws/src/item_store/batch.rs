//! Reading and writing many items by few calls. A call may do some of them, and the others are asked for again.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{KeysAndAttributes, PutRequest, WriteRequest};
use dormouse_core::{
    Error, Result,
    collections::Collection,
    ports::{Item, ItemKey},
};

use super::{
    DynamoItemStore, Failed,
    attributes::{from_attributes, key_attributes, to_attributes},
};
use crate::error::Effect;

/// The most items that one call writes.
const MAX_ITEMS: usize = 25;

/// The most keys that one call reads.
const MAX_KEYS: usize = 100;

impl DynamoItemStore {
    /// The items of those keys that have one, expired ones too.
    pub(super) async fn read_batches(&self, keys: &[ItemKey]) -> Result<BTreeMap<ItemKey, Item>> {
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort_unstable();
        keys.dedup();
        let mut items = BTreeMap::new();
        for some in keys.chunks(MAX_KEYS) {
            self.read_batch(some, &mut items).await?;
        }
        Ok(items)
    }

    async fn read_batch(&self, keys: &[&ItemKey], items: &mut BTreeMap<ItemKey, Item>) -> Result<()> {
        let tables: BTreeMap<String, Collection> = keys
            .iter()
            .map(|key| (self.table(key.collection), key.collection))
            .collect();
        let mut asked = HashMap::new();
        for (table, collection) in &tables {
            let keys = keys.iter().filter(|key| key.collection == *collection);
            let keys = KeysAndAttributes::builder()
                .set_keys(Some(keys.map(|key| key_attributes(key)).collect()))
                .consistent_read(true)
                .build();
            let keys = keys.map_err(|error| Error::internal("a read cannot be built").with_source(error))?;
            asked.insert(table.clone(), keys);
        }
        let mut attempts = self.attempts();
        while !asked.is_empty() {
            let call = self
                .client
                .batch_get_item()
                .set_request_items(Some(asked.clone()));
            match call.send().await {
                Ok(answer) => {
                    let before = left(&asked);
                    for (table, found) in answer.responses.unwrap_or_default() {
                        let collection = tables.get(&table).ok_or_else(|| {
                            Error::internal(format!("items of table {table} came, which was not asked"))
                        })?;
                        for attributes in found {
                            let item = from_attributes(*collection, attributes)?;
                            items.insert(item.key.clone(), item);
                        }
                    }
                    asked = answer.unprocessed_keys.unwrap_or_default();
                    if left(&asked) < before {
                        attempts = self.attempts();
                    }
                    if !asked.is_empty() {
                        let error = Error::unavailable("some of several items were not read");
                        attempts.next(Failed::Again(error, Effect::None)).await?;
                    }
                }
                Err(error) => attempts.next(Failed::of("reading several items", error)).await?,
            }
        }
        Ok(())
    }

    /// Writes whole items, whatever is there.
    pub(super) async fn write_batches(&self, items: &[Item]) -> Result<()> {
        for some in items.chunks(MAX_ITEMS) {
            self.write_batch(some).await?;
        }
        Ok(())
    }

    async fn write_batch(&self, items: &[Item]) -> Result<()> {
        let mut asked: HashMap<String, Vec<WriteRequest>> = HashMap::new();
        for item in items {
            let put = PutRequest::builder().set_item(Some(to_attributes(item)?)).build();
            let put = put.map_err(|error| Error::internal("a write cannot be built").with_source(error))?;
            let writes = asked.entry(self.table(item.key.collection)).or_default();
            writes.push(WriteRequest::builder().put_request(put).build());
        }
        let mut attempts = self.attempts();
        while !asked.is_empty() {
            let call = self
                .client
                .batch_write_item()
                .set_request_items(Some(asked.clone()));
            match call.send().await {
                Ok(answer) => {
                    asked = answer.unprocessed_items.unwrap_or_default();
                    if !asked.is_empty() {
                        let error = Error::unavailable("some of several items were not written");
                        attempts.next(Failed::Again(error, Effect::None)).await?;
                    }
                }
                Err(error) => attempts.next(Failed::of("writing several items", error)).await?,
            }
        }
        Ok(())
    }
}

/// How many keys are asked for.
fn left(asked: &HashMap<String, KeysAndAttributes>) -> usize {
    asked.values().map(|keys| keys.keys().len()).sum()
}
