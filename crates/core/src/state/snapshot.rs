//! Whole states as objects.
//!
//! A snapshot is the magic `DMSNAP01`, then a zstd stream of frames: a 32-bit little-endian length and a
//! [`Frame`] in postcard's encoding. Large maps are cut into frames of [`FRAME_ROWS`], so neither side holds the
//! whole text; the last frame says how many came before it. A new ability is a new kind of frame, added at the end of
//! [`Frame`]. The object's SHA-256 is in its item of the
//! collection `snapshots`, which is written only after the object was read back. An object's name is never
//! reused: two makers at one number write two objects, and the first item stands.

use std::{
    io::{Read, Write as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use imbl::OrdMap;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    table_state::{
        EntryHash, Extent, Garbage, Kept, Lease, LedgerEntry, LiveFile, Pin, Reference, TableState,
        TableStatus,
    },
    transaction::CommitId,
};
use crate::{
    collections::Collection,
    error::{Error, Result},
    file::DataFile,
    ids::{FileName, JobId, JobKind, PartitionId, PinId, TableId, TransactionNumber},
    partition::Partition,
    ports::{Condition, Item, ItemKey, ItemStore, Order, Range, Sort, Write, create_object},
    schema::Schema,
    time::Timestamp,
};

const MAGIC: &[u8; 8] = b"DMSNAP01";

/// How many entries of a map go into one frame, where a file counts once for each of its parts.
const FRAME_ROWS: usize = 8192;

/// The longest frame that is read.
const MAX_FRAME_BYTES: u32 = 1 << 30;

#[derive(Serialize, Deserialize)]
enum Frame {
    Header(Box<Header>),
    Partitions(Vec<Arc<Partition>>),
    /// Files, and the transaction that added each. Later frames name them by their place among all files.
    Files(Vec<(Arc<DataFile>, TransactionNumber)>),
    References(PartitionId, Vec<(u32, Extent)>),
    Leases(Vec<((PartitionId, FileName), Lease)>),
    Garbage(Vec<(FileName, Garbage)>),
    Tombstones(Vec<(FileName, Timestamp)>),
    Ledger(Vec<(JobId, LedgerEntry)>),
    Pins(Vec<(PinId, Pin)>),
    Clearings(Vec<(CommitId, (Timestamp, TransactionNumber))>),
    Recent(Vec<(CommitId, TransactionNumber)>),
    End {
        frames: u64,
    },
    Kept(Vec<(PartitionId, Kept)>),
    /// The jobs of the ledger that are compactions; the others are ingests.
    Compactions(Vec<JobId>),
}

impl Frame {
    /// How many entries of the state's maps it holds, where a leaf counts once more.
    fn rows(&self) -> usize {
        match self {
            Self::Header(_) | Self::End { .. } => 0,
            Self::Partitions(rows) => rows.len() + rows.iter().filter(|row| row.is_leaf()).count(),
            Self::Files(rows) => rows.len(),
            Self::References(_, rows) => rows.len(),
            Self::Leases(rows) => rows.len(),
            Self::Garbage(rows) => rows.len(),
            Self::Tombstones(rows) => rows.len(),
            Self::Ledger(rows) => rows.len(),
            Self::Pins(rows) => rows.len(),
            Self::Clearings(rows) => rows.len(),
            Self::Recent(rows) => rows.len(),
            Self::Kept(rows) => rows.len(),
            Self::Compactions(rows) => rows.len(),
        }
    }
}

/// How many entries the maps of `state` have, counted as [`Frame::rows`] does.
fn rows_of(state: &TableState) -> usize {
    state.partitions.len()
        + state.leaves.len()
        + state.files.len()
        + state.references.values().map(OrdMap::len).sum::<usize>()
        + state.leases.len()
        + state.garbage.len()
        + state.tombstones.len()
        + state.ledger.len()
        + state.pins.len()
        + state.clearings.len()
        + state.recent.len()
        + state.kept.len()
        + compactions(state).count()
}

fn compactions(state: &TableState) -> impl Iterator<Item = &JobId> {
    let of_kind = |(_, entry): &(&JobId, &LedgerEntry)| entry.kind == JobKind::Compaction;
    state.ledger.iter().filter(of_kind).map(|(job, _)| job)
}

#[derive(Serialize, Deserialize)]
struct Header {
    table: TableId,
    transaction: TransactionNumber,
    hash: EntryHash,
    at: Timestamp,
    status: TableStatus,
    schema: Option<Arc<Schema>>,
    forgotten: Timestamp,
    retained_from: TransactionNumber,
    floor: TransactionNumber,
}

/// The stored form of `state`.
///
/// # Errors
/// `Internal` when a value cannot be encoded.
pub fn encode(table: &TableId, state: &TableState) -> Result<Bytes> {
    let failed = |error: std::io::Error| Error::internal("a snapshot cannot be encoded").with_source(error);
    let encoder = zstd::stream::write::Encoder::new(MAGIC.to_vec(), 1).map_err(failed)?;
    let mut writer = FrameWriter { encoder, frames: 0 };
    writer.write(&Frame::Header(Box::new(Header {
        table: table.clone(),
        transaction: state.transaction,
        hash: state.hash,
        at: state.at,
        status: state.status,
        schema: state.schema.clone(),
        forgotten: state.forgotten,
        retained_from: state.retained_from,
        floor: state.floor,
    })))?;
    writer.write_all(state.partitions.values().cloned(), Frame::Partitions)?;
    writer.write_weighed(
        state.files.values().map(|live| (live.file.clone(), live.added)),
        |(file, _)| file.parts.len().max(1),
        Frame::Files,
    )?;
    let places: std::collections::HashMap<&FileName, u32> = state
        .files
        .keys()
        .enumerate()
        .map(|(place, name)| (name, place as u32))
        .collect();
    for (leaf, references) in &state.references {
        let rows = references
            .iter()
            .filter_map(|(name, reference)| places.get(name).map(|place| (*place, reference.extent.clone())));
        writer.write_all(rows, |rows| Frame::References(leaf.clone(), rows))?;
    }
    writer.write_all(state.leases.iter().map(pair), Frame::Leases)?;
    writer.write_all(state.garbage.iter().map(pair), Frame::Garbage)?;
    writer.write_all(state.tombstones.iter().map(pair), Frame::Tombstones)?;
    writer.write_all(state.ledger.iter().map(pair), Frame::Ledger)?;
    writer.write_all(state.pins.iter().map(pair), Frame::Pins)?;
    writer.write_all(state.clearings.iter().map(pair), Frame::Clearings)?;
    let recent = state
        .recent_order
        .iter()
        .filter_map(|id| Some((id.clone(), *state.recent.get(id)?)));
    writer.write_all(recent, Frame::Recent)?;
    writer.write_all(compactions(state).cloned(), Frame::Compactions)?;
    writer.write_all(state.kept.iter().map(pair), Frame::Kept)?;
    let frames = writer.frames;
    writer.write(&Frame::End { frames })?;
    writer.encoder.finish().map(Bytes::from).map_err(failed)
}

fn pair<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

struct FrameWriter {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    frames: u64,
}

impl FrameWriter {
    fn write(&mut self, frame: &Frame) -> Result<()> {
        let bytes = postcard::to_stdvec(frame)
            .map_err(|error| Error::internal("a snapshot frame cannot be encoded").with_source(error))?;
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= MAX_FRAME_BYTES)
            .ok_or_else(|| Error::internal(format!("a snapshot frame has {} bytes", bytes.len())))?;
        self.encoder
            .write_all(&length.to_le_bytes())
            .and_then(|()| self.encoder.write_all(&bytes))
            .map_err(|error| Error::internal("a snapshot frame cannot be compressed").with_source(error))?;
        self.frames += 1;
        Ok(())
    }

    fn write_all<T>(&mut self, rows: impl Iterator<Item = T>, frame: impl Fn(Vec<T>) -> Frame) -> Result<()> {
        self.write_weighed(rows, |_| 1, frame)
    }

    /// Writes frames of rows that weigh [`FRAME_ROWS`] together, or of a single row that weighs more.
    fn write_weighed<T>(
        &mut self,
        rows: impl Iterator<Item = T>,
        weigh: impl Fn(&T) -> usize,
        frame: impl Fn(Vec<T>) -> Frame,
    ) -> Result<()> {
        let mut group = Vec::new();
        let mut weight = 0;
        for row in rows {
            let more = weigh(&row);
            if weight + more > FRAME_ROWS && !group.is_empty() {
                self.write(&frame(std::mem::take(&mut group)))?;
                weight = 0;
            }
            weight += more;
            group.push(row);
        }
        if group.is_empty() {
            return Ok(());
        }
        self.write(&frame(group))
    }
}

/// Reads the stored form of the state of `table`.
///
/// # Errors
/// `Corrupt` when the bytes are damaged, cut short, of another table or of an unknown version.
pub fn decode(table: &TableId, bytes: &[u8]) -> Result<TableState> {
    let damaged = |why: &str| Error::corrupt(format!("a snapshot of table {table} is damaged: {why}"));
    let compressed = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it has an unknown beginning"))?;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)
        .map_err(|error| damaged("it does not decompress").with_source(error))?;
    let mut state = TableState::default();
    let mut files: Vec<Arc<DataFile>> = Vec::new();
    let mut frames = 0;
    let mut rows_read = 0;
    let mut buffer = Vec::new();
    loop {
        let mut length = [0; 4];
        decoder
            .read_exact(&mut length)
            .map_err(|error| damaged("it is cut short").with_source(error))?;
        let length = u32::from_le_bytes(length);
        if length > MAX_FRAME_BYTES {
            return Err(damaged("a frame is too long"));
        }
        buffer.clear();
        let read = (&mut decoder)
            .take(u64::from(length))
            .read_to_end(&mut buffer)
            .map_err(|error| damaged("a frame does not decompress").with_source(error))?;
        if read != length as usize {
            return Err(damaged("a frame is cut short"));
        }
        let frame = postcard::from_bytes(&buffer)
            .map_err(|error| damaged("a frame cannot be read").with_source(error))?;
        if (frames == 0) != matches!(frame, Frame::Header(_)) {
            return Err(damaged("its header is not where it begins"));
        }
        rows_read += frame.rows();
        match frame {
            Frame::Header(header) => {
                if header.table != *table {
                    return Err(damaged("it is of another table"));
                }
                state.transaction = header.transaction;
                state.hash = header.hash;
                state.at = header.at;
                state.status = header.status;
                state.schema = header.schema;
                state.forgotten = header.forgotten;
                state.retained_from = header.retained_from;
                state.floor = header.floor;
            }
            Frame::Partitions(rows) => {
                for partition in rows {
                    if partition.is_leaf() {
                        state
                            .leaves
                            .insert(partition.bounds.lower.clone(), partition.id.clone());
                    }
                    state.partitions.insert(partition.id.clone(), partition);
                }
            }
            Frame::Files(rows) => {
                for (file, added) in rows {
                    files.push(file.clone());
                    state.files.insert(
                        file.name.clone(),
                        LiveFile {
                            file,
                            added,
                            references: 0,
                        },
                    );
                }
            }
            Frame::References(leaf, rows) => {
                if rows.is_empty() {
                    return Err(damaged("a leaf has an entry without references"));
                }
                let at_leaf = state.references.entry(leaf).or_insert_with(OrdMap::new);
                for (place, extent) in rows {
                    let file = files
                        .get(place as usize)
                        .ok_or_else(|| damaged("a reference names no file"))?
                        .clone();
                    if let Extent::Part(part) = &extent
                        && *part as usize >= file.parts.len()
                    {
                        return Err(damaged("a reference names no part of its file"));
                    }
                    if let Some(live) = state.files.get_mut(&file.name) {
                        live.references += 1;
                    }
                    at_leaf.insert(file.name.clone(), Reference { file, extent });
                }
            }
            Frame::Leases(rows) => state.leases.extend(rows),
            Frame::Garbage(rows) => state.garbage.extend(rows),
            Frame::Tombstones(rows) => {
                state
                    .tombstones_by_age
                    .extend(rows.iter().map(|(name, at)| (*at, name.clone())));
                state.tombstones.extend(rows);
            }
            Frame::Ledger(rows) => {
                state
                    .ledger_by_age
                    .extend(rows.iter().map(|(job, entry)| (entry.at, job.clone())));
                state.ledger.extend(rows);
            }
            Frame::Pins(rows) => state.pins.extend(rows),
            Frame::Kept(rows) => state.kept.extend(rows),
            Frame::Compactions(rows) => {
                for job in rows {
                    if let Some(entry) = state.ledger.get_mut(&job) {
                        entry.kind = JobKind::Compaction;
                    }
                }
            }
            Frame::Clearings(rows) => {
                state
                    .clearings_by_age
                    .extend(rows.iter().map(|(id, (at, _))| (*at, id.clone())));
                state.clearings.extend(rows);
            }
            Frame::Recent(rows) => {
                state.recent_order.extend(rows.iter().map(|(id, _)| id.clone()));
                state.recent.extend(rows);
            }
            Frame::End { frames: expected } if expected == frames => {
                if rows_read != rows_of(&state) {
                    return Err(damaged("something is in it twice"));
                }
                return Ok(state);
            }
            Frame::End { .. } => return Err(damaged("frames are missing")),
        }
        frames += 1;
    }
}

/// A verified snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The state's transaction.
    pub transaction: TransactionNumber,
    /// When that transaction was.
    pub at: Timestamp,
    /// Where the object is.
    pub path: Path,
    /// The object's size.
    pub bytes: u64,
    /// The SHA-256 of the object, in hexadecimal.
    pub digest: String,
}

impl SnapshotEntry {
    fn from_item(item: &Item) -> Result<Self> {
        let Sort::Number(number) = item.key.sort else {
            return Err(Error::corrupt(format!("snapshot {:?} has no number", item.key)));
        };
        let path = Path::parse(item.text("path")?)
            .map_err(|error| Error::corrupt("a snapshot's path cannot be").with_source(error))?;
        Ok(Self {
            transaction: TransactionNumber(number),
            at: Timestamp::from_millis(item.number("at")?),
            path,
            bytes: u64::try_from(item.number("bytes")?).unwrap_or_default(),
            digest: item.text("digest")?.to_owned(),
        })
    }
}

/// The prefix of the snapshots of `table`.
pub fn snapshots_prefix(table: &TableId) -> Path {
    Path::from(format!("{table}/statestore/snapshots"))
}

/// Writes a snapshot, reads it back, and only then lists it.
pub(super) async fn write(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    state: &TableState,
    unique: Uuid,
) -> Result<()> {
    let bytes = encode(table, state)?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let path = snapshots_prefix(table).join(format!("{}-{unique}.dmsnap", state.transaction));
    let length = bytes.len() as u64;
    create_object(objects, &path, bytes).await?;
    let stored = objects.get(&path).await?.bytes().await?;
    if hex::encode(Sha256::digest(&stored)) != digest {
        return Err(Error::corrupt(format!(
            "snapshot {path} does not read back as it was written"
        )));
    }
    let item = Item::new(item_key(table, state.transaction))
        .with("path", path.as_ref())
        .with("digest", digest)
        .with("bytes", length)
        .with("at", state.at);
    items.put(item, Condition::NotExists).await
}

/// Verified snapshots in `range`, the newest first.
pub(super) async fn list(
    items: &dyn ItemStore,
    table: &TableId,
    range: Range,
    limit: usize,
) -> Result<Vec<SnapshotEntry>> {
    let found = items
        .query(
            Collection::Snapshots,
            table.as_str(),
            range,
            limit,
            Order::Descending,
        )
        .await?;
    found.iter().map(SnapshotEntry::from_item).collect()
}

/// Loads a snapshot.
///
/// # Errors
/// `Corrupt` when the object is not what was verified; `NotFound` when it is gone.
pub(super) async fn load(
    objects: &dyn ObjectStore,
    table: &TableId,
    entry: &SnapshotEntry,
) -> Result<TableState> {
    let bytes = objects.get(&entry.path).await?.bytes().await?;
    if hex::encode(Sha256::digest(&bytes)) != entry.digest {
        return Err(Error::corrupt(format!(
            "snapshot {} is not what was written",
            entry.path
        )));
    }
    decode(table, &bytes)
}

/// Removes snapshots before `floor` from the list, and then their objects.
pub(super) async fn delete_before(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    floor: TransactionNumber,
) -> Result<()> {
    for entry in list(items, table, Range::before(floor.0), usize::MAX >> 1).await? {
        delete(items, objects, table, &entry, None).await?;
    }
    Ok(())
}

/// How far apart the snapshots are that are kept between the two newest and the one that the log is cut behind:
/// a state of the past is read from the one before it and the log.
const KEPT_APART: Duration = Duration::from_secs(3600);

/// The snapshots that the log may be cut behind, if they read back whole, the newest first: those that were made no
/// later than `keep_from` and are of no later state than `oldest_pin`, but never the very newest. `snapshots` are
/// all, the newest first.
pub fn bases(
    snapshots: &[SnapshotEntry],
    keep_from: Timestamp,
    oldest_pin: Option<TransactionNumber>,
) -> impl Iterator<Item = &SnapshotEntry> {
    snapshots
        .iter()
        .skip(1)
        .filter(move |entry| entry.at <= keep_from && oldest_pin.is_none_or(|pin| entry.transaction <= pin))
}

/// The snapshots that neither the log nor the reading of past states needs while the log is cut behind `base`.
/// `snapshots` are all, the newest first.
pub fn redundant<'a>(
    snapshots: &'a [SnapshotEntry],
    base: &'a SnapshotEntry,
) -> impl Iterator<Item = &'a SnapshotEntry> {
    let mut kept_at = snapshots.get(1).map_or(Timestamp::default(), |entry| entry.at);
    let between = snapshots
        .iter()
        .skip(2)
        .filter(|entry| entry.transaction > base.transaction);
    between.filter(move |entry| {
        let near = kept_at.since(entry.at) < KEPT_APART;
        if !near {
            kept_at = entry.at;
        }
        near
    })
}

/// Removes a snapshot from the list, and then its object.
///
/// # Errors
/// `Conflict` when `check` does not hold; errors of the stores.
pub(super) async fn delete(
    items: &dyn ItemStore,
    objects: &dyn ObjectStore,
    table: &TableId,
    entry: &SnapshotEntry,
    check: Option<Write>,
) -> Result<()> {
    let delete = Write::Delete {
        key: item_key(table, entry.transaction),
        condition: Condition::None,
    };
    items
        .transact(check.into_iter().chain([delete]).collect())
        .await?;
    match objects.delete(&entry.path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether there is a snapshot of this transaction in the list.
pub(super) async fn is_listed(
    items: &dyn ItemStore,
    table: &TableId,
    transaction: TransactionNumber,
) -> Result<bool> {
    Ok(items.get(&item_key(table, transaction)).await?.is_some())
}

fn item_key(table: &TableId, transaction: TransactionNumber) -> ItemKey {
    ItemKey::new(Collection::Snapshots, table.as_str(), transaction.0)
}
