//! Small durable items: everything that lasts, apart from objects and messages.

use std::{collections::BTreeMap, fmt::Debug, ops::Bound};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    collections::{Collection, SortKind},
    error::{Error, Result},
    time::Timestamp,
};

/// The most writes that one [`ItemStore::transact`] takes.
pub const MAX_TRANSACTION_WRITES: usize = 100;

/// The largest item, as [`Item::encoded_bytes`] counts it. DynamoDB's limit of 400 KB with margin.
pub const MAX_ITEM_BYTES: usize = 380 * 1024;

/// Items in collections, read and written strongly consistently.
///
/// * An item is known by its collection, partition key and sort key ([`Collection`] says what each holds).
/// * Reads see every write that was acknowledged before they began; a query sees each item at one version.
/// * A write whose condition does not hold changes nothing and fails with `Conflict`.
/// * A write that fails with `Unavailable` may or may not have happened.
/// * An item past its expiry time is not returned and counts as absent in conditions.
/// * An item over [`MAX_ITEM_BYTES`] is refused with `Invalid`.
#[async_trait]
pub trait ItemStore: Debug + Send + Sync {
    /// The item with this key, if there is one.
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>>;

    /// What [`Self::get`] answers for each key, in their order; a key may come twice. Each is read by itself, not all
    /// at one time.
    ///
    /// # Errors
    /// As [`Self::get`] has them, for any of them.
    async fn get_all(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>> {
        let mut items = Vec::with_capacity(keys.len());
        for key in keys {
            items.push(self.get(key).await?);
        }
        Ok(items)
    }

    /// Writes the whole item when the condition holds for the one that is there.
    ///
    /// # Errors
    /// `Conflict` when the condition does not hold.
    async fn put(&self, item: Item, condition: Condition) -> Result<()> {
        self.transact(vec![Write::Put { item, condition }]).await
    }

    /// Removes the item when the condition holds for it. Removing an absent item is no error.
    ///
    /// # Errors
    /// `Conflict` when the condition does not hold.
    async fn delete(&self, key: ItemKey, condition: Condition) -> Result<()> {
        self.transact(vec![Write::Delete { key, condition }]).await
    }

    /// Writes whole items, whatever is there, each by itself: after a failure some may be written, and others not.
    ///
    /// # Errors
    /// `Invalid` for two items with one key.
    async fn put_all(&self, items: Vec<Item>) -> Result<()> {
        check_items(&items)?;
        let mut writes = items.into_iter().map(|item| Write::Put {
            item,
            condition: Condition::None,
        });
        loop {
            let some: Vec<Write> = writes.by_ref().take(MAX_TRANSACTION_WRITES).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.transact(some).await?;
        }
    }

    /// Items of one partition whose sort keys are in `range`, in sort key order, at most `limit`.
    ///
    /// Fewer than `limit` means that there are no more.
    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>>;

    /// All writes, or none when a condition does not hold.
    ///
    /// # Errors
    /// `Conflict` when a condition does not hold; `Invalid` for more than [`MAX_TRANSACTION_WRITES`] writes or
    /// two writes to one key.
    async fn transact(&self, writes: Vec<Write>) -> Result<()>;
}

/// Where an item is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// The collection.
    pub collection: Collection,
    /// The partition key.
    pub partition: String,
    /// The sort key.
    pub sort: Sort,
}

impl ItemKey {
    /// A key.
    pub fn new(collection: Collection, partition: impl Into<String>, sort: impl Into<Sort>) -> Self {
        Self {
            collection,
            partition: partition.into(),
            sort: sort.into(),
        }
    }
}

/// A sort key. All sort keys of a collection have the same variant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// The collection has one item a partition key.
    None,
    /// Ordered by size.
    Number(u64),
    /// Ordered by UTF-8 bytes.
    Text(String),
}

impl From<()> for Sort {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl From<u64> for Sort {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Sort {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Sort {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Sort keys to query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lower end.
    pub start: Bound<Sort>,
    /// The upper end.
    pub end: Bound<Sort>,
}

impl Range {
    /// Every sort key.
    pub fn all() -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
        }
    }

    /// Sort keys greater than `sort`.
    pub fn after(sort: impl Into<Sort>) -> Self {
        Self {
            start: Bound::Excluded(sort.into()),
            end: Bound::Unbounded,
        }
    }

    /// `sort` and sort keys less than it.
    pub fn up_to(sort: impl Into<Sort>) -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Included(sort.into()),
        }
    }

    /// Sort keys less than `sort`.
    pub fn before(sort: impl Into<Sort>) -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Excluded(sort.into()),
        }
    }

    /// Text sort keys that start with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            start: Bound::Included(Sort::Text(prefix.to_owned())),
            end: Bound::Excluded(Sort::Text(format!("{prefix}\u{10ffff}"))),
        }
    }
}

/// The order of a query's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The smallest sort key first.
    Ascending,
    /// The largest sort key first.
    Descending,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Bytes.
    Bytes(Bytes),
    /// True or false.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Number(time.as_millis())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// An item's attributes by name.
pub type Attributes = BTreeMap<String, Value>;

/// An item: a key, attributes, and the time after which it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where the item is.
    pub key: ItemKey,
    /// The attributes, apart from the key.
    pub attributes: Attributes,
    /// The item counts as absent from this time on.
    pub expires: Option<Timestamp>,
}

impl Item {
    /// An item without attributes that does not expire.
    pub fn new(key: ItemKey) -> Self {
        Self {
            key,
            attributes: Attributes::new(),
            expires: None,
        }
    }

    /// The item with one more attribute.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// The item with an expiry time.
    pub fn expiring(mut self, at: Timestamp) -> Self {
        self.expires = Some(at);
        self
    }

    /// Whether it has not expired at this time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }

    /// The size that limits apply to: names and values in bytes.
    pub fn encoded_bytes(&self) -> usize {
        let sort = match &self.key.sort {
            Sort::None => 0,
            Sort::Number(_) => 8,
            Sort::Text(text) => text.len(),
        };
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(name, value)| {
                name.len()
                    + match value {
                        Value::Text(text) => text.len(),
                        Value::Number(_) => 8,
                        Value::Bytes(bytes) => bytes.len(),
                        Value::Flag(_) => 1,
                    }
            })
            .sum();
        self.key.partition.len() + sort + attributes
    }

    fn missing(&self, name: &str, kind: &str) -> Error {
        Error::corrupt(format!("item {:?} has no {kind} attribute \"{name}\"", self.key))
    }

    /// The text attribute `name`.
    ///
    /// # Errors
    /// `Corrupt` when it is absent or not text.
    pub fn text(&self, name: &str) -> Result<&str> {
        match self.attributes.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(self.missing(name, "text")),
        }
    }

    /// The number attribute `name`.
    ///
    /// # Errors
    /// `Corrupt` when it is absent or not a number.
    pub fn number(&self, name: &str) -> Result<i64> {
        match self.attributes.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(self.missing(name, "number")),
        }
    }

    /// The bytes attribute `name`.
    ///
    /// # Errors
    /// `Corrupt` when it is absent or not bytes.
    pub fn bytes(&self, name: &str) -> Result<&Bytes> {
        match self.attributes.get(name) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.missing(name, "bytes")),
        }
    }
}

/// What must hold for the item that is there, for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// There is no item with this key.
    NotExists,
    /// There is an item with this key.
    Exists,
    /// There is an item with this key, and this attribute has this value.
    Equals(String, Value),
}

impl Condition {
    /// [`Condition::Equals`].
    pub fn equals(name: &str, value: impl Into<Value>) -> Self {
        Self::Equals(name.to_owned(), value.into())
    }

    /// Whether the condition holds for the item that is there.
    pub fn holds(&self, item: Option<&Item>) -> bool {
        match self {
            Self::None => true,
            Self::NotExists => item.is_none(),
            Self::Exists => item.is_some(),
            Self::Equals(name, value) => item.is_some_and(|item| item.attributes.get(name) == Some(value)),
        }
    }
}

/// One part of [`ItemStore::transact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes the whole item.
    Put {
        /// The item.
        item: Item,
        /// What must hold for the item that is there.
        condition: Condition,
    },
    /// Removes an item.
    Delete {
        /// Which.
        key: ItemKey,
        /// What must hold for the item that is there.
        condition: Condition,
    },
    /// Changes nothing, but fails the transaction when the condition does not hold.
    Check {
        /// Which item.
        key: ItemKey,
        /// What must hold for it.
        condition: Condition,
    },
}

impl Write {
    /// The key that the write concerns.
    pub fn key(&self) -> &ItemKey {
        match self {
            Self::Put { item, .. } => &item.key,
            Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What must hold for the item that is there.
    pub fn condition(&self) -> &Condition {
        match self {
            Self::Put { condition, .. } | Self::Delete { condition, .. } | Self::Check { condition, .. } => {
                condition
            }
        }
    }
}

/// Checks that a sort key is of the collection's kind, the same in every adapter.
///
/// # Errors
/// `Invalid`, with what it should be.
pub fn check_sort(collection: Collection, sort: &Sort) -> Result<()> {
    match (collection.sort_kind(), sort) {
        (SortKind::None, Sort::None)
        | (SortKind::Number, Sort::Number(_))
        | (SortKind::Text, Sort::Text(_)) => Ok(()),
        (kind, sort) => Err(Error::invalid(format!(
            "collection {collection} has sort keys of kind {kind:?}, not {sort:?}"
        ))),
    }
}

/// Checks the range of [`ItemStore::query`], the same in every adapter.
///
/// # Errors
/// As [`check_sort`].
pub fn check_range(collection: Collection, range: &Range) -> Result<()> {
    for bound in [&range.start, &range.end] {
        if let Bound::Included(sort) | Bound::Excluded(sort) = bound {
            check_sort(collection, sort)?;
        }
    }
    Ok(())
}

/// Checks the keys and the limits of [`ItemStore::transact`], the same in every adapter.
///
/// # Errors
/// `Invalid`, with the limit that was passed.
pub fn check_writes(writes: &[Write]) -> Result<()> {
    if writes.len() > MAX_TRANSACTION_WRITES {
        return Err(Error::invalid(format!(
            "a transaction of {} writes is over the limit of {MAX_TRANSACTION_WRITES}",
            writes.len()
        )));
    }
    check_keys(writes.iter().map(Write::key))?;
    writes.iter().try_for_each(|write| match write {
        Write::Put { item, .. } => check_size(item),
        Write::Delete { .. } | Write::Check { .. } => Ok(()),
    })
}

/// Checks the keys and sizes of [`ItemStore::put_all`], the same in every adapter.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub fn check_items(items: &[Item]) -> Result<()> {
    check_keys(items.iter().map(|item| &item.key))?;
    items.iter().try_for_each(check_size)
}

fn check_keys<'a>(keys: impl Iterator<Item = &'a ItemKey>) -> Result<()> {
    let mut keys: Vec<_> = keys.collect();
    for key in &keys {
        check_sort(key.collection, &key.sort)?;
    }
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid(format!("{:?} is written twice at once", pair[0]))),
        None => Ok(()),
    }
}

fn check_size(item: &Item) -> Result<()> {
    let bytes = item.encoded_bytes();
    match bytes > MAX_ITEM_BYTES {
        true => Err(Error::invalid(format!(
            "item {:?} of {bytes} bytes is over the limit of {MAX_ITEM_BYTES}",
            item.key
        ))),
        false => Ok(()),
    }
}
