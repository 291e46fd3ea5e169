//! Entries of a table's log as stored.
//!
//! An entry's body is JSON: `{"version":1,"table":…,"number":…,"at":…,"previous":…,"commits":[…]}`. Its SHA-256
//! is the entry's hash, and `previous` the hash of the entry before. A body over [`MAX_INLINE_BYTES`] is an
//! object of its own, and the item holds its path. The item also holds `hash`, `at` and `types` (the record
//! types, for people who look).

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    apply::Outcome,
    invariants::LogHead,
    table_state::{EntryHash, TableState},
    transaction::Commit,
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ids::{TableId, TransactionNumber},
    ports::{Condition, Item, ItemKey, ItemStore, Order, Range, Write, create_object},
    time::Timestamp,
};

/// The version of the entry format that this code writes, and the newest that it reads.
pub const ENTRY_VERSION: u32 = 1;

/// The longest body that is kept in the item itself.
pub const MAX_INLINE_BYTES: usize = 64 * 1024;

/// How many entries one query asks for.
const PAGE: usize = 500;

/// One entry of a table's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    table: TableId,
    /// The entry's number.
    pub number: TransactionNumber,
    /// When it was made, by the writer's clock, and never before the entry before it.
    pub at: Timestamp,
    /// The hash of the entry before.
    pub previous: EntryHash,
    /// What was committed, in order.
    pub commits: Vec<Commit>,
}

impl Entry {
    /// The entry that would follow `state`.
    pub fn after(state: &TableState, table: &TableId, now: Timestamp, commits: Vec<Commit>) -> Self {
        Self {
            version: ENTRY_VERSION,
            table: table.clone(),
            number: state.transaction().next(),
            at: now.max(state.at()),
            previous: state.hash(),
            commits,
        }
    }

    /// Whose log it is an entry of.
    pub fn table(&self) -> &TableId {
        &self.table
    }

    /// The stored form and its hash.
    ///
    /// # Errors
    /// `Internal` when a value cannot be written as JSON.
    pub fn encode(&self) -> Result<(Bytes, EntryHash)> {
        let body = serde_json::to_vec(self)
            .map_err(|error| Error::internal("a log entry cannot be encoded").with_source(error))?;
        let hash = hash_of(&body);
        Ok((body.into(), hash))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` when the body is damaged or of a version that this code does not know.
    pub fn decode(body: &[u8]) -> Result<(Self, EntryHash)> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error| Error::corrupt("a log entry cannot be read").with_source(error);
        let Version { version } = serde_json::from_slice(body).map_err(damaged)?;
        if version > ENTRY_VERSION {
            return Err(Error::corrupt(format!(
                "a log entry has version {version}, and this program reads up to {ENTRY_VERSION}: it was \
                 written by a newer one"
            )));
        }
        Ok((serde_json::from_slice(body).map_err(damaged)?, hash_of(body)))
    }
}

impl TableState {
    /// Follows the log by one entry.
    ///
    /// # Errors
    /// `Corrupt` when the entry is not the next one of this table's chain.
    pub fn follow(&mut self, table: &TableId, entry: &Entry, hash: EntryHash) -> Result<Vec<Outcome>> {
        if entry.number != self.transaction.next() || entry.table != *table || entry.previous != self.hash {
            return Err(Error::corrupt(format!(
                "entry {} of table {} does not follow entry {} of table {table}",
                entry.number, entry.table, self.transaction
            )));
        }
        let outcomes = self.apply(entry.number, entry.at, &entry.commits);
        self.hash = hash;
        Ok(outcomes)
    }
}

fn hash_of(body: &[u8]) -> EntryHash {
    EntryHash(Sha256::digest(body).into())
}

/// The prefix of bodies of `table` that are objects.
pub fn bodies_prefix(table: &TableId) -> Path {
    Path::from(format!("{table}/statestore/transactions"))
}

fn entry_key(table: &TableId, number: TransactionNumber) -> ItemKey {
    ItemKey::new(Collection::Transactions, table.as_str(), number.0)
}

/// The writes that append `entry`: the entry, and the head that moves with it.
///
/// Puts a large body into the object store first, under a name of its own.
pub(super) async fn append_writes(
    objects: &dyn ObjectStore,
    entry: &Entry,
    body: Bytes,
    hash: EntryHash,
    floor: TransactionNumber,
    unique: Uuid,
) -> Result<Vec<Write>> {
    let table = &entry.table;
    let types: Vec<_> = entry
        .commits
        .iter()
        .map(|commit| commit.record.type_name())
        .collect();
    let mut types = types.join(",");
    types.truncate(200);
    let item = Item::new(entry_key(table, entry.number))
        .with("at", entry.at)
        .with("hash", hex::encode(hash.0))
        .with("types", types);
    let item = if body.len() <= MAX_INLINE_BYTES {
        let text = String::from_utf8(body.to_vec())
            .map_err(|error| Error::internal("a log entry is not text").with_source(error))?;
        item.with("body", text)
    } else {
        let path = bodies_prefix(table).join(format!("{}-{unique}.json", entry.number));
        create_object(objects, &path, body).await?;
        item.with("body_object", path.as_ref())
    };
    let head_condition = match entry.number.0 {
        1 => Condition::NotExists,
        number => Condition::equals("number", number - 1),
    };
    let head = Item::new(head_key(table))
        .with("number", entry.number.0)
        .with("hash", hex::encode(hash.0))
        .with("floor", floor.0);
    Ok(vec![
        Write::Put {
            item,
            condition: Condition::NotExists,
        },
        Write::Put {
            item: head,
            condition: head_condition,
        },
    ])
}

fn head_key(table: &TableId) -> ItemKey {
    ItemKey::new(Collection::Heads, table.as_str(), ())
}

/// Fails a transaction of the item store when the floor of the log of `table` is not, or no longer, `floor`.
pub(super) fn floor_is(table: &TableId, floor: TransactionNumber) -> Write {
    Write::Check {
        key: head_key(table),
        condition: Condition::equals("floor", floor.0),
    }
}

/// The head of the log of `table`; none before its first entry.
pub(super) async fn head(items: &dyn ItemStore, table: &TableId) -> Result<Option<LogHead>> {
    let Some(item) = items.get(&head_key(table)).await? else {
        return Ok(None);
    };
    let number = |name| {
        item.number(name)
            .map(|number| TransactionNumber(u64::try_from(number).unwrap_or_default()))
    };
    Ok(Some(LogHead {
        number: number("number")?,
        hash: item_hash(&item)?,
        floor: number("floor")?,
    }))
}

/// The hash of the entry with this number, if there is one.
pub(super) async fn stored_hash(
    items: &dyn ItemStore,
    table: &TableId,
    number: TransactionNumber,
) -> Result<Option<EntryHash>> {
    let item = items.get(&entry_key(table, number)).await?;
    item.as_ref().map(item_hash).transpose()
}

fn item_hash(item: &Item) -> Result<EntryHash> {
    let mut hash = EntryHash::default();
    hex::decode_to_slice(item.text("hash")?, &mut hash.0)
        .map_err(|error| Error::corrupt(format!("item {:?} has no hash", item.key)).with_source(error))?;
    Ok(hash)
}

/// Reads the entry in `item`.
async fn read_entry(objects: &dyn ObjectStore, item: &Item) -> Result<(Entry, EntryHash)> {
    let (entry, hash) = match body_object(item)? {
        Some(path) => {
            let body = objects.get(&path).await?.bytes().await?;
            Entry::decode(&body)?
        }
        None => Entry::decode(item.text("body")?.as_bytes())?,
    };
    if item_hash(item)? != hash {
        return Err(Error::corrupt(format!(
            "entry {} of table {} does not have the hash that was stored with it",
            entry.number, entry.table
        )));
    }
    Ok((entry, hash))
}

fn body_object(item: &Item) -> Result<Option<Path>> {
    if !item.attributes.contains_key("body_object") {
        return Ok(None);
    }
    Path::parse(item.text("body_object")?)
        .map(Some)
        .map_err(|error| Error::corrupt("a log entry names a path that cannot be").with_source(error))
}

/// Follows the log from `state` to its end, or to `last`.
///
/// # Errors
/// `NotFound` when the entries that follow `state` are no longer there; `Corrupt` when the chain is broken.
pub(super) async fn follow_tail(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    state: &mut TableState,
    last: Option<TransactionNumber>,
) -> Result<()> {
    loop {
        let after = Range::after(state.transaction().0);
        let page = items
            .query(
                Collection::Transactions,
                table.as_str(),
                after,
                PAGE,
                Order::Ascending,
            )
            .await?;
        let full = page.len() == PAGE;
        for item in page {
            if last.is_some_and(|last| state.transaction() >= last) {
                return Ok(());
            }
            if item.key.sort != state.transaction().next().0.into() {
                return Err(Error::not_found(format!(
                    "entry {} of table {table} is no longer in the log",
                    state.transaction().next()
                )));
            }
            let (entry, hash) = read_entry(objects, &item).await?;
            state.follow(table, &entry, hash)?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// The newest of the entries from `first` to `last` that was made at or before `time`. Entries never go back in
/// time.
pub(super) async fn number_at(
    items: &dyn ItemStore,
    table: &TableId,
    first: TransactionNumber,
    last: TransactionNumber,
    time: Timestamp,
) -> Result<Option<TransactionNumber>> {
    let (mut from, mut beyond) = (first.0, last.0.saturating_add(1));
    while from < beyond {
        let middle = from + (beyond - from) / 2;
        let item = items.get(&entry_key(table, TransactionNumber(middle))).await?;
        let item = item.ok_or_else(|| {
            Error::not_found(format!("entry {middle} of table {table} is no longer in the log"))
        })?;
        if item.number("at")? <= time.as_millis() {
            from = middle + 1;
        } else {
            beyond = middle;
        }
    }
    Ok((from > first.0).then(|| TransactionNumber(from - 1)))
}

/// An entry as it is stored.
#[derive(Debug)]
pub struct StoredEntry {
    /// The number that it is stored under.
    pub number: TransactionNumber,
    /// The hash that is stored with it.
    pub hash: Option<EntryHash>,
    /// The entry and its hash, or what is wrong with it.
    pub entry: Result<(Entry, EntryHash)>,
}

/// Up to `limit` entries after `after`, in order, whatever state they are in.
pub(super) async fn stored_entries(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    after: TransactionNumber,
    limit: usize,
) -> Result<Vec<StoredEntry>> {
    let page = items
        .query(
            Collection::Transactions,
            table.as_str(),
            Range::after(after.0),
            limit,
            Order::Ascending,
        )
        .await?;
    let mut entries = Vec::with_capacity(page.len());
    for item in &page {
        let entry = match read_entry(objects, item).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            entry => entry,
        };
        entries.push(StoredEntry {
            number: number_of(item)?,
            hash: item_hash(item).ok(),
            entry,
        });
    }
    Ok(entries)
}

fn number_of(item: &Item) -> Result<TransactionNumber> {
    match item.key.sort {
        crate::ports::Sort::Number(number) => Ok(TransactionNumber(number)),
        _ => Err(Error::corrupt(format!("log entry {:?} has no number", item.key))),
    }
}

/// Removes entries before `floor`, each before its body. Returns how many.
pub(super) async fn delete_before(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    floor: TransactionNumber,
) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let page = items
            .query(
                Collection::Transactions,
                table.as_str(),
                Range::before(floor.0),
                100,
                Order::Ascending,
            )
            .await?;
        if page.is_empty() {
            return Ok(deleted);
        }
        let deletes = page
            .iter()
            .map(|item| Write::Delete {
                key: item.key.clone(),
                condition: Condition::None,
            })
            .collect();
        items.transact(deletes).await?;
        for item in &page {
            if let Some(path) = body_object(item)? {
                match objects.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        deleted += page.len() as u64;
        if page.len() < 100 {
            return Ok(deleted);
        }
    }
}

/// The paths of all bodies that are objects and that an entry names.
pub(super) async fn body_paths(items: &dyn ItemStore, table: &TableId) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    let mut range = Range::all();
    loop {
        let page = items
            .query(
                Collection::Transactions,
                table.as_str(),
                range,
                PAGE,
                Order::Ascending,
            )
            .await?;
        for item in &page {
            paths.extend(body_object(item)?);
        }
        match page.last() {
            Some(item) if page.len() == PAGE => range = Range::after(number_of(item)?.0),
            _ => return Ok(paths),
        }
    }
}
