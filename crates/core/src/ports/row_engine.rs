//! Rows: everything that reads, sorts, merges and writes them.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use object_store::{ObjectStore, path::Path};

use crate::{
    error::Result,
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::TableId,
    key::{Key, KeyRange},
    partition::Leaf,
    predicate::Predicate,
    row_rules::RulesAt,
    schema::Schema,
};

/// Sorts, merges and writes rows.
///
/// An engine writes new objects only, never state, and never deletes. Dropping a call's future stops its work
/// soon; what it had written stays behind as orphans. Damaged input ends in an error, never in a panic.
#[async_trait]
pub trait RowEngine: Debug + Send + Sync {
    /// Reads all inputs, sorts their rows and writes them as data files cut at the leaves.
    ///
    /// Every row of every input is in exactly one file, or the call fails. The files' key ranges do not overlap.
    /// No file is returned for no rows.
    ///
    /// # Errors
    /// `Invalid`, with file, column and row, when an input does not fit the schema or cannot be read as Parquet.
    async fn ingest(&self, spec: IngestSpec, progress: Arc<Progress>) -> Result<Vec<DataFile>>;

    /// Merges the rows of one leaf from sorted files into one sorted file, written over whatever is at the
    /// output path. The same inputs give the same bytes.
    ///
    /// A leaf without rows, or none that the rules let pass, gives a file without rows.
    ///
    /// # Errors
    /// `Corrupt` when an input's bytes, rows or digest are not what the state says.
    async fn export(&self, spec: ExportSpec, progress: Arc<Progress>) -> Result<ExportedFile>;

    /// Merges the rows of one leaf from sorted files into one new data file; none when no row is left.
    ///
    /// Every row of the leaf in every input is in the file, but for those that are purged, as the rules will have
    /// it, or the call fails.
    ///
    /// # Errors
    /// `Corrupt` when an input's bytes, rows or digest are not what the state says; `Invalid` when the predicate of
    /// what is purged does not fit the columns, or cannot be evaluated for a row.
    async fn compact(&self, spec: CompactionSpec, progress: Arc<Progress>) -> Result<Option<DataFile>>;

    /// Row keys of a leaf, spread evenly over its rows: each stands for itself and the rows after it. Their row
    /// counts add up to about the rows of the leaf, as far as can be told without reading all of them.
    ///
    /// # Errors
    /// `Corrupt` when an input cannot be read.
    async fn sample(&self, spec: SampleSpec) -> Result<Vec<KeySample>>;

    /// Says of each input whether it may have rows of the leaf that the predicate is true for, by what can be told
    /// without reading all of it. Where nothing can be told, it may.
    ///
    /// # Errors
    /// `Invalid` when the predicate does not fit the columns, or is not the same whenever it is evaluated, with what
    /// is wrong; also without inputs. `Corrupt` when an input cannot be read.
    async fn may_match(&self, spec: MatchSpec) -> Result<Vec<bool>>;

    /// Reads a whole file, and answers with everything about it that is not what the caller says: bytes,
    /// rows, digests, order and key ranges. Nothing when it is sound.
    ///
    /// # Errors
    /// `NotFound` when there is no object; `Unavailable` when the store does not answer. Damage is no error.
    async fn verify(&self, spec: VerifySpec) -> Result<Vec<FileFault>>;
}

/// What to ingest.
#[derive(Clone, Debug)]
pub struct IngestSpec {
    /// The table; names the files' prefix.
    pub table: TableId,
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The leaves in key order; they cover the key space.
    pub leaves: Vec<Leaf>,
    /// The Parquet objects to read.
    pub inputs: Vec<InputObject>,
    /// Where to write: the table-data bucket.
    pub output: Arc<dyn ObjectStore>,
    /// A file takes consecutive whole leaves until it holds about so many bytes.
    pub target_file_bytes: u64,
}

/// A Parquet object to ingest.
#[derive(Clone, Debug)]
pub struct InputObject {
    /// The name for messages, as the sender wrote it.
    pub name: String,
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Its path in the store.
    pub path: Path,
    /// Its size when the job was accepted.
    pub bytes: u64,
    /// Its version when the job was accepted: another version is refused.
    pub e_tag: Option<String>,
}

/// What to export: one leaf.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The leaf; rows beyond its bounds are left out.
    pub leaf: Leaf,
    /// Data files in a fixed order: rows of equal keys keep it.
    pub inputs: Vec<MergeInput>,
    /// The table's filters and aggregations.
    pub rules: Option<RulesAt>,
    /// Where to write.
    pub output: Arc<dyn ObjectStore>,
    /// The object to write.
    pub output_path: Path,
}

/// What to compact: some files of one leaf.
#[derive(Clone, Debug)]
pub struct CompactionSpec {
    /// The table; names the file's prefix.
    pub table: TableId,
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The leaf; rows beyond its bounds are left out.
    pub leaf: Leaf,
    /// Data files in a fixed order: rows of equal keys keep it.
    pub inputs: Vec<MergeInput>,
    /// Rows to leave out, before the rules see them.
    pub purge: Option<Predicate>,
    /// The table's filters and aggregations.
    pub rules: Option<RulesAt>,
    /// Where to write: the table-data bucket.
    pub output: Arc<dyn ObjectStore>,
}

/// Where to look for rows that a predicate is true for.
#[derive(Clone, Debug)]
pub struct MatchSpec {
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The leaf; rows beyond its bounds do not count.
    pub leaf: Leaf,
    /// The data files.
    pub inputs: Vec<MergeInput>,
    /// Which rows are meant. In a table with aggregations, where a row's values are those of many, by its keys alone.
    pub predicate: Predicate,
    /// The table's filters and aggregations.
    pub rules: Option<RulesAt>,
}

/// What to sample: the rows of one leaf.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The leaf.
    pub leaf: Leaf,
    /// The data files.
    pub inputs: Vec<MergeInput>,
    /// About how many keys to return; at least one for each input with rows.
    pub keys: usize,
}

/// A row key of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySample {
    /// The key.
    pub key: Key,
    /// How many rows it stands for.
    pub rows: u64,
}

/// A data file with rows of the leaf.
#[derive(Clone, Debug)]
pub struct MergeInput {
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Its path in the store.
    pub path: Path,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// How many of its rows are in the leaf and their digest, where the state knows exactly. Where it does not,
    /// the whole object is checked against `checksum`.
    pub exact: Option<(u64, RowDigest)>,
}

/// A sorted file to verify: a table's, or an export's.
#[derive(Clone, Debug)]
pub struct VerifySpec {
    /// The table's columns.
    pub schema: Arc<Schema>,
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Its path in the store.
    pub path: Path,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// All its rows, cut in parts in key order.
    pub parts: Vec<FilePart>,
}

impl VerifySpec {
    /// How many rows the file has, and their digest.
    pub fn rows(&self) -> (u64, RowDigest) {
        let rows = self
            .parts
            .iter()
            .map(|part| part.rows)
            .fold(0, u64::saturating_add);
        (rows, self.parts.iter().map(|part| part.digest).sum())
    }
}

/// Something about a file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// What it is about.
    pub kind: FaultKind,
    /// What was found, for people.
    pub found: String,
}

/// What a fault of a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The object's bytes are others, or cannot be read as rows.
    Bytes,
    /// Other rows are in the file, or in one of its parts.
    Rows,
    /// Rows are not in key order, or not between the keys that they should be.
    Order,
}

impl FileFault {
    /// A fault.
    pub fn new(kind: FaultKind, found: impl Into<String>) -> Self {
        Self {
            kind,
            found: found.into(),
        }
    }
}

/// A finished export of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedFile {
    /// How many rows.
    pub rows: u64,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// The digest of all rows.
    pub digest: RowDigest,
    /// The smallest and the largest row key; none without rows.
    pub range: Option<KeyRange>,
}

/// Rows done so far, for people who wait.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    written: AtomicU64,
}

impl Progress {
    /// Counts rows that were read.
    pub fn add_read(&self, rows: u64) {
        self.read.fetch_add(rows, Ordering::Relaxed);
    }

    /// Counts rows that were written.
    pub fn add_written(&self, rows: u64) {
        self.written.fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Rows written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
