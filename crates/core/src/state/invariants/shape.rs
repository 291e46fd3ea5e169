//! What holds in every state, checked the slow way, over the whole of it: partitions and references; the rest is in
//! `memories`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        TableState,
        table_state::{Extent, TableStatus},
    },
    Invariant, Violation,
    memories::{check_files, check_leases_and_pins, check_memories},
};
use crate::{
    file::{DataFile, FilePart},
    ids::{FileName, PartitionId},
    key::{Key, KeyBounds},
};

const REMEDY: &str = "stop the writers and keep the log and its snapshots: the program or a snapshot is wrong, and the log tells which";

pub(super) struct Wrong(Vec<Violation>);

impl Wrong {
    pub(super) fn add(&mut self, invariant: Invariant, place: impl Into<String>, found: impl Into<String>) {
        self.0.push(Violation::new(invariant, place, found, REMEDY));
    }

    fn tree(&mut self, place: impl Into<String>, found: impl Into<String>) {
        self.add(Invariant::PartitionTree, place, found);
    }
}

/// What is wrong with `state`; nothing when it is sound.
pub fn check(state: &TableState) -> Vec<Violation> {
    let mut wrong = Wrong(Vec::new());
    check_partitions(state, &mut wrong);
    check_references(state, &mut wrong);
    check_files(state, &mut wrong);
    check_leases_and_pins(state, &mut wrong);
    check_memories(state, &mut wrong);
    wrong.0
}

fn check_partitions(state: &TableState, wrong: &mut Wrong) {
    match state.status {
        TableStatus::Absent => {
            if !state.partitions.is_empty() || !state.files.is_empty() || state.schema.is_some() {
                wrong.tree(
                    "the table",
                    "it was never created, and has a schema, partitions or files",
                );
            }
            return;
        }
        TableStatus::Live | TableStatus::Deleted => {
            if state.schema.is_none() {
                wrong.tree("the table", "it has no schema");
            }
        }
    }
    let roots: Vec<_> = state.partitions.values().filter(|p| p.parent.is_none()).collect();
    if roots.len() != 1 {
        wrong.tree("the partition tree", format!("it has {} roots", roots.len()));
    }
    let mut reached = BTreeSet::new();
    let mut in_order = Vec::new();
    let mut pending: Vec<&PartitionId> = roots.iter().rev().map(|root| &root.id).collect();
    while let Some(id) = pending.pop() {
        let place = format!("partition {id}");
        if !reached.insert(id.clone()) {
            wrong.tree(place, "it is reached twice");
            continue;
        }
        let Some(partition) = state.partitions.get(id) else {
            wrong.tree(place, "it is a child, but is not there");
            continue;
        };
        if partition.id != *id {
            wrong.tree(place, format!("partition {} is kept under this id", partition.id));
        }
        match &partition.children {
            None => in_order.push(partition.clone()),
            Some([left, right]) => {
                for child in [left, right] {
                    let parent = state.partitions.get(child).and_then(|child| child.parent.clone());
                    if parent.as_ref() != Some(id) {
                        wrong.tree(
                            format!("partition {child}"),
                            format!("it has parent {parent:?}, but is a child of {id}"),
                        );
                    }
                }
                pending.push(right);
                pending.push(left);
            }
        }
    }
    if reached.len() != state.partitions.len() {
        wrong.tree(
            "the partition tree",
            format!(
                "{} of {} partitions are not below the root",
                state.partitions.len().saturating_sub(reached.len()),
                state.partitions.len()
            ),
        );
    }
    let mut end: Option<Key> = None;
    for (i, leaf) in in_order.iter().enumerate() {
        let place = || format!("leaf {} with keys {}", leaf.id, leaf.bounds);
        if leaf.bounds.lower != end || (i > 0 && end.is_none()) {
            wrong.tree(place(), "it does not begin where the one before it ends");
        }
        if let (Some(lower), Some(upper)) = (&leaf.bounds.lower, &leaf.bounds.upper)
            && lower >= upper
        {
            wrong.tree(place(), "it has no keys");
        }
        end.clone_from(&leaf.bounds.upper);
    }
    if end.is_some() || in_order.is_empty() {
        wrong.tree("the leaves", "they do not reach the end of the key space");
    }
    let expected = in_order.iter().map(|leaf| (&leaf.bounds.lower, &leaf.id));
    if !state.leaves.iter().eq(expected) {
        wrong.tree("the index of leaves", "it is not what the tree says");
    }
}

#[derive(Default)]
struct Referenced {
    leaves: u32,
    rows: u64,
}

fn check_references(state: &TableState, wrong: &mut Wrong) {
    let mut referenced: BTreeMap<&FileName, Referenced> = BTreeMap::new();
    for (leaf, references) in &state.references {
        let Some(bounds) = state
            .partitions
            .get(leaf)
            .filter(|partition| partition.is_leaf())
            .map(|partition| &partition.bounds)
        else {
            wrong.tree(
                format!("partition {leaf}"),
                "it has references, but is not a leaf",
            );
            continue;
        };
        if references.is_empty() {
            wrong.tree(format!("leaf {leaf}"), "it has an entry without references");
        }
        for (name, reference) in references {
            let place = format!("file {name} at leaf {leaf}");
            let counted = referenced.entry(name).or_default();
            counted.leaves += 1;
            if reference.file.name != *name {
                wrong.tree(
                    &place,
                    format!("file {} is referenced by this name", reference.file.name),
                );
            }
            match state.files.get(name) {
                Some(live) if live.file == reference.file => {}
                Some(_) => wrong.tree(&place, "the reference is to another file of this name"),
                None => wrong.tree(&place, "the file is referenced, and is not a live file"),
            }
            if let Some(found) = check_extent(&reference.file, &reference.extent, bounds) {
                wrong.tree(&place, found);
                continue;
            }
            counted.rows = counted.rows.saturating_add(reference.rows());
        }
    }
    for (name, live) in &state.files {
        let place = format!("file {name}");
        let none = Referenced::default();
        let found = referenced.get(name).unwrap_or(&none);
        if live.references != found.leaves || found.leaves == 0 {
            wrong.tree(
                &place,
                format!(
                    "it counts {} references and has {}",
                    live.references, found.leaves
                ),
            );
        }
        if found.rows > live.file.rows {
            wrong.add(
                Invariant::Rows,
                &place,
                format!(
                    "it has {} rows, and its references {}",
                    live.file.rows, found.rows
                ),
            );
        }
        if live.added > state.transaction {
            wrong.add(Invariant::Log, &place, "it was added in the future");
        }
        check_parts(&live.file, &place, wrong);
    }
}

fn check_parts(file: &DataFile, place: &str, wrong: &mut Wrong) {
    let rows = file
        .parts
        .iter()
        .try_fold(0_u64, |rows, part| rows.checked_add(part.rows));
    if rows != Some(file.rows) {
        wrong.add(
            Invariant::Conservation,
            place,
            format!("it has {} rows, and its parts {rows:?}", file.rows),
        );
    }
    let rise = file
        .parts
        .windows(2)
        .all(|pair| pair[0].range.max < pair[1].range.min);
    if file.parts.is_empty() || !rise || file.parts.iter().any(|part| part.range.min > part.range.max) {
        wrong.tree(place, "its parts overlap, are out of order, or there are none");
    }
}

/// A reference means every row of its file that falls in the leaf: no part of the file that touches the leaf lies
/// beyond the extent.
fn check_extent(file: &DataFile, extent: &Extent, bounds: &KeyBounds) -> Option<String> {
    let at_leaf = parts_touching(file, bounds);
    match extent {
        Extent::Part(number) => {
            let Some(part) = file.parts.get(*number as usize) else {
                return Some(format!("part {number} is not there"));
            };
            if !bounds.covers(&part.range) {
                return Some(format!("part {number} has keys beyond the leaf"));
            }
            (at_leaf.len() != 1).then(|| format!("{} parts have keys of the leaf", at_leaf.len()))
        }
        Extent::Share { range, .. } => {
            if !bounds.touches(range) {
                return Some("it has no keys in the leaf".to_owned());
            }
            at_leaf
                .iter()
                .any(|part| part.range.min < range.min || part.range.max > range.max)
                .then(|| {
                    format!(
                        "keys of the leaf lie outside {} to {}, which the reference covers",
                        range.min, range.max
                    )
                })
        }
    }
}

/// The parts with keys in the bounds; parts are in key order.
fn parts_touching<'a>(file: &'a DataFile, bounds: &KeyBounds) -> &'a [FilePart] {
    let from = file
        .parts
        .partition_point(|part| bounds.lower.as_ref().is_some_and(|lower| part.range.max < *lower));
    let until = file
        .parts
        .partition_point(|part| bounds.upper.as_ref().is_none_or(|upper| part.range.min < *upper));
    file.parts.get(from..until).unwrap_or_default()
}
