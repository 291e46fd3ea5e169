//! Items in SQLite.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use dormouse_core::{
    Error, Result,
    collections::{Collection, SortKind},
    ports::{
        Attributes, Clock, Condition, Item, ItemKey, ItemStore, Order, Range, Sort, Value, Write,
        item_store::{check_range, check_sort, check_writes},
    },
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, named_params};
use serde::{Deserialize, Serialize};

use crate::{database::Database, error::Failure};

/// How long after its expiry an item is kept on disk, so that a clock that runs ahead for a while destroys
/// nothing.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct SqliteItemStore {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
}

impl SqliteItemStore {
    pub(crate) fn new(database: Arc<Database>, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock }
    }
}

#[async_trait]
impl ItemStore for SqliteItemStore {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        check_sort(key.collection, &key.sort)?;
        let (key, now) = (key.clone(), self.clock.now());
        self.database
            .read(move |connection| get(connection, &key, now))
            .await
    }

    async fn get_all(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>> {
        keys.iter()
            .try_for_each(|key| check_sort(key.collection, &key.sort))?;
        let (keys, now) = (keys.to_vec(), self.clock.now());
        self.database
            .read(move |connection| keys.iter().map(|key| get(connection, key, now)).collect())
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
        check_range(collection, &range)?;
        let (partition, now) = (partition.to_owned(), self.clock.now());
        self.database
            .read(move |connection| query(connection, collection, &partition, &range, limit, order, now))
            .await
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        check_writes(&writes)?;
        let clock = self.clock.clone();
        self.database
            .write(move |connection| transact(connection, &writes, clock.now()))
            .await
    }
}

fn encode_sort(sort: &Sort) -> Vec<u8> {
    match sort {
        Sort::None => Vec::new(),
        Sort::Number(number) => number.to_be_bytes().to_vec(),
        Sort::Text(text) => text.clone().into_bytes(),
    }
}

fn decode_sort(collection: Collection, bytes: Vec<u8>) -> Option<Sort> {
    match collection.sort_kind() {
        SortKind::None => bytes.is_empty().then_some(Sort::None),
        SortKind::Number => Some(Sort::Number(u64::from_be_bytes(bytes.try_into().ok()?))),
        SortKind::Text => Some(Sort::Text(String::from_utf8(bytes).ok()?)),
    }
}

/// A value on disk. The order of the variants is part of the format.
#[derive(Serialize, Deserialize)]
enum StoredValue<'a> {
    Text(&'a str),
    Number(i64),
    Bytes(Bytes),
    Flag(bool),
}

fn encode(attributes: &Attributes) -> Result<Vec<u8>> {
    let stored: BTreeMap<&str, StoredValue<'_>> = attributes
        .iter()
        .map(|(name, value)| {
            let stored = match value {
                Value::Text(text) => StoredValue::Text(text),
                Value::Number(number) => StoredValue::Number(*number),
                Value::Bytes(bytes) => StoredValue::Bytes(bytes.clone()),
                Value::Flag(flag) => StoredValue::Flag(*flag),
            };
            (name.as_str(), stored)
        })
        .collect();
    postcard::to_stdvec(&stored)
        .map_err(|error| Error::internal("attributes cannot be encoded").with_source(error))
}

fn decode(bytes: &[u8]) -> postcard::Result<Attributes> {
    let stored: BTreeMap<&str, StoredValue<'_>> = postcard::from_bytes(bytes)?;
    Ok(stored
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                StoredValue::Text(text) => Value::Text(text.to_owned()),
                StoredValue::Number(number) => Value::Number(number),
                StoredValue::Bytes(bytes) => Value::Bytes(bytes),
                StoredValue::Flag(flag) => Value::Flag(flag),
            };
            (name.to_owned(), value)
        })
        .collect())
}

/// The item of a row of `sort_key, attributes, expires`.
fn read_item(row: &Row<'_>, collection: Collection, partition: &str) -> Result<Item, Failure> {
    let sort: Vec<u8> = row.get(0)?;
    let damaged = || Error::corrupt(format!("an item of {collection} \"{partition}\" is damaged"));
    let sort = decode_sort(collection, sort).ok_or_else(damaged)?;
    let attributes = row
        .get_ref(1)?
        .as_blob()
        .map_err(|error| damaged().with_source(error))?;
    let attributes = decode(attributes).map_err(|error| damaged().with_source(error))?;
    let expires: Option<i64> = row.get(2)?;
    Ok(Item {
        key: ItemKey::new(collection, partition, sort),
        attributes,
        expires: expires.map(Timestamp::from_millis),
    })
}

fn get(connection: &Connection, key: &ItemKey, now: Timestamp) -> Result<Option<Item>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT sort_key, attributes, expires FROM items
         WHERE collection = :collection AND partition_key = :partition AND sort_key = :sort
           AND (expires IS NULL OR expires > :now)",
    )?;
    let mut rows = statement.query(named_params! {
        ":collection": key.collection.as_str(),
        ":partition": key.partition,
        ":sort": encode_sort(&key.sort),
        ":now": now.as_millis(),
    })?;
    rows.next()?
        .map(|row| read_item(row, key.collection, &key.partition))
        .transpose()
}

fn query(
    connection: &Connection,
    collection: Collection,
    partition: &str,
    range: &Range,
    limit: usize,
    order: Order,
    now: Timestamp,
) -> Result<Vec<Item>, Failure> {
    let bound = |bound: &Bound<Sort>, included: &str, excluded: &str| match bound {
        Bound::Unbounded => (String::new(), None),
        Bound::Included(sort) => (format!("AND sort_key {included}"), Some(encode_sort(sort))),
        Bound::Excluded(sort) => (format!("AND sort_key {excluded}"), Some(encode_sort(sort))),
    };
    let (start_sql, start) = bound(&range.start, ">= :start", "> :start");
    let (end_sql, end) = bound(&range.end, "<= :end", "< :end");
    let direction = match order {
        Order::Ascending => "ASC",
        Order::Descending => "DESC",
    };
    let sql = format!(
        "SELECT sort_key, attributes, expires FROM items
         WHERE collection = :collection AND partition_key = :partition {start_sql} {end_sql}
           AND (expires IS NULL OR expires > :now)
         ORDER BY sort_key {direction} LIMIT :limit"
    );
    let (collection_name, now) = (collection.as_str(), now.as_millis());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut parameters: Vec<(&str, &dyn ToSql)> = vec![
        (":collection", &collection_name),
        (":partition", &partition),
        (":now", &now),
        (":limit", &limit),
    ];
    parameters.extend(start.as_ref().map(|start| (":start", start as &dyn ToSql)));
    parameters.extend(end.as_ref().map(|end| (":end", end as &dyn ToSql)));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(parameters.as_slice())?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(read_item(row, collection, partition)?);
    }
    Ok(items)
}

fn transact(connection: &Connection, writes: &[Write], now: Timestamp) -> Result<(), Failure> {
    for write in writes {
        let condition = write.condition();
        if *condition == Condition::None {
            continue;
        }
        let there = get(connection, write.key(), now)?;
        if !condition.holds(there.as_ref()) {
            let message = format!("{condition:?} does not hold for item {:?}", write.key());
            return Err(Error::conflict(message).into());
        }
    }
    let mut expiring = 0;
    for write in writes {
        match write {
            Write::Put { item, .. } => {
                put(connection, item)?;
                expiring += i64::from(item.expires.is_some());
            }
            Write::Delete { key, .. } => delete(connection, key)?,
            Write::Check { .. } => {}
        }
    }
    purge(connection, 2 * expiring, now)
}

fn put(connection: &Connection, item: &Item) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO items (collection, partition_key, sort_key, attributes, expires)
             VALUES (:collection, :partition, :sort, :attributes, :expires)
             ON CONFLICT DO UPDATE SET attributes = excluded.attributes, expires = excluded.expires",
        )?
        .execute(named_params! {
            ":collection": item.key.collection.as_str(),
            ":partition": item.key.partition,
            ":sort": encode_sort(&item.key.sort),
            ":attributes": encode(&item.attributes)?,
            ":expires": item.expires.map(Timestamp::as_millis),
        })?;
    Ok(())
}

fn delete(connection: &Connection, key: &ItemKey) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "DELETE FROM items
             WHERE collection = :collection AND partition_key = :partition AND sort_key = :sort",
        )?
        .execute(named_params! {
            ":collection": key.collection.as_str(),
            ":partition": key.partition,
            ":sort": encode_sort(&key.sort),
        })?;
    Ok(())
}

/// Removes up to `limit` items that expired long ago. Whoever adds expiring items removes twice as many.
fn purge(connection: &Connection, limit: i64, now: Timestamp) -> Result<(), Failure> {
    if limit == 0 {
        return Ok(());
    }
    let before = now.minus(KEPT_AFTER_EXPIRY).as_millis();
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(expires) FROM items WHERE expires IS NOT NULL")?
        .query_row([], |row| row.get(0))
        .optional()?
        .flatten();
    if oldest.is_none_or(|oldest| oldest > before) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "DELETE FROM items WHERE (collection, partition_key, sort_key) IN (
                 SELECT collection, partition_key, sort_key FROM items
                 WHERE expires IS NOT NULL AND expires <= :before ORDER BY expires LIMIT :limit)",
        )?
        .execute(named_params! { ":before": before, ":limit": limit })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_attributes_does_not_change() {
        let attributes = Attributes::from([
            ("b".to_owned(), Value::Bytes(vec![0, 255].into())),
            ("f".to_owned(), Value::Flag(true)),
            ("n".to_owned(), Value::Number(-3)),
            ("t".to_owned(), Value::Text("\u{e9}".to_owned())),
        ]);
        let encoded = b"\x04\x01b\x02\x02\x00\xff\x01f\x03\x01\x01n\x01\x05\x01t\x00\x02\xc3\xa9";
        assert_eq!(encode(&attributes).unwrap(), encoded);
        assert_eq!(decode(encoded).unwrap(), attributes);
    }
}
