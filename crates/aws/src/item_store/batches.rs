//! Reading and writing many items by few calls. A batch may be done in part, and what is left is asked for again.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, PutRequest, WriteRequest};
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

/// The most items that one call reads, and writes.
const READ: usize = 100;
const WRITTEN: usize = 25;

type Attributes = HashMap<String, AttributeValue>;

fn not_built(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("a batch cannot be built").with_source(error)
}

/// What was left of a batch is asked for again after a pause.
fn left() -> Failed {
    let error = Error::unavailable("some items of a batch were turned away");
    Failed::Again(error, Effect::None)
}

impl DynamoItemStore {
    /// The items with these keys that are there, whether or not they have expired.
    pub(super) async fn read_batches(&self, keys: &[ItemKey]) -> Result<BTreeMap<ItemKey, Item>> {
        let mut found = BTreeMap::new();
        let mut distinct: Vec<&ItemKey> = keys.iter().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let tables: HashMap<String, Collection> = distinct
            .iter()
            .map(|key| (self.table(key.collection), key.collection))
            .collect();
        for some in distinct.chunks(READ) {
            let mut asked: HashMap<String, Vec<Attributes>> = HashMap::new();
            for key in some {
                let keys = asked.entry(self.table(key.collection)).or_default();
                keys.push(key_attributes(key));
            }
            let mut asked = asked
                .into_iter()
                .map(|(table, keys)| {
                    let keys = KeysAndAttributes::builder()
                        .set_keys(Some(keys))
                        .consistent_read(true);
                    Ok((table, keys.build().map_err(not_built)?))
                })
                .collect::<Result<HashMap<_, _>>>()?;
            let mut attempts = self.attempts();
            while !asked.is_empty() {
                let call = self
                    .client
                    .batch_get_item()
                    .set_request_items(Some(asked.clone()));
                let answer = match call.send().await {
                    Ok(answer) => answer,
                    Err(error) => {
                        attempts.next(Failed::of("reading items", error)).await?;
                        continue;
                    }
                };
                for (table, items) in answer.responses.unwrap_or_default() {
                    let collection = tables
                        .get(&table)
                        .ok_or_else(|| Error::internal(format!("items came of table {table}")))?;
                    for attributes in items {
                        let item = from_attributes(*collection, attributes)?;
                        found.insert(item.key.clone(), item);
                    }
                }
                asked = answer.unprocessed_keys.unwrap_or_default();
                if !asked.is_empty() {
                    attempts.next(left()).await?;
                }
            }
        }
        Ok(found)
    }

    /// Writes whole items, whatever is there.
    pub(super) async fn write_batches(&self, items: &[Item]) -> Result<()> {
        for some in items.chunks(WRITTEN) {
            let mut asked: HashMap<String, Vec<WriteRequest>> = HashMap::new();
            for item in some {
                let put = PutRequest::builder().set_item(Some(to_attributes(item)?));
                let write = WriteRequest::builder().put_request(put.build().map_err(not_built)?);
                let table = self.table(item.key.collection);
                asked.entry(table).or_default().push(write.build());
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
                            attempts.next(left()).await?;
                        }
                    }
                    Err(error) => attempts.next(Failed::of("writing items", error)).await?,
                }
            }
        }
        Ok(())
    }
}
