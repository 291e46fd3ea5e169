//! States that no log gives: each is found by the check of whole states, or by that of the commit that made it.

use std::sync::Arc;

use super::{Invariant, change::Before, check};
use crate::{
    file::{Checksum, DataFile, FilePart, RowDigest},
    ids::{FileName, JobId, PartitionId, RunId, TransactionNumber},
    key::{Key, KeyRange, KeyValue},
    partition::tree_from_split_points,
    schema::{Column, DataType, Schema},
    state::{
        Commit, CommitId, Outcome, Record, TableState,
        table_state::{Extent, Garbage, Lease, Reference},
        transaction::Split,
    },
    time::Timestamp,
};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fn key(value: i32) -> Key {
    Key::new([KeyValue::Int32(value)])
}

fn id(text: &str) -> PartitionId {
    PartitionId::new(text).unwrap()
}

fn name(number: u128) -> FileName {
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

fn added(number: u128, parts: &[(i32, i32, u64)]) -> Record {
    Record::FilesAdded {
        job: JobId::new(format!("job-{number}")).unwrap(),
        run: RunId::new("run").unwrap(),
        issued: NOW,
        files: vec![file(number, parts)],
    }
}

fn commit(record: Record) -> Commit {
    Commit::new(CommitId::new(format!("{record:?}")), record)
}

fn apply(state: &mut TableState, record: Record) {
    let commit = commit(record);
    let outcomes = state.apply(state.transaction.next(), NOW, [&commit]);
    assert!(matches!(outcomes[..], [Outcome::Applied(_)]), "{outcomes:?}");
}

/// Leaves `p1` and `p2`, cut at 10; file 1 in both, file 2 in the first, file 3 cleared away and so garbage.
fn sample() -> TableState {
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
            let pin = crate::state::table_state::Pin {
                transaction: TransactionNumber(99),
                until: NOW,
            };
            state.pins.insert(crate::ids::PinId::new("pin").unwrap(), pin);
        }),
        (Invariant::Once, |state| state.ledger_by_age.clear()),
        (Invariant::Once, |state| {
            state.recent_order.pop_front();
        }),
        (Invariant::Once, |state| state.clearings_by_age.clear()),
        (Invariant::Log, |state| state.floor = TransactionNumber(99)),
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
        let mut state = sample();
        state.begin(state.transaction.next(), NOW);
        let commit = Commit::new(CommitId::new(format!("change {i}")), record.clone());
        let before = Before::of(&state, &commit);
        let (outcome, changed) = state.apply_commit(&commit);
        assert!(changed, "{outcome:?}");
        assert_eq!(
            before.check(&state, &commit, (&outcome, changed)),
            Ok(()),
            "change {i}"
        );
        corrupt(&mut state);
        let violation = before.check(&state, &commit, (&outcome, changed)).unwrap_err();
        assert_eq!(violation.invariant, *invariant, "change {i}: {violation}");
    }
}

#[test]
fn a_compaction_whose_input_stays_is_not_let_through() {
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
    let untouched = state.references[&leaf].clone();
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
    let reference = untouched[&name(2)].clone();
    state
        .references
        .get_mut(&leaf)
        .unwrap()
        .insert(name(2), reference);
    let violation = before.check(&state, &commit, (&outcome, changed)).unwrap_err();
    assert_eq!(violation.invariant, Invariant::PartitionTree);
}
