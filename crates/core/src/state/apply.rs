//! What each record does to the state, and when it is refused.
//!
//! [`TableState::apply`] is pure and total: any commit on any state ends in an [`Outcome`], and a commit that is
//! refused changes nothing but what its outcome says.
//!
//! # Once
//!
//! A request may come again at any time, by any committer. Three memories answer it:
//!
//! * the ids of recent commits, for requests whose reply was lost;
//! * the ledger, for jobs, as long as a message can come back ([`LEDGER_RETENTION`]). What it forgets leaves a mark
//!   in time, and a job that was sent before the mark is refused: it may have committed;
//! * the state itself, for records that say what is to be so: a split names its children, a table is deleted.
//!
//! Clearing a table is none of these, nor is restoring one, so the ids of both are kept as long as the ledger keeps
//! jobs.

mod compaction;
mod files;
mod garbage;
mod partitions;
mod pins;
mod restore;

use std::slice;

use super::{
    table_state::{LEDGER_RETENTION, RECENT_COMMITS, TableState, TableStatus},
    transaction::{Commit, Record},
};
use crate::{
    error::{Error, ErrorKind},
    ids::TransactionNumber,
    time::Timestamp,
};

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, in this transaction.
    Applied(TransactionNumber),
    /// Its job had committed before, in this transaction, by another run; the files of this run are garbage.
    AlreadyDone(TransactionNumber),
    /// A requirement did not hold; nothing changed.
    Refused(Refusal),
}

impl Outcome {
    /// The transaction that holds what was asked for.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<TransactionNumber, Error> {
        match self {
            Self::Applied(transaction) | Self::AlreadyDone(transaction) => Ok(transaction),
            Self::Refused(refusal) => Err(Error::new(refusal.kind, refusal.reason)),
        }
    }
}

/// Why a commit was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the committer does next.
    pub kind: ErrorKind,
    /// The requirement that did not hold, for people.
    pub reason: String,
}

impl Refusal {
    fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }

    fn conflict(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, reason)
    }

    fn invalid(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, reason)
    }
}

/// What a record's effect tells [`TableState::apply`].
enum Effect {
    Changed,
    /// The job's earlier transaction, and whether this commit still changed something.
    DoneBefore(TransactionNumber, bool),
    /// It was so already: nothing changed.
    Same,
}

impl TableState {
    /// Applies the commits of entry `number`, which was made at `at`, in order.
    ///
    /// The caller sees to it that `number` follows [`TableState::transaction`].
    pub fn apply<'a>(
        &mut self,
        number: TransactionNumber,
        at: Timestamp,
        commits: impl IntoIterator<Item = &'a Commit>,
    ) -> Vec<Outcome> {
        self.begin(number, at);
        commits
            .into_iter()
            .map(|commit| self.apply_commit(commit).0)
            .collect()
    }

    /// Moves to entry `number` and forgets what is too old by then.
    pub(super) fn begin(&mut self, number: TransactionNumber, at: Timestamp) {
        self.transaction = number;
        self.at = self.at.max(at);
        let horizon = self.at.minus(LEDGER_RETENTION);
        while let Some((time, job)) = self
            .ledger_by_age
            .get_min()
            .filter(|(time, _)| *time < horizon)
            .cloned()
        {
            self.ledger_by_age.remove(&(time, job.clone()));
            if let Some(entry) = self.ledger.remove(&job) {
                self.forgotten = self.forgotten.max(entry.issued);
            }
        }
        while let Some(oldest) = self
            .tombstones_by_age
            .get_min()
            .filter(|(time, _)| *time < horizon)
            .cloned()
        {
            self.tombstones_by_age.remove(&oldest);
            self.tombstones.remove(&oldest.1);
            // A job that was sent before the file went may have written it, and could bring the name back.
            self.forgotten = self.forgotten.max(oldest.0);
        }
        while let Some(oldest) = self
            .clearings_by_age
            .get_min()
            .filter(|(time, _)| *time < horizon)
            .cloned()
        {
            self.clearings_by_age.remove(&oldest);
            self.clearings.remove(&oldest.1);
        }
    }

    /// Applies one commit of the current entry. Says also whether the state changed, so that a commit without
    /// effect need not be written.
    pub(super) fn apply_commit(&mut self, commit: &Commit) -> (Outcome, bool) {
        if let Some(transaction) = self.recent_commit(&commit.id) {
            return (Outcome::Applied(transaction), false);
        }
        match self.apply_record(&commit.record) {
            Ok(Effect::Changed) => {
                self.remember(commit);
                (Outcome::Applied(self.transaction), true)
            }
            Ok(Effect::Same) => (Outcome::Applied(self.transaction), false),
            Ok(Effect::DoneBefore(transaction, changed)) => (Outcome::AlreadyDone(transaction), changed),
            Err(refusal) => (Outcome::Refused(refusal), false),
        }
    }

    fn remember(&mut self, commit: &Commit) {
        if matches!(commit.record, Record::TableCleared | Record::TableRestored { .. }) {
            self.clearings
                .insert(commit.id.clone(), (self.at, self.transaction));
            self.clearings_by_age.insert((self.at, commit.id.clone()));
            return;
        }
        self.recent.insert(commit.id.clone(), self.transaction);
        self.recent_order.push_back(commit.id.clone());
        while self.recent_order.len() > RECENT_COMMITS {
            if let Some(oldest) = self.recent_order.pop_front() {
                self.recent.remove(&oldest);
            }
        }
    }

    fn apply_record(&mut self, record: &Record) -> Result<Effect, Refusal> {
        match (self.status, record) {
            (TableStatus::Absent, Record::TableCreated { schema, partitions }) => {
                return self.create(schema, partitions);
            }
            (TableStatus::Absent, _) => {
                return Err(Refusal::new(ErrorKind::NotFound, "the table does not exist"));
            }
            (_, Record::TableCreated { .. }) => {
                return Err(Refusal::new(ErrorKind::AlreadyExists, "the table exists already"));
            }
            _ => {}
        }
        match record {
            Record::GarbageMarked { files } => return Ok(self.mark_garbage(files)),
            Record::FilesDeleted { files } => return self.forget_files(files),
            Record::PinReleased { pin } => {
                return Ok(if self.pins.remove(pin).is_some() {
                    Effect::Changed
                } else {
                    Effect::Same
                });
            }
            Record::HistoryTruncated { floor } => return self.truncate(*floor),
            Record::TableDeleted if self.status == TableStatus::Deleted => return Ok(Effect::Same),
            _ if self.status == TableStatus::Deleted => {
                return Err(Refusal::new(ErrorKind::NotFound, "the table was deleted"));
            }
            _ => {}
        }
        match record {
            Record::PartitionSplit(split) => self.split_all(slice::from_ref(split)),
            Record::PartitionTreeExtended { splits } => self.split_all(splits),
            Record::FilesAdded {
                job,
                run,
                issued,
                files,
            } => self.add_files(job, run, *issued, files),
            Record::CompactionAssigned {
                job,
                partition,
                inputs,
                until,
            } => self.assign(job, partition, inputs, *until),
            Record::CompactionCommitted {
                job,
                run,
                issued,
                partition,
                inputs,
                output,
            } => self.commit_compaction(job, run, *issued, partition, inputs, output.as_ref()),
            Record::PinTaken {
                pin,
                transaction,
                until,
            } => self.take_pin(pin, *transaction, *until),
            Record::LeafKept { partition, kept } => self.keep(partition, kept),
            Record::TableCleared => {
                self.drop_all_references();
                Ok(Effect::Changed)
            }
            Record::TableRestored { of, files } => self.restore(*of, files),
            Record::TableDeleted => {
                self.drop_all_references();
                self.status = TableStatus::Deleted;
                Ok(Effect::Changed)
            }
            Record::TableCreated { .. }
            | Record::GarbageMarked { .. }
            | Record::FilesDeleted { .. }
            | Record::PinReleased { .. }
            | Record::HistoryTruncated { .. } => Err(Refusal::invalid("the record does not apply here")),
        }
    }
}

/// The `i`-th of `n` nearly equal shares of `rows`.
fn share(rows: u64, n: usize, i: usize) -> u64 {
    let n = n as u64;
    rows / n + u64::from((i as u64) < rows % n)
}
