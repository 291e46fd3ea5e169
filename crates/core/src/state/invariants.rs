//! What holds in every state, checked the slow way.
//!
//! [`check`] shares no code with what it checks: it goes over the whole state, and is for tests and for people
//! who look for damage.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    TableState,
    table_state::{CLOCK_SKEW_MARGIN, Extent, RECENT_COMMITS, TableStatus},
};
use crate::{
    ids::{FileName, PartitionId},
    key::Key,
};

/// What is wrong with `state`, for people; nothing when it is sound.
pub fn check(state: &TableState) -> Vec<String> {
    let mut wrong = Vec::new();
    check_partitions(state, &mut wrong);
    check_references(state, &mut wrong);
    check_files(state, &mut wrong);
    check_leases_and_pins(state, &mut wrong);
    check_memories(state, &mut wrong);
    wrong
}

fn check_partitions(state: &TableState, wrong: &mut Vec<String>) {
    match state.status {
        TableStatus::Absent => {
            if !state.partitions.is_empty() || !state.files.is_empty() || state.schema.is_some() {
                wrong.push("a table that was never created has a schema, partitions or files".to_owned());
            }
            return;
        }
        TableStatus::Live | TableStatus::Deleted => {
            if state.schema.is_none() {
                wrong.push("the table has no schema".to_owned());
            }
        }
    }
    let roots: Vec<_> = state.partitions.values().filter(|p| p.parent.is_none()).collect();
    if roots.len() != 1 {
        wrong.push(format!("the partition tree has {} roots", roots.len()));
    }
    let mut reached = BTreeSet::new();
    let mut in_order = Vec::new();
    let mut pending: Vec<&PartitionId> = roots.iter().rev().map(|root| &root.id).collect();
    while let Some(id) = pending.pop() {
        if !reached.insert(id.clone()) {
            wrong.push(format!("partition {id} is reached twice"));
            continue;
        }
        let Some(partition) = state.partitions.get(id) else {
            wrong.push(format!("partition {id} is a child, but is not there"));
            continue;
        };
        if partition.id != *id {
            wrong.push(format!("partition {} is kept as {id}", partition.id));
        }
        match &partition.children {
            None => in_order.push(partition.clone()),
            Some([left, right]) => {
                for child in [left, right] {
                    let parent = state.partitions.get(child).and_then(|child| child.parent.clone());
                    if parent.as_ref() != Some(id) {
                        wrong.push(format!(
                            "partition {child} has parent {parent:?}, but is a child of {id}"
                        ));
                    }
                }
                pending.push(right);
                pending.push(left);
            }
        }
    }
    if reached.len() != state.partitions.len() {
        wrong.push(format!(
            "{} of {} partitions are not below the root",
            state.partitions.len().saturating_sub(reached.len()),
            state.partitions.len()
        ));
    }
    let mut end: Option<Key> = None;
    for (i, leaf) in in_order.iter().enumerate() {
        if leaf.bounds.lower != end || (i > 0 && end.is_none()) {
            wrong.push(format!(
                "leaf {} with keys {} does not begin where the one before it ends",
                leaf.id, leaf.bounds
            ));
        }
        if let (Some(lower), Some(upper)) = (&leaf.bounds.lower, &leaf.bounds.upper)
            && lower >= upper
        {
            wrong.push(format!("leaf {} has no keys: {}", leaf.id, leaf.bounds));
        }
        end.clone_from(&leaf.bounds.upper);
    }
    if end.is_some() || in_order.is_empty() {
        wrong.push("the leaves do not reach the end of the key space".to_owned());
    }
    let expected = in_order.iter().map(|leaf| (&leaf.bounds.lower, &leaf.id));
    if !state.leaves.iter().eq(expected) {
        wrong.push("the index of leaves is not what the tree says".to_owned());
    }
}

fn check_references(state: &TableState, wrong: &mut Vec<String>) {
    let mut counts: BTreeMap<&FileName, u32> = BTreeMap::new();
    for (leaf, references) in &state.references {
        let Some(bounds) = state
            .partitions
            .get(leaf)
            .filter(|partition| partition.is_leaf())
            .map(|partition| &partition.bounds)
        else {
            wrong.push(format!("partition {leaf} has references, but is not a leaf"));
            continue;
        };
        if references.is_empty() {
            wrong.push(format!("leaf {leaf} has an entry without references"));
        }
        for (name, reference) in references {
            *counts.entry(name).or_default() += 1;
            if reference.file.name != *name {
                wrong.push(format!("file {} is referenced as {name}", reference.file.name));
            }
            match &reference.extent {
                Extent::Part(part) => match reference.file.parts.get(*part as usize) {
                    Some(part) if bounds.covers(&part.range) => {}
                    _ => wrong.push(format!(
                        "part {part} of file {name} is not there, or has keys beyond leaf {leaf}"
                    )),
                },
                Extent::Share { range, .. } => {
                    if !bounds.touches(range) {
                        wrong.push(format!("file {name} has no keys in leaf {leaf}"));
                    }
                }
            }
            match state.files.get(name) {
                Some(live) if live.file == reference.file => {}
                Some(_) => wrong.push(format!("leaf {leaf} refers to another file {name}")),
                None => wrong.push(format!(
                    "leaf {leaf} refers to file {name}, which is not a live file"
                )),
            }
        }
    }
    for (name, live) in &state.files {
        let count = counts.get(name).copied().unwrap_or_default();
        if live.references != count || count == 0 {
            wrong.push(format!(
                "file {name} counts {} references and has {count}",
                live.references
            ));
        }
        if live.added > state.transaction {
            wrong.push(format!("file {name} was added in the future"));
        }
    }
}

fn check_files(state: &TableState, wrong: &mut Vec<String>) {
    for (name, garbage) in &state.garbage {
        if state.files.contains_key(name) {
            wrong.push(format!("file {name} is live and garbage"));
        }
        if state.tombstones.contains_key(name) {
            wrong.push(format!("file {name} is garbage and deleted"));
        }
        if garbage.removed > state.transaction || garbage.added.is_some_and(|added| added > garbage.removed) {
            wrong.push(format!(
                "file {name} was removed before it was added, or in the future"
            ));
        }
        if garbage.marked && garbage.added.is_some() && state.retained_from < garbage.removed {
            wrong.push(format!(
                "file {name} is marked, but states that need it can still be read"
            ));
        }
        if garbage.marked && state.is_pinned(garbage, state.at) {
            wrong.push(format!("file {name} is marked and pinned"));
        }
    }
    for name in state.tombstones.keys() {
        if state.files.contains_key(name) {
            wrong.push(format!("file {name} is live and deleted"));
        }
    }
}

fn check_leases_and_pins(state: &TableState, wrong: &mut Vec<String>) {
    for (leaf, name) in state.leases.keys() {
        if state.references.get(leaf).is_none_or(|at| !at.contains_key(name)) {
            wrong.push(format!(
                "file {name} is leased at {leaf}, but not referenced there"
            ));
        }
    }
    for (id, pin) in &state.pins {
        let live = state.at < pin.until.plus(CLOCK_SKEW_MARGIN);
        if live && pin.transaction.next() < state.floor {
            wrong.push(format!("pin {id} needs entries that the log no longer has"));
        }
        if pin.transaction > state.transaction {
            wrong.push(format!("pin {id} holds a state of the future"));
        }
    }
}

fn check_memories(state: &TableState, wrong: &mut Vec<String>) {
    let by_age: BTreeSet<_> = state
        .ledger
        .iter()
        .map(|(job, entry)| (entry.at, job.clone()))
        .collect();
    if !state.ledger_by_age.iter().eq(&by_age) {
        wrong.push("the ledger and its order by age differ".to_owned());
    }
    let by_age: BTreeSet<_> = state
        .tombstones
        .iter()
        .map(|(name, at)| (*at, name.clone()))
        .collect();
    if !state.tombstones_by_age.iter().eq(&by_age) {
        wrong.push("the names of deleted files and their order by age differ".to_owned());
    }
    let by_age: BTreeSet<_> = state
        .clearings
        .iter()
        .map(|(id, (at, _))| (*at, id.clone()))
        .collect();
    if !state.clearings_by_age.iter().eq(&by_age) {
        wrong.push("the clearings and their order by age differ".to_owned());
    }
    for (job, entry) in &state.ledger {
        if entry.transaction > state.transaction || entry.at > state.at {
            wrong.push(format!("job {job} committed in the future"));
        }
    }
    let ordered: BTreeSet<_> = state.recent_order.iter().collect();
    if state.recent_order.len() != state.recent.len()
        || state.recent_order.len() > RECENT_COMMITS
        || !state.recent.keys().eq(ordered)
    {
        wrong.push("the recent commits and their order differ".to_owned());
    }
    if state.floor > state.transaction || state.retained_from > state.transaction {
        wrong.push("history begins in the future".to_owned());
    }
}
