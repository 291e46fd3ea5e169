//! States that no log gives: each is found by the check of whole states, or by that of the commit that made it.

use std::{sync::Arc, time::Duration};

use super::{Invariant, change::Before, check};
use crate::{
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, PinId, RunId, TransactionNumber},
    key::{Key, KeyBounds, KeyRange, KeyValue},
    partition::tree_from_split_points,
    schema::{Column, DataType, Schema},
    state::{
        Commit, CommitId, Outcome, Record, TableState,
        table_state::{Extent, Garbage, Lease, Pin, RECENT_COMMITS, Reference, TableStatus},
        transaction::Split,
    },
    time::Timestamp,
};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fn key(value: i32) -> Key {
    Key::new([KeyValue::Int32(value)])
}

pub(super) fn id(text: &str) -> PartitionId {
    PartitionId::new(text).unwrap()
}

pub(super) fn name(number: u128) -> FileName {
    FileName::new(&PartitionId::root(), uuid::Uuid::from_u128(number))
}

fn file(number: u128, parts: &[(i32, i32, u64)]) -> Arc<DataFile> {
    Arc::new(DataFile {
        name: name(number),
        rows: parts.iter().map(|part| part.2).sum(),
        bytes: 10,
        checksum: Checksum(1),
        parts: parts
            .iter()
            .map(|(min, max, rows)| FilePart {
                range: KeyRange {
                    min: key(*min),
                    max: key(*max),
                },
                rows: *rows,
                digest: RowDigest(1),
            })
            .collect(),
    })
}

pub(super) fn added(number: u128, parts: &[(i32, i32, u64)]) -> Record {
    Record::FilesAdded {
        job: JobId::new(format!("job-{number}")).unwrap(),
        run: RunId::new("run").unwrap(),
        issued: NOW,
        files: vec![file(number, parts)],
    }
}

pub(super) fn commit(record: Record) -> Commit {
    Commit::new(CommitId::new(format!("{record:?}")), record)
}

fn apply(state: &mut TableState, record: Record) {
    let commit = commit(record);
    let outcomes = state.apply(state.transaction.next(), NOW, [&commit]);
    assert!(matches!(outcomes[..], [Outcome::Applied(_)]), "{outcomes:?}");
}

/// Leaves `p1` and `p2`, cut at 10; file 1 in both, file 2 in the first, file 3 cleared away and so garbage.
pub(super) fn sample() -> TableState {
    let mut state = TableState::default();
    let column = Column::required("id", DataType::Int32);
    let schema = Arc::new(Schema::new(vec![column], vec![], vec![]).unwrap());
    let mut next = 0;
    let partitions = tree_from_split_points(&[key(10)], || {
        next += 1;
        id(&format!("p{next}"))
    })
    .unwrap();
    apply(&mut state, Record::TableCreated { schema, partitions });
    apply(&mut state, added(3, &[(1, 2, 2)]));
    apply(&mut state, Record::TableCleared);
    apply(&mut state, added(1, &[(1, 5, 4), (12, 15, 2)]));
    apply(&mut state, added(2, &[(2, 8, 5)]));
    assert_eq!(check(&state), []);
    state
}

fn split() -> Record {
    Record::PartitionSplit(Split {
        partition: id("p1"),
        at: key(4),
        left: id("l"),
        right: id("r"),
    })
}

fn change_reference(state: &mut TableState, leaf: &str, number: u128, extent: Option<Extent>) {
    let at_leaf = state.references.get_mut(&id(leaf)).unwrap();
    let reference = at_leaf.remove(&name(number)).unwrap();
    if let Some(extent) = extent {
        at_leaf.insert(name(number), Reference { extent, ..reference });
    }
}

fn share(min: i32, max: i32, rows: u64) -> Option<Extent> {
    let range = KeyRange {
        min: key(min),
        max: key(max),
    };
    Some(Extent::Share { range, rows })
}

type Corruption = fn(&mut TableState);

#[test]
fn every_corruption_of_a_state_is_found() {
    let corruptions: &[(Invariant, Corruption)] = &[
        (Invariant::PartitionTree, |state| {
            state.leaves.remove(&Some(key(10)));
        }),
        (Invariant::PartitionTree, |state| {
            let mut leaf = (**state.partitions.get(&id("p2")).unwrap()).clone();
            leaf.bounds.lower = Some(key(11));
            state.partitions.insert(id("p2"), Arc::new(leaf));
        }),
        (Invariant::PartitionTree, |state| {
            state.partitions.remove(&id("p2"));
        }),
        (Invariant::PartitionTree, |state| {
            change_reference(state, "p1", 1, None)
        }),
        (Invariant::PartitionTree, |state| {
            change_reference(state, "p1", 1, Some(Extent::Part(1)));
        }),
        (Invariant::PartitionTree, |state| {
            change_reference(state, "p1", 1, Some(Extent::Part(9)));
        }),
        (Invariant::PartitionTree, |state| {
            change_reference(state, "p2", 1, share(1, 5, 2));
        }),
        (Invariant::PartitionTree, |state| {
            change_reference(state, "p1", 1, share(2, 5, 2));
        }),
        (Invariant::Rows, |state| {
            change_reference(state, "p1", 1, share(1, 15, 5));
        }),
        (Invariant::PartitionTree, |state| {
            state.files.get_mut(&name(1)).unwrap().references = 1;
        }),
        (Invariant::PartitionTree, |state| {
            state.files.remove(&name(2));
        }),
        (Invariant::Log, |state| {
            state.files.get_mut(&name(2)).unwrap().added = TransactionNumber(99);
        }),
        (Invariant::Files, |state| {
            let garbage: Garbage = state.garbage.get(&name(3)).unwrap().clone();
            state.garbage.insert(name(2), garbage);
        }),
        (Invariant::Files, |state| {
            state.garbage.get_mut(&name(3)).unwrap().marked = true;
        }),
        (Invariant::Immutable, |state| {
            state.tombstones.insert(name(3), NOW);
            state.tombstones_by_age.insert((NOW, name(3)));
        }),
        (Invariant::Files, |state| {
            state.tombstones.insert(name(2), NOW);
            state.tombstones_by_age.insert((NOW, name(2)));
        }),
        (Invariant::Fencing, |state| {
            let lease = Lease {
                job: JobId::new("gone").unwrap(),
                until: NOW,
            };
            state.leases.insert((id("p1"), name(3)), lease);
        }),
        (Invariant::SnapshotRead, |state| {
            let pin = Pin {
                transaction: TransactionNumber(99),
                until: NOW,
            };
            state.pins.insert(PinId::new("pin").unwrap(), pin);
        }),
        (Invariant::Once, |state| state.ledger_by_age.clear()),
        (Invariant::Once, |state| {
            state.recent_order.pop_front();
        }),
        (Invariant::Once, |state| state.clearings_by_age.clear()),
        (Invariant::Log, |state| state.floor = TransactionNumber(99)),
        (Invariant::Log, |state| {
            state.retained_from = TransactionNumber(99)
        }),
        (Invariant::Log, |state| {
            state.garbage.get_mut(&name(3)).unwrap().removed = TransactionNumber(99);
        }),
        (Invariant::Log, |state| {
            state.garbage.get_mut(&name(3)).unwrap().added = Some(TransactionNumber(4));
        }),
        (Invariant::Once, |state| {
            let entry = state.ledger.get_mut(&JobId::new("job-1").unwrap()).unwrap();
            entry.transaction = TransactionNumber(99);
        }),
        (Invariant::Once, |state| {
            let job = JobId::new("job-1").unwrap();
            let entry = state.ledger.get_mut(&job).unwrap();
            entry.at = NOW.plus(Duration::from_millis(1));
            state.ledger_by_age.remove(&(NOW, job.clone()));
            state.ledger_by_age.insert((entry.at, job));
        }),
        (Invariant::Once, |state| {
            let again = state.recent_order[0].clone();
            state.recent_order.push_back(again);
        }),
        (Invariant::Once, |state| {
            state.recent_order.set(0, CommitId::new("another"));
        }),
        (Invariant::Once, |state| {
            for number in 0..=RECENT_COMMITS {
                let id = CommitId::new(format!("commit-{number}"));
                state.recent.insert(id.clone(), state.transaction);
                state.recent_order.push_back(id);
            }
        }),
    ];
    for (i, (invariant, corrupt)) in corruptions.iter().enumerate() {
        let mut state = sample();
        corrupt(&mut state);
        let found = check(&state);
        assert!(
            found.iter().any(|violation| violation.invariant == *invariant),
            "corruption {i}: {found:?}"
        );
    }
}

/// Puts another file under the name of one, wherever the state has it.
fn change_file(state: &mut TableState, number: u128, change: impl Fn(&mut DataFile)) {
    let mut file = (*state.files[&name(number)].file).clone();
    change(&mut file);
    let file = Arc::new(file);
    state.files.get_mut(&name(number)).unwrap().file = file.clone();
    let leaves: Vec<_> = state.references.keys().cloned().collect();
    for leaf in leaves {
        if let Some(reference) = state.references.get_mut(&leaf).unwrap().get_mut(&name(number)) {
            reference.file = file.clone();
        }
    }
}

/// Moves the edges of a partition, and the index of leaves with them.
fn move_edges(state: &mut TableState, partition: &str, lower: Option<i32>, upper: Option<i32>) {
    let partition = id(partition);
    let mut moved = (*state.partitions[&partition]).clone();
    if state.leaves.get(&moved.bounds.lower) == Some(&partition) {
        state.leaves.remove(&moved.bounds.lower);
        state.leaves.insert(lower.map(key), partition.clone());
    }
    moved.bounds = KeyBounds {
        lower: lower.map(key),
        upper: upper.map(key),
    };
    state.partitions.insert(partition, Arc::new(moved));
}

#[test]
fn what_is_wrong_with_leaves_and_files_is_told() {
    let corruptions: &[(&str, Corruption)] = &[
        ("it does not begin where the one before it ends", |state| {
            move_edges(state, "p2", Some(11), None);
        }),
        ("it does not begin where the one before it ends", |state| {
            move_edges(state, "p1", None, None);
            move_edges(state, "p2", None, None);
        }),
        ("they do not reach the end of the key space", |state| {
            move_edges(state, "p2", Some(10), Some(20));
        }),
        ("they do not reach the end of the key space", |state| {
            state.partitions.clear();
        }),
        (
            "it was never created, and has a schema, partitions or files",
            |state| {
                state.status = TableStatus::Absent;
            },
        ),
        (
            "it was never created, and has a schema, partitions or files",
            |state| {
                *state = TableState {
                    schema: state.schema.clone(),
                    ..TableState::default()
                };
            },
        ),
        (
            "it was never created, and has a schema, partitions or files",
            |state| {
                *state = TableState {
                    partitions: state.partitions.clone(),
                    ..TableState::default()
                };
            },
        ),
        (
            "it was never created, and has a schema, partitions or files",
            |state| {
                *state = TableState {
                    files: state.files.clone(),
                    ..TableState::default()
                };
            },
        ),
        ("the reference is to another file of this name", |state| {
            let mut other = (*file(2, &[(2, 8, 5)])).clone();
            other.bytes = 11;
            let at_leaf = state.references.get_mut(&id("p1")).unwrap();
            at_leaf.get_mut(&name(2)).unwrap().file = Arc::new(other);
        }),
        ("it has 6 rows, and its parts Some(5)", |state| {
            change_file(state, 2, |file| file.rows = 6);
        }),
        (
            "its parts overlap, are out of order, or there are none",
            |state| {
                change_file(state, 2, |file| file.parts.clear());
            },
        ),
        (
            "its parts overlap, are out of order, or there are none",
            |state| {
                change_file(state, 1, |file| file.parts[1].range.min = key(5));
            },
        ),
        (
            "its parts overlap, are out of order, or there are none",
            |state| {
                change_file(state, 2, |file| file.parts[0].range.min = key(9));
            },
        ),
    ];
    for (i, (told, corrupt)) in corruptions.iter().enumerate() {
        let mut state = sample();
        corrupt(&mut state);
        let found = check(&state);
        assert!(
            found.iter().any(|violation| violation.found == *told),
            "corruption {i}: {found:?}"
        );
    }
}

#[test]
fn what_comes_and_goes_within_one_transaction_leaves_a_sound_state() {
    let mut state = sample();
    let commits = [
        added(4, &[(1, 2, 3)]),
        Record::TableCleared,
        Record::GarbageMarked {
            files: vec![name(1), name(4)],
        },
        Record::HistoryTruncated {
            floor: state.transaction.next(),
        },
    ]
    .map(|record| Commit::new(CommitId::new(record.type_name()), record));
    state.begin(state.transaction.next(), NOW);
    for commit in &commits {
        let before = Before::of(&state, commit);
        let (outcome, changed) = state.apply_commit(commit);
        assert!(changed, "{outcome:?}");
        assert_eq!(before.check(&state, commit, (&outcome, changed)), Ok(()));
    }
    assert_eq!(check(&state), []);
    assert_eq!(
        (state.retained_from, state.floor),
        (state.transaction, state.transaction)
    );
}

#[test]
fn a_commit_whose_effect_is_wrong_is_not_let_through() {
    let leave_a_file: Corruption = |state| {
        state.files.insert(name(1), sample().files[&name(1)].clone());
    };
    let wrong: &[(Record, Invariant, Corruption)] = &[
        (
            added(4, &[(3, 4, 7), (20, 30, 2)]),
            Invariant::PartitionTree,
            |state| {
                change_reference(state, "p2", 4, None);
            },
        ),
        (added(4, &[(3, 4, 7)]), Invariant::Rows, |state| {
            change_reference(state, "p1", 4, share(3, 4, 6));
        }),
        (added(4, &[(3, 4, 7)]), Invariant::PartitionTree, |state| {
            state.files.get_mut(&name(4)).unwrap().references = 2;
        }),
        (added(4, &[(3, 4, 7)]), Invariant::Once, |state| {
            state.ledger.clear()
        }),
        (added(4, &[(3, 4, 7)]), Invariant::Once, |state| {
            let entry = state.ledger.get_mut(&JobId::new("job-4").unwrap()).unwrap();
            entry.transaction = TransactionNumber(1);
        }),
        (added(4, &[(3, 4, 7)]), Invariant::Log, |state| {
            state.retained_from = TransactionNumber(0);
            state.floor = TransactionNumber(0);
        }),
        (split(), Invariant::Rows, |state| {
            change_reference(state, "l", 1, None)
        }),
        (split(), Invariant::Rows, |state| {
            change_reference(state, "r", 2, share(2, 8, 9));
        }),
        (split(), Invariant::PartitionTree, |state| {
            state.leaves.remove(&Some(key(4)));
        }),
        (split(), Invariant::PartitionTree, |state| {
            let mut leaf = (**state.partitions.get(&id("r")).unwrap()).clone();
            leaf.bounds.lower = Some(key(5));
            state.partitions.insert(id("r"), Arc::new(leaf));
        }),
        (Record::TableCleared, Invariant::Files, leave_a_file),
        (Record::TableDeleted, Invariant::Files, leave_a_file),
        (
            Record::GarbageMarked { files: vec![name(3)] },
            Invariant::Files,
            |state| state.retained_from = TransactionNumber(1),
        ),
    ];
    for (i, (record, invariant, corrupt)) in wrong.iter().enumerate() {
        refuses(sample(), record, *invariant, *corrupt, &format!("change {i}"));
    }
}

/// That the effect of a record on a state is let through, and not when it is corrupted.
fn refuses(mut state: TableState, record: &Record, invariant: Invariant, corrupt: Corruption, what: &str) {
    state.begin(state.transaction.next(), NOW);
    let commit = Commit::new(CommitId::new(what), record.clone());
    let before = Before::of(&state, &commit);
    let (outcome, changed) = state.apply_commit(&commit);
    assert!(changed, "{what}: {outcome:?}");
    assert_eq!(
        before.check(&state, &commit, (&outcome, changed)),
        Ok(()),
        "{what}"
    );
    corrupt(&mut state);
    let violation = before.check(&state, &commit, (&outcome, changed)).unwrap_err();
    assert_eq!(violation.invariant, invariant, "{what}: {violation}");
}

#[test]
fn history_does_not_go_back() {
    let mut state = sample();
    apply(&mut state, Record::GarbageMarked { files: vec![name(3)] });
    let floor = state.transaction;
    apply(&mut state, Record::HistoryTruncated { floor });
    let back: [Corruption; 4] = [
        |state| state.floor = TransactionNumber(1),
        |state| state.retained_from = TransactionNumber(1),
        |state| state.forgotten = Timestamp::from_millis(-1),
        |state| state.floor = state.transaction.next(),
    ];
    for (i, corrupt) in back.into_iter().enumerate() {
        let record = added(4, &[(3, 4, 7)]);
        refuses(
            state.clone(),
            &record,
            Invariant::Log,
            corrupt,
            &format!("change {i}"),
        );
    }
}

#[test]
fn a_table_begins_with_leaves_and_is_there() {
    let record = || Record::TableCreated {
        schema: sample().schema.unwrap(),
        partitions: sample().partitions.values().map(|p| (**p).clone()).collect(),
    };
    let unsound: [Corruption; 2] = [
        |state| state.leaves.clear(),
        |state| state.status = TableStatus::Deleted,
    ];
    for corrupt in unsound {
        let state = TableState::default();
        refuses(state, &record(), Invariant::PartitionTree, corrupt, "create");
    }
}

#[test]
fn children_of_a_split_tile_their_parent() {
    let torn: [Corruption; 6] = [
        |state| move_edges(state, "l", Some(-5), Some(4)),
        |state| move_edges(state, "l", None, Some(3)),
        |state| move_edges(state, "r", Some(5), Some(10)),
        |state| move_edges(state, "r", Some(4), Some(9)),
        |state| {
            let mut parent = (*state.partitions[&id("p1")]).clone();
            parent.children = None;
            state.partitions.insert(id("p1"), Arc::new(parent));
        },
        |state| {
            state.leaves.remove(&None);
        },
    ];
    let extended = match split() {
        Record::PartitionSplit(split) => Record::PartitionTreeExtended { splits: vec![split] },
        other => other,
    };
    for (i, corrupt) in torn.into_iter().enumerate() {
        for record in [split(), extended.clone()] {
            let what = format!("{} {i}", record.type_name());
            refuses(sample(), &record, Invariant::PartitionTree, corrupt, &what);
        }
    }
    let lose_rows: Corruption = |state| change_reference(state, "l", 1, None);
    refuses(sample(), &extended, Invariant::Rows, lose_rows, "extend");
}

fn make_live(state: &mut TableState, number: u128) {
    let mut live = sample().files[&name(2)].clone();
    live.file = file(number, &[(2, 8, 5)]);
    state.files.insert(name(number), live);
}

fn make_garbage(state: &mut TableState, number: u128) {
    let garbage = sample().garbage[&name(3)].clone();
    state.garbage.insert(name(number), garbage);
}

#[test]
fn files_are_deleted_that_nobody_needs() {
    let marking = Record::GarbageMarked { files: vec![name(3)] };
    let needed: [Corruption; 2] = [
        |state| make_live(state, 3),
        |state| {
            let pin = Pin {
                transaction: TransactionNumber(2),
                until: NOW.plus(Duration::from_secs(60)),
            };
            state.pins.insert(PinId::new("pin").unwrap(), pin);
        },
    ];
    for corrupt in needed {
        refuses(sample(), &marking, Invariant::Files, corrupt, "mark");
    }
    let mut marked = sample();
    apply(&mut marked, marking);
    let deletion = Record::FilesDeleted { files: vec![name(3)] };
    let known: [Corruption; 2] = [|state| make_live(state, 3), |state| make_garbage(state, 3)];
    for corrupt in known {
        refuses(marked.clone(), &deletion, Invariant::Files, corrupt, "delete");
    }
}

#[test]
fn a_table_that_was_cleared_or_restored_has_its_files_and_no_others() {
    let left: [Corruption; 3] = [
        |state| make_live(state, 1),
        |state| state.references = sample().references,
        |state| {
            let lease = Lease {
                job: JobId::new("job").unwrap(),
                until: NOW,
            };
            state.leases.insert((id("p1"), name(1)), lease);
        },
    ];
    for corrupt in left {
        refuses(
            sample(),
            &Record::TableCleared,
            Invariant::Files,
            corrupt,
            "clear",
        );
    }
    let restored = Record::TableRestored {
        of: sample().transaction,
        files: sample().to_restore(),
    };
    let other_files: Corruption = |state| make_live(state, 9);
    refuses(sample(), &restored, Invariant::Files, other_files, "restore");
    let miscounted: [Corruption; 3] = [
        |state| state.files.get_mut(&name(1)).unwrap().references = 1,
        |state| make_garbage(state, 1),
        |state| {
            state.files.get_mut(&name(2)).unwrap().references = 0;
            change_reference(state, "p1", 2, None);
        },
    ];
    for corrupt in miscounted {
        refuses(sample(), &restored, Invariant::PartitionTree, corrupt, "restore");
    }
}

#[test]
fn a_compaction_whose_inputs_stay_or_are_lost_is_not_let_through() {
    let mut state = sample();
    let (job, leaf) = (JobId::new("c").unwrap(), id("p1"));
    apply(
        &mut state,
        Record::CompactionAssigned {
            job: job.clone(),
            partition: leaf.clone(),
            inputs: vec![name(1), name(2)],
            until: NOW,
        },
    );
    state.begin(state.transaction.next(), NOW);
    let commit = commit(Record::CompactionCommitted {
        job,
        run: RunId::new("run").unwrap(),
        issued: NOW,
        partition: leaf.clone(),
        inputs: vec![name(1), name(2)],
        output: Some(file(5, &[(1, 8, 9)])),
    });
    let before = Before::of(&state, &commit);
    let (outcome, changed) = state.apply_commit(&commit);
    assert_eq!(before.check(&state, &commit, (&outcome, changed)), Ok(()));
    let sound = state.clone();
    let wrong: [Corruption; 3] = [
        |state| {
            let reference = sample().references[&id("p1")][&name(2)].clone();
            let at_leaf = state.references.get_mut(&id("p1")).unwrap();
            at_leaf.insert(name(2), reference);
        },
        |state| {
            state.garbage.remove(&name(2));
        },
        |state| state.files.get_mut(&name(1)).unwrap().references = 2,
    ];
    for corrupt in wrong {
        let mut state = sound.clone();
        corrupt(&mut state);
        let violation = before.check(&state, &commit, (&outcome, changed)).unwrap_err();
        assert_eq!(violation.invariant, Invariant::PartitionTree);
    }
}
