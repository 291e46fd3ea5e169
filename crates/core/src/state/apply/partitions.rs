//! The partition tree: its beginning, and leaves that split with their references.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    super::{
        table_state::{Kept, TableState, TableStatus},
        transaction::Split,
    },
    Effect, Refusal,
    restore::among,
};
use crate::{
    ids::PartitionId,
    key::{Key, KeyBounds},
    partition::Partition,
    schema::Schema,
};

impl TableState {
    pub(super) fn create(
        &mut self,
        schema: &Arc<Schema>,
        partitions: &[Partition],
    ) -> Result<Effect, Refusal> {
        let tree: OrdMap<_, _> = partitions
            .iter()
            .map(|partition| (partition.id.clone(), Arc::new(partition.clone())))
            .collect();
        let leaves: OrdMap<_, _> = partitions
            .iter()
            .filter(|partition| partition.is_leaf())
            .map(|leaf| (leaf.bounds.lower.clone(), leaf.id.clone()))
            .collect();
        check_tree(schema, partitions, &tree, &leaves)?;
        self.schema = Some(schema.clone());
        self.partitions = tree;
        self.leaves = leaves;
        self.status = TableStatus::Live;
        self.floor = self.transaction;
        Ok(Effect::Changed)
    }

    pub(super) fn split_all(&mut self, splits: &[Split]) -> Result<Effect, Refusal> {
        let before = self.clone();
        let mut changed = false;
        for split in splits {
            if self.is_done(split) {
                continue;
            }
            if let Err(refusal) = self.split(split) {
                *self = before;
                return Err(refusal);
            }
            changed = true;
        }
        Ok(if changed { Effect::Changed } else { Effect::Same })
    }

    pub(super) fn keep(&mut self, partition: &PartitionId, kept: &Kept) -> Result<Effect, Refusal> {
        if self.leaf(partition).is_none() {
            return Err(Refusal::conflict(format!("partition {partition} is not a leaf")));
        }
        let before = self.kept.insert(partition.clone(), kept.clone());
        Ok(if before.as_ref() == Some(kept) {
            Effect::Same
        } else {
            Effect::Changed
        })
    }

    /// Whether this very split happened: ids of partitions are never used again.
    fn is_done(&self, split: &Split) -> bool {
        let children = self
            .partitions
            .get(&split.partition)
            .and_then(|partition| partition.children.as_ref());
        let right = self.partitions.get(&split.right);
        children.is_some_and(|[left, right]| *left == split.left && *right == split.right)
            && right.is_some_and(|right| right.bounds.lower.as_ref() == Some(&split.at))
    }

    fn split(&mut self, split: &Split) -> Result<(), Refusal> {
        let Some(leaf) = self
            .partitions
            .get(&split.partition)
            .filter(|partition| partition.is_leaf())
            .cloned()
        else {
            return Err(Refusal::conflict(format!(
                "partition {} is not a leaf",
                split.partition
            )));
        };
        if let Some(schema) = &self.schema {
            schema
                .check_key(&split.at)
                .map_err(|error| Refusal::invalid(error.to_string()))?;
        }
        if !is_strictly_inside(&leaf.bounds, &split.at) {
            return Err(Refusal::invalid(format!(
                "split point {} is not strictly inside leaf {} with keys {}",
                split.at, leaf.id, leaf.bounds
            )));
        }
        if split.left == split.right
            || self.partitions.contains_key(&split.left)
            || self.partitions.contains_key(&split.right)
        {
            return Err(Refusal::conflict(format!(
                "partition {} or {} exists already",
                split.left, split.right
            )));
        }
        let child = |id: &PartitionId, lower, upper| Partition {
            id: id.clone(),
            parent: Some(leaf.id.clone()),
            children: None,
            bounds: KeyBounds { lower, upper },
        };
        let left = child(&split.left, leaf.bounds.lower.clone(), Some(split.at.clone()));
        let right = child(&split.right, Some(split.at.clone()), leaf.bounds.upper.clone());
        self.move_references(&leaf.id, [&left, &right]);
        self.kept.remove(&leaf.id);
        self.leaves.insert(left.bounds.lower.clone(), left.id.clone());
        self.leaves.insert(right.bounds.lower.clone(), right.id.clone());
        let parent = Partition {
            children: Some([left.id.clone(), right.id.clone()]),
            ..Partition::clone(&leaf)
        };
        for partition in [parent, left, right] {
            self.partitions.insert(partition.id.clone(), Arc::new(partition));
        }
        Ok(())
    }

    fn move_references(&mut self, leaf: &PartitionId, children: [&Partition; 2]) {
        for (name, reference) in self.references.remove(leaf).unwrap_or_default() {
            self.leases.remove(&(leaf.clone(), name.clone()));
            let moved = among(&reference, children.into_iter());
            let count = moved.len() as u32;
            for (child, reference) in moved {
                self.references
                    .entry(child)
                    .or_default()
                    .insert(name.clone(), reference);
            }
            if let Some(live) = self.files.get_mut(&name) {
                live.references = live.references.saturating_add(count).saturating_sub(1);
            }
        }
    }
}

fn check_tree(
    schema: &Schema,
    partitions: &[Partition],
    tree: &OrdMap<PartitionId, Arc<Partition>>,
    leaves: &OrdMap<Option<Key>, PartitionId>,
) -> Result<(), Refusal> {
    let leaf_count = partitions.iter().filter(|partition| partition.is_leaf()).count();
    if tree.len() != partitions.len() || leaves.len() != leaf_count || leaf_count == 0 {
        return Err(Refusal::invalid(
            "partitions share an id or a lower bound, or there is no leaf",
        ));
    }
    let mut roots = 0;
    for partition in partitions {
        match &partition.parent {
            None => {
                roots += 1;
                if partition.bounds != KeyBounds::default() {
                    return Err(Refusal::invalid(format!(
                        "partition {} has no parent, but bounds {}",
                        partition.id, partition.bounds
                    )));
                }
            }
            Some(parent) => {
                let children = tree.get(parent).and_then(|parent| parent.children.as_ref());
                if children.is_none_or(|children| !children.contains(&partition.id)) {
                    return Err(Refusal::invalid(format!(
                        "partition {} is not a child of its parent {parent}",
                        partition.id
                    )));
                }
            }
        }
        if let Some(children) = &partition.children {
            check_children(schema, partition, children, tree)?;
        }
    }
    if roots != 1 {
        return Err(Refusal::invalid(format!(
            "a partition tree has one root, not {roots}"
        )));
    }
    Ok(())
}

/// That `partition` is cut in two strictly inside its bounds. As children are smaller than their parents, no
/// chain of them comes back to where it began.
fn check_children(
    schema: &Schema,
    partition: &Partition,
    children: &[PartitionId; 2],
    tree: &OrdMap<PartitionId, Arc<Partition>>,
) -> Result<(), Refusal> {
    let [Some(left), Some(right)] = [tree.get(&children[0]), tree.get(&children[1])] else {
        return Err(Refusal::invalid(format!(
            "partition {} has a child that is not there",
            partition.id
        )));
    };
    let fits = left.parent.as_ref() == Some(&partition.id)
        && right.parent.as_ref() == Some(&partition.id)
        && left.bounds.lower == partition.bounds.lower
        && left.bounds.upper == right.bounds.lower
        && right.bounds.upper == partition.bounds.upper;
    match &left.bounds.upper {
        Some(at) if fits && is_strictly_inside(&partition.bounds, at) => schema
            .check_key(at)
            .map_err(|error| Refusal::invalid(error.to_string())),
        _ => Err(Refusal::invalid(format!(
            "the children of partition {} do not cover it",
            partition.id
        ))),
    }
}

fn is_strictly_inside(bounds: &KeyBounds, at: &Key) -> bool {
    bounds.contains(at) && bounds.lower.as_ref() != Some(at)
}
