//! A small table and its parts, for tests of table state. Row keys are single 32-bit numbers.

use std::sync::Arc;

use dormouse_core::{
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, PinId, RunId, TableId, TransactionNumber},
    key::{Key, KeyRange, KeyValue},
    partition::{Partition, tree_from_split_points},
    schema::{Column, DataType, Schema},
    state::{
        Commit, CommitId, Kept, KeptBecause, Outcome, Record, TableState, invariants, transaction::Split,
    },
    time::Timestamp,
};
use uuid::Uuid;

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const DAY: i64 = 24 * 60 * MINUTE;

/// When the tests' tables begin.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + millis)
}

pub(crate) fn table() -> TableId {
    TableId::new("0a1b2c3d").unwrap()
}

pub(crate) fn schema() -> Arc<Schema> {
    let key = Column::required("id", DataType::Int32);
    let value = Column::nullable("text", DataType::Utf8);
    Arc::new(Schema::new(vec![key], vec![], vec![value]).unwrap())
}

pub(crate) fn key(value: i32) -> Key {
    Key::new([KeyValue::Int32(value)])
}

pub(crate) fn id(text: &str) -> PartitionId {
    PartitionId::new(text).unwrap()
}

pub(crate) fn job(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

pub(crate) fn run(text: &str) -> RunId {
    RunId::new(text).unwrap()
}

pub(crate) fn pin(text: &str) -> PinId {
    PinId::new(text).unwrap()
}

pub(crate) fn name(text: &str) -> FileName {
    FileName::new(
        &PartitionId::root(),
        Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()),
    )
}

/// A file whose parts are `(smallest key, largest key, rows)`.
pub(crate) fn file(text: &str, parts: &[(i32, i32, u64)]) -> Arc<DataFile> {
    Arc::new(DataFile {
        name: name(text),
        rows: parts.iter().fold(0, |rows, part| rows.wrapping_add(part.2)),
        bytes: 1000,
        checksum: Checksum(7),
        parts: parts
            .iter()
            .map(|(min, max, rows)| FilePart {
                range: KeyRange {
                    min: key(*min),
                    max: key(*max),
                },
                rows: *rows,
                digest: RowDigest(u128::from(*rows)),
            })
            .collect(),
    })
}

/// The tree with these split points; ids are `p1`, `p2` and so on, in preorder.
pub(crate) fn tree(split_points: &[i32]) -> Vec<Partition> {
    let points: Vec<_> = split_points.iter().map(|point| key(*point)).collect();
    let mut next = 0;
    tree_from_split_points(&points, || {
        next += 1;
        id(&format!("p{next}"))
    })
    .unwrap()
}

pub(crate) fn created(split_points: &[i32]) -> Record {
    Record::TableCreated {
        schema: schema(),
        partitions: tree(split_points),
    }
}

pub(crate) fn split(partition: &str, point: i32, left: &str, right: &str) -> Split {
    Split {
        partition: id(partition),
        at: key(point),
        left: id(left),
        right: id(right),
    }
}

pub(crate) fn added(job_id: &str, files: &[Arc<DataFile>]) -> Record {
    Record::FilesAdded {
        job: job(job_id),
        run: run("run-1"),
        issued: START,
        files: files.to_vec(),
    }
}

pub(crate) fn assigned(job_id: &str, leaf: &str, inputs: &[&str], until: Timestamp) -> Record {
    Record::CompactionAssigned {
        job: job(job_id),
        partition: id(leaf),
        inputs: inputs.iter().map(|input| name(input)).collect(),
        until,
    }
}

pub(crate) fn compacted(job_id: &str, leaf: &str, inputs: &[&str], output: Option<Arc<DataFile>>) -> Record {
    Record::CompactionCommitted {
        job: job(job_id),
        run: run("run-1"),
        issued: START,
        partition: id(leaf),
        inputs: inputs.iter().map(|input| name(input)).collect(),
        output,
    }
}

pub(crate) fn kept(leaf: &str, rows: u64, because: KeptBecause) -> Record {
    Record::LeafKept {
        partition: id(leaf),
        kept: Kept { rows, because },
    }
}

pub(crate) fn marked(files: &[&str]) -> Record {
    Record::GarbageMarked {
        files: files.iter().map(|file| name(file)).collect(),
    }
}

pub(crate) fn deleted(files: &[&str]) -> Record {
    Record::FilesDeleted {
        files: files.iter().map(|file| name(file)).collect(),
    }
}

pub(crate) fn pinned(pin_id: &str, transaction: u64, until: Timestamp) -> Record {
    Record::PinTaken {
        pin: pin(pin_id),
        transaction: TransactionNumber(transaction),
        until,
    }
}

pub(crate) fn released(pin_id: &str) -> Record {
    Record::PinReleased { pin: pin(pin_id) }
}

pub(crate) fn truncated(floor: u64) -> Record {
    Record::HistoryTruncated {
        floor: TransactionNumber(floor),
    }
}

pub(crate) fn commit(commit_id: &str, record: Record) -> Commit {
    Commit::new(CommitId::new(commit_id), record)
}

/// A state that records are applied to one by one, each in a transaction of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    pub(crate) state: TableState,
    now: Timestamp,
    commits: u64,
}

impl Fold {
    pub(crate) fn empty() -> Self {
        Self {
            now: START,
            ..Self::default()
        }
    }

    /// A table with these split points.
    pub(crate) fn with_table(split_points: &[i32]) -> Self {
        let mut fold = Self::empty();
        fold.ok(created(split_points));
        fold
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.now = Timestamp::from_millis(self.now.as_millis() + millis);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Applies a request with this id, and checks that what it leaves is sound.
    pub(crate) fn request(&mut self, commit_id: &str, record: Record) -> Outcome {
        let before = self.state.clone();
        let number = self.state.transaction().next();
        let commits = [commit(commit_id, record)];
        let outcome = self.state.apply(number, self.now, &commits).pop().unwrap();
        assert_eq!(
            invariants::check(&self.state),
            Vec::<invariants::Violation>::new(),
            "after {commits:?}"
        );
        if matches!(outcome, Outcome::Refused(_)) {
            let mut untouched = before;
            untouched.apply(number, self.now, []);
            assert_eq!(self.state, untouched, "a refused {commits:?} left something");
        }
        outcome
    }

    /// Applies a new request.
    pub(crate) fn apply(&mut self, record: Record) -> Outcome {
        self.commits += 1;
        self.request(&format!("commit-{}", self.commits), record)
    }

    /// Applies a new request that must take effect.
    pub(crate) fn ok(&mut self, record: Record) -> TransactionNumber {
        match self.apply(record) {
            Outcome::Applied(number) => number,
            other => panic!("{other:?}"),
        }
    }

    /// Applies a new request that must be refused, and returns why: the kind, then the reason.
    pub(crate) fn refused(&mut self, record: Record) -> String {
        match self.apply(record) {
            Outcome::Refused(refusal) => format!("{:?}: {}", refusal.kind, refusal.reason),
            other => panic!("{other:?}"),
        }
    }

    /// The files referenced at a leaf, with their rows.
    pub(crate) fn at_leaf(&self, leaf: &str) -> Vec<(FileName, u64)> {
        self.state
            .references(&id(leaf))
            .map(|reference| (reference.file.name.clone(), reference.rows()))
            .collect()
    }
}
