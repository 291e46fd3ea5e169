//! A past state's rows become the table's again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        table_state::{Extent, LiveFile, Reference, TableState},
        transaction::{RestoredFile, RestoredReference},
    },
    Effect, Refusal, share,
};
use crate::{
    ids::{FileName, PartitionId, TransactionNumber},
    partition::Partition,
};

impl TableState {
    /// What makes this state's rows current again, in any later state of the same table.
    pub fn to_restore(&self) -> Vec<RestoredFile> {
        let mut restored: BTreeMap<&FileName, RestoredFile> = BTreeMap::new();
        for (leaf, at_leaf) in &self.references {
            for (name, reference) in at_leaf {
                let file = restored.entry(name).or_insert_with(|| RestoredFile {
                    file: reference.file.clone(),
                    references: Vec::new(),
                });
                file.references.push(RestoredReference {
                    partition: leaf.clone(),
                    extent: reference.extent.clone(),
                });
            }
        }
        restored.into_values().collect()
    }

    pub(super) fn restore(
        &mut self,
        of: TransactionNumber,
        files: &[RestoredFile],
    ) -> Result<Effect, Refusal> {
        if of > self.transaction {
            return Err(Refusal::invalid(format!("transaction {of} is yet to come")));
        }
        let mut names = BTreeSet::new();
        let mut added = Vec::with_capacity(files.len());
        for restored in files {
            let name = &restored.file.name;
            added.push(self.check_restored(of, restored)?);
            if !names.insert(name) {
                return Err(Refusal::invalid(format!("file {name} is named twice")));
            }
        }
        self.drop_all_references();
        for (restored, added) in files.iter().zip(added) {
            let mut references = 0;
            for reference in &restored.references {
                let moved = Reference {
                    file: restored.file.clone(),
                    extent: reference.extent.clone(),
                };
                references += self.settle(&reference.partition, moved);
            }
            let name = &restored.file.name;
            self.garbage.remove(name);
            let live = LiveFile {
                file: restored.file.clone(),
                added,
                references,
            };
            self.files.insert(name.clone(), live);
        }
        Ok(Effect::Changed)
    }

    /// Checks one file; answers since when the table's history has it.
    fn check_restored(
        &self,
        of: TransactionNumber,
        restored: &RestoredFile,
    ) -> Result<TransactionNumber, Refusal> {
        let RestoredFile { file, references } = restored;
        let live = self.files.get(&file.name).map(|live| live.added);
        let garbage = self.garbage.get(&file.name);
        let kept = garbage
            .filter(|garbage| !garbage.marked)
            .and_then(|garbage| garbage.added);
        let Some(added) = live.or(kept) else {
            return Err(Refusal::conflict(format!(
                "file {} of transaction {of} was collected",
                file.name
            )));
        };
        if references.is_empty() || added > of {
            return Err(Refusal::invalid(format!(
                "file {} was not in the table at transaction {of}",
                file.name
            )));
        }
        for RestoredReference { partition, extent } in references {
            let range = match extent {
                Extent::Part(part) => file.parts.get(*part as usize).map(|part| &part.range),
                Extent::Share { range, .. } => Some(range),
            };
            let bounds = self.partitions.get(partition).map(|partition| &partition.bounds);
            let fits = range
                .zip(bounds)
                .is_some_and(|(range, bounds)| bounds.touches(range));
            if !fits {
                return Err(Refusal::invalid(format!(
                    "file {} has no rows in partition {partition}",
                    file.name
                )));
            }
        }
        Ok(added)
    }

    /// Refers to rows of a partition at the leaves below it; answers at how many.
    fn settle(&mut self, partition: &PartitionId, reference: Reference) -> u32 {
        let Some(found) = self.partitions.get(partition).cloned() else {
            return 0;
        };
        let Some([left, right]) = &found.children else {
            let at_leaf = self.references.entry(partition.clone()).or_default();
            at_leaf.insert(reference.file.name.clone(), reference);
            return 1;
        };
        let children = [left, right].map(|child| self.partitions.get(child).cloned());
        let children: Vec<_> = children.into_iter().flatten().collect();
        let moved = among(&reference, children.iter().map(AsRef::as_ref));
        moved
            .into_iter()
            .map(|(child, reference)| self.settle(&child, reference))
            .sum()
    }
}

/// A reference at a partition, at those of its children that it has keys of.
pub(super) fn among<'a>(
    reference: &Reference,
    children: impl Iterator<Item = &'a Partition>,
) -> Vec<(PartitionId, Reference)> {
    let touched: Vec<_> = children
        .filter(|child| child.bounds.touches(reference.range()))
        .collect();
    let count = touched.len();
    let shares = touched.into_iter().enumerate().map(|(number, child)| {
        let moved = if count == 1 && child.bounds.covers(reference.range()) {
            reference.clone()
        } else {
            let range = reference.range().clone();
            let rows = share(reference.rows(), count, number);
            Reference {
                file: reference.file.clone(),
                extent: Extent::Share { range, rows },
            }
        };
        (child.id.clone(), moved)
    });
    shares.collect()
}
