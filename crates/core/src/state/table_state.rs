//! The state of a table at one transaction.
//!
//! Maps share structure between versions: a clone is cheap, and a commit against a table of a million files
//! copies only what it touches. Everything is ordered, so equal logs give equal states.

use std::{sync::Arc, time::Duration};

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use super::transaction::CommitId;
use crate::{
    file::{DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, JobKind, PartitionId, PinId, RunId, TransactionNumber},
    key::{Key, KeyRange},
    partition::{Leaf, Partition},
    schema::Schema,
    time::Timestamp,
};

/// How long committed jobs and the names of deleted files are remembered: 14 days on a queue, 14 more in its
/// dead letters, and a week's margin.
pub const LEDGER_RETENTION: Duration = Duration::from_secs(35 * 24 * 3600);

/// How far two machines' clocks may differ without harm to leases.
pub const CLOCK_SKEW_MARGIN: Duration = Duration::from_secs(10 * 60);

/// How many commit ids the state remembers to recognise requests that are sent again.
pub const RECENT_COMMITS: usize = 4096;

/// Whether the table is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableStatus {
    /// Never created.
    #[default]
    Absent,
    /// Created.
    Live,
    /// Deleted.
    Deleted,
}

/// SHA-256 of an encoded log entry; zeros before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHash(#[serde(with = "hex_bytes")] pub [u8; 32]);

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            bytes.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        if deserializer.is_human_readable() {
            let mut bytes = [0; 32];
            hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
                .map_err(de::Error::custom)?;
            Ok(bytes)
        } else {
            Deserialize::deserialize(deserializer)
        }
    }
}

/// The state of a table at one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableState {
    pub(super) transaction: TransactionNumber,
    pub(super) hash: EntryHash,
    pub(super) at: Timestamp,
    pub(super) status: TableStatus,
    pub(super) schema: Option<Arc<Schema>>,
    pub(super) partitions: OrdMap<PartitionId, Arc<Partition>>,
    /// Leaves by lower bound.
    pub(super) leaves: OrdMap<Option<Key>, PartitionId>,
    pub(super) files: OrdMap<FileName, LiveFile>,
    /// References by leaf. A leaf without references has no entry.
    pub(super) references: OrdMap<PartitionId, OrdMap<FileName, Reference>>,
    pub(super) leases: OrdMap<(PartitionId, FileName), Lease>,
    pub(super) kept: OrdMap<PartitionId, Kept>,
    pub(super) garbage: OrdMap<FileName, Garbage>,
    pub(super) tombstones: OrdMap<FileName, Timestamp>,
    pub(super) tombstones_by_age: OrdSet<(Timestamp, FileName)>,
    pub(super) ledger: OrdMap<JobId, LedgerEntry>,
    pub(super) ledger_by_age: OrdSet<(Timestamp, JobId)>,
    /// Jobs that were sent up to this time may have been forgotten.
    pub(super) forgotten: Timestamp,
    pub(super) pins: OrdMap<PinId, Pin>,
    /// When the table was cleared or restored, and by which transaction.
    pub(super) clearings: OrdMap<CommitId, (Timestamp, TransactionNumber)>,
    pub(super) clearings_by_age: OrdSet<(Timestamp, CommitId)>,
    /// The oldest transaction whose files are all there.
    pub(super) retained_from: TransactionNumber,
    /// The oldest entry of the log that is there.
    pub(super) floor: TransactionNumber,
    pub(super) recent: OrdMap<CommitId, TransactionNumber>,
    pub(super) recent_order: Vector<CommitId>,
}

/// A file that some leaf refers to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LiveFile {
    pub(super) file: Arc<DataFile>,
    pub(super) added: TransactionNumber,
    pub(super) references: u32,
}

/// "The rows of this file that fall in this leaf belong to the table."
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The file.
    pub file: Arc<DataFile>,
    pub(super) extent: Extent,
}

/// Which of a file's rows a reference is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// A part as the writer cut it.
    Part(u32),
    /// The share of one or more parts that is in the leaf since it split, with the rows estimated.
    Share {
        /// Between which keys they are.
        range: KeyRange,
        /// About how many there are.
        rows: u64,
    },
}

impl Reference {
    fn part(&self) -> Option<&FilePart> {
        match &self.extent {
            Extent::Part(part) => self.file.parts.get(*part as usize),
            Extent::Share { .. } => None,
        }
    }

    /// Row keys that the rows lie between, both inclusive.
    pub fn range(&self) -> &KeyRange {
        match &self.extent {
            Extent::Part(part) => &self.file.parts[*part as usize].range,
            Extent::Share { range, .. } => range,
        }
    }

    /// How many rows; estimated when [`Self::exact`] says nothing.
    pub fn rows(&self) -> u64 {
        match &self.extent {
            Extent::Part(part) => self.file.parts[*part as usize].rows,
            Extent::Share { rows, .. } => *rows,
        }
    }

    /// The number of rows and their digest, where known exactly.
    pub fn exact(&self) -> Option<(u64, RowDigest)> {
        self.part().map(|part| (part.rows, part.digest))
    }

    /// Whether every row of the file is meant.
    pub fn is_whole_file(&self) -> bool {
        self.file.parts.len() == 1 && self.part().is_some()
    }
}

/// A leaf over the threshold that was looked at and not split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many rows the state gave it then.
    pub rows: u64,
    /// Why it was not split.
    pub because: KeptBecause,
}

/// Why a leaf was not split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptBecause {
    /// It has no more rows than the threshold allows, when they are counted.
    Fits {
        /// How many it has, by its files.
        rows: u64,
    },
    /// Nearly all its rows have one row key.
    OneKey {
        /// The key.
        key: Key,
    },
}

/// References lent to a compaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The compaction.
    pub job: JobId,
    /// When others may lease the reference again, before the margin for skew.
    pub until: Timestamp,
}

/// A file that no leaf refers to, whose object may still be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Garbage {
    /// The object's size; zero when unknown.
    pub bytes: u64,
    /// The first transaction whose state has the file; none for files that never were in the table.
    pub added: Option<TransactionNumber>,
    /// The first transaction whose state no longer has it.
    pub removed: TransactionNumber,
    /// When that transaction was.
    pub removed_at: Timestamp,
    /// Whether the object may be deleted at any moment, and no commit brings the file back.
    pub marked: bool,
}

/// A job that committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The attempt that committed.
    pub run: RunId,
    /// The transaction.
    pub transaction: TransactionNumber,
    /// When the transaction was.
    pub at: Timestamp,
    /// When the job's message was first sent.
    pub issued: Timestamp,
    /// What kind of job it was.
    #[serde(skip)]
    pub kind: JobKind,
    /// How many rows it wrote.
    pub rows: u64,
    /// In how many files.
    pub files: u64,
}

/// A reader's lease on the files of one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    /// The state that is read.
    pub transaction: TransactionNumber,
    /// When the lease ends, before the margin for skew.
    pub until: Timestamp,
}

impl Pin {
    /// Whether the lease still holds, by the log's time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.until.plus(CLOCK_SKEW_MARGIN)
    }
}

impl TableState {
    /// The number of the last transaction of the fold.
    pub fn transaction(&self) -> TransactionNumber {
        self.transaction
    }

    /// When that transaction was.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The hash of its log entry.
    pub fn hash(&self) -> EntryHash {
        self.hash
    }

    /// Whether the table is there.
    pub fn status(&self) -> TableStatus {
        self.status
    }

    /// The columns; none before the table was created.
    pub fn schema(&self) -> Option<&Arc<Schema>> {
        self.schema.as_ref()
    }

    /// All partitions, by id.
    pub fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.values()
    }

    /// The partition with this id.
    pub fn partition(&self, id: &PartitionId) -> Option<&Arc<Partition>> {
        self.partitions.get(id)
    }

    /// How many leaves there are.
    pub fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// The leaves in key order.
    pub fn leaves(&self) -> impl Iterator<Item = Leaf> {
        self.leaves.values().filter_map(|id| self.leaf(id))
    }

    /// The leaf with this id.
    pub fn leaf(&self, id: &PartitionId) -> Option<Leaf> {
        self.partitions
            .get(id)
            .filter(|partition| partition.is_leaf())
            .map(|partition| Leaf {
                id: id.clone(),
                bounds: partition.bounds.clone(),
            })
    }

    /// The leaves that hold keys of the range, in key order.
    pub(super) fn leaves_touching(&self, range: &KeyRange) -> Vec<PartitionId> {
        let first = Some(range.min.clone());
        let start = self
            .leaves
            .get_prev(&first)
            .map(|(lower, _)| lower.clone())
            .unwrap_or_default();
        self.leaves
            .range(start..=Some(range.max.clone()))
            .map(|(_, id)| id.clone())
            .collect()
    }

    /// The references at a leaf, by file name.
    pub fn references<'a>(&'a self, leaf: &PartitionId) -> impl Iterator<Item = &'a Reference> + use<'a> {
        self.references
            .get(leaf)
            .into_iter()
            .flat_map(|references| references.values())
    }

    /// Whether every row of a file is referred to, at whatever leaves.
    pub fn refers_to_all_of(&self, file: &DataFile) -> bool {
        let mut leaves = file
            .parts
            .iter()
            .flat_map(|part| self.leaves_touching(&part.range));
        leaves.all(|leaf| {
            let references = self.references.get(&leaf);
            references.is_some_and(|references| references.contains_key(&file.name))
        })
    }

    /// How many rows a leaf has; estimated in so far as its references are.
    pub fn rows_at(&self, leaf: &PartitionId) -> u64 {
        self.references(leaf)
            .map(Reference::rows)
            .fold(0, u64::saturating_add)
    }

    /// The last look at a leaf that kept it whole, if it was kept since it became a leaf.
    pub fn kept(&self, leaf: &PartitionId) -> Option<&Kept> {
        self.kept.get(leaf)
    }

    /// How many references there are.
    pub fn reference_count(&self) -> u64 {
        self.files.values().map(|live| u64::from(live.references)).sum()
    }

    /// How many files some leaf refers to.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The files that some leaf refers to, by name, with the number of leaves that do.
    pub fn files(&self) -> impl Iterator<Item = (&Arc<DataFile>, u32)> {
        self.files.values().map(|live| (&live.file, live.references))
    }

    /// Whether some leaf refers to this file.
    pub fn is_referenced(&self, file: &FileName) -> bool {
        self.files.contains_key(file)
    }

    /// Whether an object with this name is spoken for: referenced, garbage, or deleted.
    pub fn knows(&self, file: &FileName) -> bool {
        self.files.contains_key(file) || self.garbage.contains_key(file) || self.tombstones.contains_key(file)
    }

    /// How many rows the table has; estimated only in so far as references are.
    pub fn rows(&self) -> u64 {
        self.references
            .values()
            .flat_map(|references| references.values())
            .map(Reference::rows)
            .fold(0, u64::saturating_add)
    }

    /// The lease on a reference.
    pub fn lease(&self, leaf: &PartitionId, file: &FileName) -> Option<&Lease> {
        self.leases.get(&(leaf.clone(), file.clone()))
    }

    /// The first transaction whose state has a live file; none for other files.
    pub fn added(&self, file: &FileName) -> Option<TransactionNumber> {
        self.files.get(file).map(|live| live.added)
    }

    /// Files that no leaf refers to and whose objects may still be there, by name.
    pub fn garbage(&self) -> impl Iterator<Item = (&FileName, &Garbage)> {
        self.garbage.iter()
    }

    /// What a job committed, while the state remembers it.
    pub fn committed(&self, job: &JobId) -> Option<&LedgerEntry> {
        self.ledger.get(job)
    }

    /// All jobs that the state remembers as committed, by id.
    pub fn ledger(&self) -> impl Iterator<Item = (&JobId, &LedgerEntry)> {
        self.ledger.iter()
    }

    /// Readers' leases by id.
    pub fn pins(&self) -> impl Iterator<Item = (&PinId, &Pin)> {
        self.pins.iter()
    }

    /// The reader's lease with this id.
    pub fn pin(&self, pin: &PinId) -> Option<&Pin> {
        self.pins.get(pin)
    }

    /// The oldest state that a reader's lease holds at `now`.
    pub fn oldest_pin(&self, now: Timestamp) -> Option<TransactionNumber> {
        let live = self.pins.values().filter(|pin| pin.is_live(now));
        live.map(|pin| pin.transaction).min()
    }

    /// The oldest transaction whose state can be read: its files are all there, and so is the log from it on.
    pub fn oldest_readable(&self) -> TransactionNumber {
        self.retained_from
            .max(TransactionNumber(self.floor.0.saturating_sub(1)))
            .max(TransactionNumber(1))
    }

    /// The oldest entry of the log that is there.
    pub fn floor(&self) -> TransactionNumber {
        self.floor
    }

    pub(super) fn set_hash(&mut self, hash: EntryHash) {
        self.hash = hash;
    }

    /// The transaction of a commit with this id, while the state remembers it.
    pub fn recent_commit(&self, id: &CommitId) -> Option<TransactionNumber> {
        let clearing = || self.clearings.get(id).map(|(_, transaction)| transaction);
        self.recent.get(id).or_else(clearing).copied()
    }

    /// Whether the file is one that a reader with a live pin may still open.
    pub(super) fn is_pinned(&self, garbage: &Garbage, now: Timestamp) -> bool {
        let Some(added) = garbage.added else { return false };
        self.pins
            .values()
            .any(|pin| pin.is_live(now) && added <= pin.transaction && pin.transaction < garbage.removed)
    }
}
