//! The records: every way a table can change.
//!
//! A shipped record never changes shape. A new ability is a new variant of [`Record`], with a fixture of its
//! stored form in `tests/fixtures/records/`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::table_state::{Extent, Kept};
use crate::{
    file::DataFile,
    ids::{FileName, JobId, PartitionId, PinId, RunId, TransactionNumber},
    key::Key,
    partition::Partition,
    schema::Schema,
    time::Timestamp,
};

/// Names one request to change a table, for ever: a request that is sent again has the same id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(Arc<str>);

impl CommitId {
    /// An id; the caller makes it unlike every other request's.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The id of what `run` of `job` commits.
    pub fn of_run(job: &JobId, run: &RunId) -> Self {
        Self::new(format!("{job}/{run}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A request to change a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The request's id.
    pub id: CommitId,
    /// The change.
    pub record: Record,
}

impl Commit {
    /// A request.
    pub fn new(id: CommitId, record: Record) -> Self {
        Self { id, record }
    }
}

/// A change to a table. What each does, and when it is refused, is in [`apply`](super::apply).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// The table begins. Refused when it exists.
    TableCreated {
        /// The columns.
        schema: Arc<Schema>,
        /// The partition tree.
        partitions: Vec<Partition>,
    },
    /// A leaf becomes the parent of two. Refused when it is not a leaf; the very split that made it a parent is
    /// answered as done.
    PartitionSplit(Split),
    /// Many splits, one after the other, or none. Refused when one of them is.
    PartitionTreeExtended {
        /// The splits; a later one may split a leaf that an earlier one made.
        splits: Vec<Split>,
    },
    /// The files' rows belong to the table, at the leaves of the moment. A job that committed already is
    /// answered as done, and the files of the losing run become garbage. Refused when the job is so old that its
    /// commit may have been forgotten, or was sent in the far future.
    FilesAdded {
        /// The job that made the files.
        job: JobId,
        /// The attempt that made them.
        run: RunId,
        /// When the job's message was first sent.
        issued: Timestamp,
        /// The files.
        files: Vec<Arc<DataFile>>,
    },
    /// References are leased to a compaction. Refused when one is gone or leased.
    CompactionAssigned {
        /// The compaction.
        job: JobId,
        /// The leaf.
        partition: PartitionId,
        /// The files whose references at the leaf are leased.
        inputs: Vec<FileName>,
        /// When others may lease them again.
        until: Timestamp,
    },
    /// The inputs' references give way to one to the output. Refused when the lease is lost or an input is gone.
    CompactionCommitted {
        /// The compaction.
        job: JobId,
        /// The attempt.
        run: RunId,
        /// When the job's message was first sent.
        issued: Timestamp,
        /// The leaf.
        partition: PartitionId,
        /// The files that were merged.
        inputs: Vec<FileName>,
        /// The merged file; none when every row was filtered away.
        output: Option<Arc<DataFile>>,
    },
    /// Objects are about to be deleted: from now on no commit can bring them back. Files that are referenced,
    /// pinned or unknown to history are passed over.
    GarbageMarked {
        /// Unreferenced files, and names of objects that no state knows.
        files: Vec<FileName>,
    },
    /// The objects of marked files are gone. Their names are remembered as long as committed jobs are.
    FilesDeleted {
        /// Marked files.
        files: Vec<FileName>,
    },
    /// The files of the state at `transaction` stay until `until`. Refused when some may be gone already.
    PinTaken {
        /// The reader's lease. Taking it again for the same transaction extends it.
        pin: PinId,
        /// The state that is read.
        transaction: TransactionNumber,
        /// When the lease ends.
        until: Timestamp,
    },
    /// The reader is done.
    PinReleased {
        /// The reader's lease.
        pin: PinId,
    },
    /// Entries before `floor` may be gone from now on.
    HistoryTruncated {
        /// The oldest entry that stays.
        floor: TransactionNumber,
    },
    /// The table has no rows. Its partitions stay.
    TableCleared,
    /// The table's rows are those of a past state again; its partitions stay as they are now. Refused when one of
    /// that state's files may be gone.
    TableRestored {
        /// The past state.
        of: TransactionNumber,
        /// All its files, from [`TableState::to_restore`](super::TableState::to_restore).
        files: Vec<RestoredFile>,
    },
    /// A leaf over the threshold was looked at, and is not to be split. Refused when it is not a leaf.
    LeafKept {
        /// The leaf.
        partition: PartitionId,
        /// The look.
        kept: Kept,
    },
    /// The table is no more; its files become garbage, and stay as long as pins need them.
    TableDeleted,
}

impl Record {
    /// The stored name of the variant.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::TableCreated { .. } => "table_created",
            Self::PartitionSplit(_) => "partition_split",
            Self::PartitionTreeExtended { .. } => "partition_tree_extended",
            Self::FilesAdded { .. } => "files_added",
            Self::CompactionAssigned { .. } => "compaction_assigned",
            Self::CompactionCommitted { .. } => "compaction_committed",
            Self::GarbageMarked { .. } => "garbage_marked",
            Self::FilesDeleted { .. } => "files_deleted",
            Self::PinTaken { .. } => "pin_taken",
            Self::PinReleased { .. } => "pin_released",
            Self::HistoryTruncated { .. } => "history_truncated",
            Self::TableCleared => "table_cleared",
            Self::TableRestored { .. } => "table_restored",
            Self::LeafKept { .. } => "leaf_kept",
            Self::TableDeleted => "table_deleted",
        }
    }
}

/// A file of a past state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFile {
    /// The file.
    pub file: Arc<DataFile>,
    /// Where it was referred to.
    pub references: Vec<RestoredReference>,
}

/// Where a past state referred to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredReference {
    /// What was a leaf then.
    pub partition: PartitionId,
    /// Which of the file's rows.
    pub extent: Extent,
}

/// How a leaf becomes the parent of two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The leaf.
    pub partition: PartitionId,
    /// The first key of the right part; strictly inside the leaf.
    pub at: Key,
    /// The id of the left part.
    pub left: PartitionId,
    /// The id of the right part.
    pub right: PartitionId,
}
