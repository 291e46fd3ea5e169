//! What a state remembers: garbage and deleted names, leases and pins, the ledger, history.

use std::collections::BTreeSet;

use super::{
    super::{
        TableState,
        table_state::{CLOCK_SKEW_MARGIN, RECENT_COMMITS},
    },
    Invariant,
    shape::Wrong,
};

pub(super) fn check_files(state: &TableState, wrong: &mut Wrong) {
    for (name, garbage) in &state.garbage {
        let place = format!("file {name}");
        if state.files.contains_key(name) {
            wrong.add(Invariant::Files, &place, "it is live and garbage");
        }
        if state.tombstones.contains_key(name) {
            wrong.add(Invariant::Immutable, &place, "it is garbage and deleted");
        }
        if garbage.removed > state.transaction || garbage.added.is_some_and(|added| added > garbage.removed) {
            wrong.add(
                Invariant::Log,
                &place,
                "it was removed before it was added, or in the future",
            );
        }
        if garbage.marked && garbage.added.is_some() && state.retained_from < garbage.removed {
            wrong.add(
                Invariant::Files,
                &place,
                "it is marked for deletion, and states that need it can still be read",
            );
        }
        if garbage.marked && state.is_pinned(garbage, state.at) {
            wrong.add(Invariant::Files, &place, "it is marked for deletion, and pinned");
        }
    }
    for name in state.tombstones.keys() {
        if state.files.contains_key(name) {
            wrong.add(Invariant::Files, format!("file {name}"), "it is live and deleted");
        }
    }
}

pub(super) fn check_leases_and_pins(state: &TableState, wrong: &mut Wrong) {
    for (leaf, name) in state.leases.keys() {
        if state.references.get(leaf).is_none_or(|at| !at.contains_key(name)) {
            wrong.add(
                Invariant::Fencing,
                format!("file {name} at leaf {leaf}"),
                "it is leased, and not referenced",
            );
        }
    }
    for leaf in state.kept.keys() {
        if state.leaf(leaf).is_none() {
            wrong.add(
                Invariant::PartitionTree,
                format!("partition {leaf}"),
                "it was kept from splitting, and is no leaf",
            );
        }
    }
    for (id, pin) in &state.pins {
        let place = format!("pin {id}");
        let live = state.at < pin.until.plus(CLOCK_SKEW_MARGIN);
        if live && pin.transaction.next() < state.floor {
            wrong.add(
                Invariant::SnapshotRead,
                &place,
                "it needs entries that the log no longer has",
            );
        }
        if pin.transaction > state.transaction {
            wrong.add(Invariant::SnapshotRead, &place, "it holds a state of the future");
        }
    }
}

pub(super) fn check_memories(state: &TableState, wrong: &mut Wrong) {
    let by_age: BTreeSet<_> = state
        .ledger
        .iter()
        .map(|(job, entry)| (entry.at, job.clone()))
        .collect();
    if !state.ledger_by_age.iter().eq(&by_age) {
        wrong.add(Invariant::Once, "the ledger", "its order by age is another");
    }
    let by_age: BTreeSet<_> = state
        .tombstones
        .iter()
        .map(|(name, at)| (*at, name.clone()))
        .collect();
    if !state.tombstones_by_age.iter().eq(&by_age) {
        wrong.add(
            Invariant::Immutable,
            "the names of deleted files",
            "their order by age is another",
        );
    }
    let by_age: BTreeSet<_> = state
        .clearings
        .iter()
        .map(|(id, (at, _))| (*at, id.clone()))
        .collect();
    if !state.clearings_by_age.iter().eq(&by_age) {
        wrong.add(Invariant::Once, "the clearings", "their order by age is another");
    }
    for (job, entry) in &state.ledger {
        if entry.transaction > state.transaction || entry.at > state.at {
            wrong.add(
                Invariant::Once,
                format!("job {job}"),
                "it committed in the future",
            );
        }
    }
    let ordered: BTreeSet<_> = state.recent_order.iter().collect();
    if state.recent_order.len() != state.recent.len()
        || state.recent_order.len() > RECENT_COMMITS
        || !state.recent.keys().eq(ordered)
    {
        wrong.add(Invariant::Once, "the recent commits", "their order is of others");
    }
    if state.floor > state.transaction || state.retained_from > state.transaction {
        wrong.add(Invariant::Log, "history", "it begins in the future");
    }
}
