//! What a commit changed, checked before it is appended, at the cost of the change.

use std::collections::BTreeMap;

use imbl::OrdMap;

use super::{
    super::{
        TableState,
        apply::Outcome,
        table_state::{Reference, TableStatus},
        transaction::{Commit, Record, RestoredFile, Split},
    },
    Invariant, Violation,
};
use crate::{
    file::DataFile,
    ids::{FileName, PartitionId, TransactionNumber},
    time::Timestamp,
};

const REMEDY: &str =
    "the commit was not appended; report it with the commit, which is a fault of the program";

/// What must be remembered of the state before a commit to check its effect.
#[derive(Debug)]
pub struct Before {
    floor: TransactionNumber,
    retained_from: TransactionNumber,
    forgotten: Timestamp,
    split: Vec<(PartitionId, OrdMap<FileName, Reference>)>,
    inputs: Vec<(FileName, u32)>,
}

impl Before {
    /// What `commit` may change of `state`.
    pub fn of(state: &TableState, commit: &Commit) -> Self {
        let at = |leaf: &PartitionId| state.references.get(leaf).cloned().unwrap_or_default();
        let split = match &commit.record {
            Record::PartitionSplit(split) => vec![(split.partition.clone(), at(&split.partition))],
            Record::PartitionTreeExtended { splits } => splits
                .iter()
                .filter(|split| state.leaf(&split.partition).is_some())
                .map(|split| (split.partition.clone(), at(&split.partition)))
                .collect(),
            _ => Vec::new(),
        };
        let inputs = match &commit.record {
            Record::CompactionCommitted { inputs, .. } => inputs
                .iter()
                .filter_map(|name| Some((name.clone(), state.files.get(name)?.references)))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            floor: state.floor,
            retained_from: state.retained_from,
            forgotten: state.forgotten,
            split,
            inputs,
        }
    }

    /// That `state` is what `commit` makes of the state before; `effect` is its outcome, and whether it changed
    /// something.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        state: &TableState,
        commit: &Commit,
        effect: (&Outcome, bool),
    ) -> Result<(), Violation> {
        let wrong = |invariant: Invariant, found: String| {
            Err(Violation::new(
                invariant,
                format!("commit {} ({})", commit.id, commit.record.type_name()),
                found,
                REMEDY,
            ))
        };
        if state.floor < self.floor
            || state.retained_from < self.retained_from
            || state.forgotten < self.forgotten
            || state.floor > state.transaction
        {
            return wrong(Invariant::Log, "history went back".to_owned());
        }
        if !matches!(effect, (Outcome::Applied(_), true)) {
            return Ok(());
        }
        let checked = match &commit.record {
            Record::FilesAdded { job, files, .. } => match state.ledger.get(job) {
                Some(entry) if entry.transaction == state.transaction => {
                    files.iter().try_for_each(|file| check_added(state, file))
                }
                _ => Err((Invariant::Once, format!("job {job} is not in the ledger"))),
            },
            Record::PartitionSplit(split) => self.check_splits(state, std::slice::from_ref(split)),
            Record::PartitionTreeExtended { splits } => self.check_splits(state, splits),
            Record::CompactionCommitted {
                partition, output, ..
            } => self.check_compaction(state, partition, output.as_deref()),
            Record::GarbageMarked { files } => check_marked(state, files),
            Record::FilesDeleted { files } => files.iter().try_for_each(|name| {
                let known = state.files.contains_key(name) || state.garbage.contains_key(name);
                refuse(known, Invariant::Files, || {
                    format!("file {name} is deleted and known")
                })
            }),
            Record::TableCleared => check_empty(state),
            Record::TableRestored { files, .. } => check_restored(state, files),
            Record::TableDeleted => check_empty(state).and_then(|()| {
                let kept = state.status != TableStatus::Deleted;
                refuse(kept, Invariant::Log, || "the table is still there".to_owned())
            }),
            Record::TableCreated { .. } => {
                let unsound = state.leaves.is_empty() || state.status != TableStatus::Live;
                refuse(unsound, Invariant::PartitionTree, || {
                    "the table has no leaves".to_owned()
                })
            }
            Record::LeafKept { partition, .. } => {
                refuse(state.leaf(partition).is_none(), Invariant::PartitionTree, || {
                    format!("partition {partition} is kept, and no leaf")
                })
            }
            Record::CompactionAssigned { .. }
            | Record::PinTaken { .. }
            | Record::PinReleased { .. }
            | Record::HistoryTruncated { .. } => Ok(()),
        };
        match checked {
            Ok(()) => Ok(()),
            Err((invariant, found)) => wrong(invariant, found),
        }
    }

    /// The children tile their parent, and every reference went to those that its keys touch, with all its rows.
    fn check_splits(&self, state: &TableState, splits: &[Split]) -> Checked {
        let is_indexed = |id: &PartitionId| {
            state.partitions.get(id).is_some_and(|partition| {
                !partition.is_leaf() || state.leaves.get(&partition.bounds.lower) == Some(id)
            })
        };
        for split in splits {
            let tiles = state.partitions.get(&split.partition).is_some_and(|parent| {
                let [left, right] = [&split.left, &split.right].map(|id| state.partitions.get(id));
                !parent.is_leaf()
                    && left.is_some_and(|left| {
                        left.bounds.lower == parent.bounds.lower
                            && left.bounds.upper.as_ref() == Some(&split.at)
                    })
                    && right.is_some_and(|right| {
                        right.bounds.lower.as_ref() == Some(&split.at)
                            && right.bounds.upper == parent.bounds.upper
                    })
            });
            let sound = tiles && is_indexed(&split.left) && is_indexed(&split.right);
            refuse(!sound, Invariant::PartitionTree, || {
                format!("the children of partition {} do not tile it", split.partition)
            })?;
        }
        for (leaf, references) in &self.split {
            if state.references.contains_key(leaf) {
                return Err((
                    Invariant::PartitionTree,
                    format!("partition {leaf} was split, and still has references"),
                ));
            }
            let bounds = state.partitions.get(leaf).map(|parent| parent.bounds.clone());
            let bounds = bounds.unwrap_or_default();
            let is_below = |id: &&PartitionId| {
                state
                    .partitions
                    .get(*id)
                    .is_some_and(|leaf| match &leaf.bounds.lower {
                        Some(lower) => bounds.contains(lower),
                        None => bounds.lower.is_none(),
                    })
            };
            for (name, reference) in references {
                let rows: u64 = state
                    .leaves_touching(reference.range())
                    .iter()
                    .filter(is_below)
                    .filter_map(|leaf| state.references.get(leaf)?.get(name))
                    .map(Reference::rows)
                    .sum();
                refuse(rows != reference.rows(), Invariant::Rows, || {
                    format!(
                        "file {name} has {} rows at partition {leaf}, and {rows} below it",
                        reference.rows()
                    )
                })?;
            }
        }
        Ok(())
    }

    /// The inputs' references are gone, one each, and the output is referenced at the leaf alone.
    fn check_compaction(&self, state: &TableState, leaf: &PartitionId, output: Option<&DataFile>) -> Checked {
        let at_leaf = state.references.get(leaf);
        for (name, count) in &self.inputs {
            let left = state.files.get(name).map_or(0, |live| live.references);
            let there = at_leaf.is_some_and(|at_leaf| at_leaf.contains_key(name));
            let lost = left == 0 && !state.garbage.contains_key(name);
            refuse(
                there || lost || left.saturating_add(1) != *count,
                Invariant::PartitionTree,
                || format!("input {name} had {count} references, and has {left}"),
            )?;
        }
        match output {
            Some(file) => check_added(state, file),
            None => Ok(()),
        }
    }
}

type Checked = Result<(), (Invariant, String)>;

fn refuse(wrong: bool, invariant: Invariant, found: impl FnOnce() -> String) -> Checked {
    if wrong { Err((invariant, found())) } else { Ok(()) }
}

/// A new file is live, is referenced at every leaf that it has keys of, and its references have its rows.
fn check_added(state: &TableState, file: &DataFile) -> Checked {
    let name = &file.name;
    let counted = state.files.get(name).map_or(0, |live| live.references);
    let (mut leaves, mut rows) = (0, 0_u64);
    let mut last = None;
    for part in &file.parts {
        for leaf in state.leaves_touching(&part.range) {
            if last.as_ref() == Some(&leaf) {
                continue;
            }
            let Some(reference) = state.references.get(&leaf).and_then(|at| at.get(name)) else {
                return Err((
                    Invariant::PartitionTree,
                    format!("file {name} has keys of leaf {leaf}, and is not referenced there"),
                ));
            };
            leaves += 1;
            rows = rows.saturating_add(reference.rows());
            last = Some(leaf);
        }
    }
    refuse(
        leaves != counted || counted == 0,
        Invariant::PartitionTree,
        || format!("file {name} counts {counted} references, and has {leaves}"),
    )?;
    refuse(rows != file.rows, Invariant::Rows, || {
        format!("file {name} has {} rows, and its references {rows}", file.rows)
    })
}

fn check_marked(state: &TableState, files: &[FileName]) -> Checked {
    files.iter().try_for_each(|name| {
        let Some(garbage) = state.garbage.get(name).filter(|garbage| garbage.marked) else {
            return Ok(());
        };
        let needed = state.files.contains_key(name)
            || state.is_pinned(garbage, state.at)
            || (garbage.added.is_some() && state.retained_from < garbage.removed);
        refuse(needed, Invariant::Files, || {
            format!("file {name} is marked for deletion, and needed")
        })
    })
}

/// The files are live, no others are, and each counts the leaves that refer to it.
fn check_restored(state: &TableState, files: &[RestoredFile]) -> Checked {
    refuse(state.files.len() != files.len(), Invariant::Files, || {
        format!(
            "{} files were to be restored, and {} are there",
            files.len(),
            state.files.len()
        )
    })?;
    let mut found: BTreeMap<&FileName, u32> = BTreeMap::new();
    for name in state.references.values().flat_map(OrdMap::keys) {
        *found.entry(name).or_default() += 1;
    }
    files.iter().try_for_each(|RestoredFile { file, .. }| {
        let counted = state.files.get(&file.name).map_or(0, |live| live.references);
        let found = found.get(&file.name).copied().unwrap_or(0);
        refuse(
            counted != found || found == 0 || state.garbage.contains_key(&file.name),
            Invariant::PartitionTree,
            || {
                format!(
                    "restored file {} counts {counted} references, and has {found}",
                    file.name
                )
            },
        )
    })
}

fn check_empty(state: &TableState) -> Checked {
    let left = !state.files.is_empty() || !state.references.is_empty() || !state.leases.is_empty();
    refuse(left, Invariant::Files, || "files are left".to_owned())
}
