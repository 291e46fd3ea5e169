//! What each record does to the state, and when it is refused.

use std::sync::Arc;

use dormouse_core::{
    file::DataFile,
    ids::TransactionNumber,
    key::KeyBounds,
    partition::Partition,
    state::{
        Commit, CommitId, Outcome, Record, TableState, invariants,
        table_state::{RECENT_COMMITS, TableStatus},
        transaction::RestoredFile,
    },
};

use crate::samples::*;

fn number(number: u64) -> TransactionNumber {
    TransactionNumber(number)
}

#[test]
fn a_table_begins_once() {
    let mut fold = Fold::empty();
    assert_eq!(
        fold.refused(added("j", &[])),
        "NotFound: the table does not exist"
    );
    fold.ok(created(&[10, 20]));
    assert_eq!(fold.state.status(), TableStatus::Live);
    assert_eq!(fold.state.leaf_count(), 3);
    assert_eq!(fold.state.floor(), number(2));
    assert_eq!(
        fold.refused(created(&[])),
        "AlreadyExists: the table exists already"
    );
}

#[test]
fn a_tree_that_does_not_cover_the_key_space_makes_no_table() {
    let leaf = |text: &str, lower: Option<i32>, upper: Option<i32>| Partition {
        id: id(text),
        parent: None,
        children: None,
        bounds: KeyBounds {
            lower: lower.map(key),
            upper: upper.map(key),
        },
    };
    let with = |change: &dyn Fn(&mut Vec<Partition>)| {
        let mut partitions = tree(&[10, 20]);
        change(&mut partitions);
        partitions
    };
    let trees = [
        (vec![], "no leaf"),
        (vec![leaf("a", None, Some(5))], "has no parent, but bounds"),
        (
            vec![leaf("a", None, Some(5)), leaf("b", Some(5), None)],
            "has no parent, but bounds",
        ),
        (vec![leaf("a", None, None), leaf("a", None, None)], "share an id"),
        (
            with(&|tree| {
                let twin = Partition {
                    bounds: KeyBounds {
                        lower: Some(key(15)),
                        upper: Some(key(16)),
                    },
                    ..tree.iter().find(|node| node.is_leaf()).cloned().unwrap()
                };
                tree.insert(0, twin);
            }),
            "share an id",
        ),
        (with(&|tree| drop(tree.pop())), "child that is not there"),
        (
            with(&|tree| tree[1].bounds.upper = Some(key(11))),
            "do not cover it",
        ),
        (with(&|tree| tree[1].parent = None), "do not cover it"),
        (with(&|tree| tree[1].parent = Some(id("p2"))), "do not cover it"),
        (
            with(&|tree| {
                let extra = leaf("x", Some(30), Some(40));
                tree.push(Partition {
                    parent: Some(id("p1")),
                    ..extra
                });
            }),
            "is not a child of its parent",
        ),
        (
            with(&|tree| {
                let text = dormouse_core::key::Key::new([dormouse_core::key::KeyValue::Utf8("x".into())]);
                for partition in tree.iter_mut() {
                    for bound in [&mut partition.bounds.lower, &mut partition.bounds.upper] {
                        if *bound == Some(key(20)) {
                            *bound = Some(text.clone());
                        }
                    }
                }
            }),
            "does not fit row key column",
        ),
    ];
    for (partitions, reason) in trees {
        let mut fold = Fold::empty();
        let refusal = fold.refused(Record::TableCreated {
            schema: schema(),
            partitions,
        });
        assert!(
            refusal.starts_with("Invalid: ") && refusal.contains(reason),
            "{refusal}"
        );
    }
}

#[test]
fn a_tree_whose_partitions_go_round_in_a_circle_makes_no_table() {
    let node = |text: &str, parent: &str, children: [&str; 2], lower: i32, upper: i32| Partition {
        id: id(text),
        parent: Some(id(parent)),
        children: Some(children.map(id)),
        bounds: KeyBounds {
            lower: Some(key(lower)),
            upper: Some(key(upper)),
        },
    };
    let leaf = |text: &str, parent: &str, lower: i32, upper: i32| Partition {
        children: None,
        ..node(text, parent, ["-", "-"], lower, upper)
    };
    let mut partitions = tree(&[]);
    partitions.extend([
        node("a", "b", ["b", "x"], 1, 1),
        node("b", "a", ["a", "y"], 1, 1),
        leaf("x", "a", 1, 1),
        leaf("y", "b", 1, 1),
    ]);
    let refusal = Fold::empty().refused(Record::TableCreated {
        schema: schema(),
        partitions,
    });
    assert!(refusal.starts_with("Invalid: "), "{refusal}");
}

#[test]
fn a_split_moves_references_to_the_children_that_they_touch() {
    let mut fold = Fold::with_table(&[]);
    let files = [
        file("low", &[(1, 4, 40)]),
        file("both", &[(3, 7, 5)]),
        file("high", &[(5, 9, 7)]),
    ];
    fold.ok(added("j", &files));
    fold.ok(Record::PartitionSplit(split("root", 5, "l", "r")));
    let mut left = vec![(name("low"), 40), (name("both"), 3)];
    left.sort();
    assert_eq!(fold.at_leaf("l"), left);
    let mut right = vec![(name("both"), 2), (name("high"), 7)];
    right.sort();
    assert_eq!(fold.at_leaf("r"), right);
    assert_eq!(fold.at_leaf("root"), []);
    assert_eq!(
        (
            fold.state.rows(),
            fold.state.reference_count(),
            fold.state.file_count()
        ),
        (52, 4, 3)
    );
    let whole = |text: &str, leaf: &str| {
        let mut references = fold.state.references(&id(leaf));
        let reference = references
            .find(|reference| reference.file.name == name(text))
            .unwrap();
        (reference.is_whole_file(), reference.exact().map(|(rows, _)| rows))
    };
    assert_eq!(whole("low", "l"), (true, Some(40)));
    assert_eq!(whole("both", "l"), (false, None));

    fold.ok(Record::PartitionSplit(split("r", 8, "rl", "rr")));
    assert_eq!(fold.state.rows(), 52);
    assert_eq!(
        fold.state.files().map(|(_, references)| references).sum::<u32>(),
        5
    );
}

#[test]
fn a_split_of_what_is_no_leaf_or_at_no_inner_key_is_refused() {
    let mut fold = Fold::with_table(&[10, 20]);
    assert_eq!(
        fold.refused(Record::PartitionSplit(split("root", 15, "a", "b"))),
        "Conflict: partition root is not a leaf"
    );
    assert_eq!(
        fold.refused(Record::PartitionSplit(split("nowhere", 15, "a", "b"))),
        "Conflict: partition nowhere is not a leaf"
    );
    let middle = fold.state.leaves().nth(1).unwrap().id;
    for (point, reason) in [
        (10, "strictly inside"),
        (20, "strictly inside"),
        (9, "strictly inside"),
    ] {
        let refusal = fold.refused(Record::PartitionSplit(split(middle.as_str(), point, "a", "b")));
        assert!(
            refusal.starts_with("Invalid: ") && refusal.contains(reason),
            "{refusal}"
        );
    }
    let refusal = fold.refused(Record::PartitionSplit(split(middle.as_str(), 15, "root", "b")));
    assert_eq!(refusal, "Conflict: partition root or b exists already");
    let refusal = fold.refused(Record::PartitionSplit(split(middle.as_str(), 15, "b", "b")));
    assert_eq!(refusal, "Conflict: partition b or b exists already");
    let mut wrong_type = split(middle.as_str(), 15, "a", "b");
    wrong_type.at = dormouse_core::key::Key::new([]);
    assert!(
        fold.refused(Record::PartitionSplit(wrong_type))
            .contains("has 0 values")
    );
}

#[test]
fn a_split_that_comes_again_is_answered_as_it_is() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(Record::PartitionSplit(split("root", 5, "l", "r")));
    let before = fold.state.partitions().count();
    fold.ok(Record::PartitionSplit(split("root", 5, "l", "r")));
    assert_eq!(fold.state.partitions().count(), before);
    // Another split, although each of its names and its point were once used for something.
    fold.ok(Record::PartitionSplit(split("r", 7, "rl", "rr")));
    fold.refused(Record::PartitionSplit(split("root", 5, "l", "rl")));
    let refusal = fold.refused(Record::PartitionSplit(split("root", 6, "l", "r")));
    assert_eq!(refusal, "Conflict: partition root is not a leaf");
}

#[test]
fn many_splits_happen_together_or_not_at_all() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(0, 100, 8)])]));
    let good = vec![split("root", 50, "l", "r"), split("l", 25, "ll", "lr")];
    let mut bad = good.clone();
    bad.push(split("root", 75, "x", "y"));
    let refusal = fold.refused(Record::PartitionTreeExtended { splits: bad });
    assert_eq!(refusal, "Conflict: partition root is not a leaf");
    fold.ok(Record::PartitionTreeExtended { splits: good.clone() });
    assert_eq!(fold.state.leaf_count(), 3);
    assert_eq!((fold.state.reference_count(), fold.state.rows()), (3, 8));
    fold.ok(Record::PartitionTreeExtended { splits: good });
    fold.ok(Record::PartitionTreeExtended { splits: vec![] });
    assert_eq!(fold.state.leaf_count(), 3);
}

#[test]
fn files_are_referenced_at_the_leaves_of_the_moment() {
    let mut fold = Fold::with_table(&[10, 20]);
    let two_parts_one_leaf = file("two", &[(1, 2, 10), (5, 6, 11)]);
    let three_leaves = file("three", &[(5, 25, 8)]);
    let cut = file("cut", &[(1, 9, 3), (10, 19, 4), (20, 29, 5)]);
    fold.ok(added("j", &[two_parts_one_leaf, three_leaves, cut]));
    let leaves: Vec<_> = fold.state.leaves().map(|leaf| leaf.id.to_string()).collect();
    let rows = |leaf: &str, text: &str| {
        let at_leaf = fold.at_leaf(leaf);
        at_leaf
            .iter()
            .find(|(file, _)| *file == name(text))
            .map(|(_, rows)| *rows)
    };
    assert_eq!(
        leaves.iter().map(|leaf| rows(leaf, "two")).collect::<Vec<_>>(),
        [Some(21), None, None]
    );
    assert_eq!(
        leaves.iter().map(|leaf| rows(leaf, "three")).collect::<Vec<_>>(),
        [Some(3), Some(3), Some(2)]
    );
    assert_eq!(
        leaves.iter().map(|leaf| rows(leaf, "cut")).collect::<Vec<_>>(),
        [Some(3), Some(4), Some(5)]
    );
    assert_eq!(fold.state.rows(), 41);
    let entry = fold.state.committed(&job("j")).unwrap();
    assert_eq!((entry.rows, entry.files, entry.transaction), (41, 3, number(2)));
}

#[test]
fn files_that_cannot_be_are_refused() {
    let mut fold = Fold::with_table(&[10]);
    let change = |change: &dyn Fn(&mut DataFile)| {
        let mut changed = DataFile::clone(&file("x", &[(1, 4, 2), (5, 6, 3)]));
        change(&mut changed);
        Arc::new(changed)
    };
    let twice = file("same", &[(1, 2, 1)]);
    let cases = [
        (vec![change(&|file| file.parts.clear())], "0 parts do not add up"),
        (
            vec![change(&|file| file.rows = 6)],
            "has 6 rows, and its 2 parts do not add up",
        ),
        (vec![file("x", &[(1, 1, u64::MAX), (2, 2, 2)])], "do not add up"),
        (
            vec![change(&|file| file.parts[0].range.max = key(0))],
            "ends at (0) before it begins at (1)",
        ),
        (
            vec![change(&|file| file.parts[0].range.max = key(5))],
            "overlap at (5)",
        ),
        (vec![change(&|file| file.parts.swap(0, 1))], "overlap at (1)"),
        (
            vec![change(&|file| {
                file.parts[0].range.min = dormouse_core::key::Key::new([])
            })],
            "has 0 values",
        ),
        (
            vec![change(&|file| {
                file.parts[0].range.min =
                    dormouse_core::key::Key::new([dormouse_core::key::KeyValue::Int64(1)]);
            })],
            "does not fit",
        ),
        (vec![twice.clone(), twice], "is named twice"),
    ];
    for (files, reason) in cases {
        let refusal = fold.refused(added("j", &files));
        assert!(
            refusal.starts_with("Invalid: ") && refusal.contains(reason),
            "{refusal}"
        );
    }
    assert!(fold.state.committed(&job("j")).is_none());
}

#[test]
fn a_file_name_is_never_used_again() {
    let mut fold = Fold::with_table(&[]);
    let used = file("a", &[(1, 2, 1)]);
    fold.ok(added("j1", std::slice::from_ref(&used)));
    let reason = |refusal: String| {
        assert!(
            refusal.starts_with("Unavailable: ") && refusal.contains("in use before"),
            "{refusal}"
        );
    };
    reason(fold.refused(added("j2", std::slice::from_ref(&used))));
    fold.ok(Record::TableCleared);
    reason(fold.refused(added("j2", std::slice::from_ref(&used))));
    fold.ok(marked(&["a"]));
    reason(fold.refused(added("j2", std::slice::from_ref(&used))));
    fold.ok(deleted(&["a"]));
    reason(fold.refused(added("j2", std::slice::from_ref(&used))));
    fold.ok(marked(&["orphan"]));
    reason(fold.refused(added("j2", &[file("orphan", &[(1, 2, 1)])])));
}

#[test]
fn row_counts_beyond_all_measure_neither_panic_nor_wrap() {
    let mut fold = Fold::with_table(&[10]);
    let huge = [file("a", &[(1, 20, u64::MAX)]), file("b", &[(1, 20, u64::MAX)])];
    fold.ok(added("j", &huge));
    assert_eq!(fold.state.rows(), u64::MAX);
    assert_eq!(fold.state.committed(&job("j")).unwrap().rows, u64::MAX);
    fold.ok(Record::PartitionSplit(split("p1", 5, "l", "r")));
    let parts = [file("c", &[(1, 2, u64::MAX - 1), (3, 4, 1)])];
    fold.ok(added("k", &parts));
    assert_eq!(fold.state.rows(), u64::MAX);
}

#[test]
fn a_job_commits_once_and_the_files_of_other_runs_are_garbage() {
    let mut fold = Fold::with_table(&[]);
    let first = file("first", &[(1, 2, 3)]);
    let done = fold.ok(added("j", std::slice::from_ref(&first)));
    assert_eq!(
        fold.apply(added("j", std::slice::from_ref(&first))),
        Outcome::AlreadyDone(done)
    );
    assert_eq!(fold.state.garbage().count(), 0);

    let second = Record::FilesAdded {
        job: job("j"),
        run: run("run-2"),
        issued: START,
        files: vec![file("second", &[(1, 2, 3)]), first],
    };
    for _ in 0..2 {
        assert_eq!(fold.apply(second.clone()), Outcome::AlreadyDone(done));
        assert_eq!(fold.state.rows(), 3);
        let garbage: Vec<_> = fold.state.garbage().map(|(file, _)| file.clone()).collect();
        assert_eq!(garbage, [name("second")]);
    }
    let (_, garbage) = fold.state.garbage().next().unwrap();
    assert_eq!((garbage.added, garbage.marked), (None, false));
}

#[test]
fn a_request_that_comes_again_is_answered_with_its_first_transaction() {
    let mut fold = Fold::with_table(&[]);
    let record = added("j", &[file("a", &[(1, 2, 3)])]);
    let first = fold.request("same", record.clone());
    assert_eq!(fold.request("same", record), first);
    fold.request("clear", Record::TableCleared);
    fold.ok(added("k", &[file("b", &[(1, 2, 3)])]));
    let many: Vec<_> = (0..5000)
        .map(|i| commit(&format!("pin-{i}"), pinned("pin", 3, at(i))))
        .collect();
    let next = fold.state.transaction().next();
    fold.state.apply(next, fold.now(), &many);
    assert!(fold.state.recent_commit(&CommitId::new("same")).is_none());
    fold.wait(35 * DAY);
    assert!(matches!(fold.request("clear", Record::TableCleared), Outcome::Applied(n) if n < number(10)));
    assert_eq!(
        fold.state.rows(),
        3,
        "an old clearing took rows that came after it"
    );
}

#[test]
fn files_are_restored_that_the_table_had_at_that_transaction() {
    let mut fold = Fold::with_table(&[]);
    let before = fold.state.transaction();
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    let files = fold.state.to_restore();
    let restored = |of, files: &[RestoredFile]| Record::TableRestored {
        of,
        files: files.to_vec(),
    };
    assert_eq!(
        fold.refused(restored(TransactionNumber(99), &files)),
        "Invalid: transaction 99 is yet to come"
    );
    assert!(
        fold.refused(restored(before, &files))
            .contains("was not in the table at transaction 1")
    );
    let of = fold.state.transaction();
    let mut without = files.clone();
    without[0].references.clear();
    assert!(
        fold.refused(restored(of, &without))
            .contains("was not in the table")
    );
    let twice = [files[0].clone(), files[0].clone()];
    assert!(fold.refused(restored(of, &twice)).contains("is named twice"));
    fold.ok(Record::TableCleared);
    fold.ok(restored(of, &files));
    assert_eq!(fold.state.rows(), 3);
}

#[test]
fn a_restore_that_is_asked_for_again_weeks_later_is_not_done_again() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    let record = Record::TableRestored {
        of: fold.state.transaction(),
        files: fold.state.to_restore(),
    };
    let first = fold.request("restore", record.clone());
    fold.ok(added("k", &[file("b", &[(1, 2, 4)])]));
    let many: Vec<_> = (0..5000)
        .map(|i| commit(&format!("pin-{i}"), pinned("pin", 3, at(i))))
        .collect();
    let next = fold.state.transaction().next();
    fold.state.apply(next, fold.now(), &many);
    fold.wait(34 * DAY);
    assert_eq!(fold.request("restore", record), first);
    assert_eq!(fold.state.rows(), 7, "rows that came after the restore are gone");
}

#[test]
fn the_ledger_forgets_after_35_days_and_what_it_forgot_is_refused() {
    let mut fold = Fold::with_table(&[]);
    let old = added("old", &[file("a", &[(1, 2, 3)])]);
    let done = fold.ok(old.clone());
    fold.wait(35 * DAY);
    assert_eq!(fold.apply(old.clone()), Outcome::AlreadyDone(done));
    fold.wait(1);
    let refusal = fold.refused(old.clone());
    assert!(refusal.starts_with("Conflict: ") && refusal.contains("may have committed and been forgotten"));
    assert_eq!(fold.state.rows(), 3);
    let sent_later = Record::FilesAdded {
        job: job("new"),
        run: run("run-1"),
        issued: at(1),
        files: vec![file("b", &[(1, 2, 3)])],
    };
    fold.ok(sent_later);
    assert_eq!(fold.state.rows(), 6);
}

#[test]
fn a_job_that_never_committed_cannot_bring_back_a_deleted_name_after_the_tombstone_is_gone() {
    let mut fold = Fold::with_table(&[]);
    fold.wait(DAY);
    fold.ok(marked(&["orphan"]));
    fold.ok(deleted(&["orphan"]));
    fold.wait(36 * DAY);
    let late = added("sleeper", &[file("orphan", &[(1, 2, 3)])]);
    let refusal = fold.refused(late);
    assert!(
        refusal.starts_with("Conflict: ") && refusal.contains("forgotten"),
        "{refusal}"
    );
}

#[test]
fn a_job_from_the_far_future_waits_and_bars_no_other() {
    let mut fold = Fold::with_table(&[]);
    let sent = |text: &str, issued| Record::FilesAdded {
        job: job(text),
        run: run("run-1"),
        issued,
        files: vec![],
    };
    let refusal = fold.refused(sent("future", at(3 * DAY)));
    assert!(
        refusal.starts_with("Unavailable: ") && refusal.contains("a clock is wrong"),
        "{refusal}"
    );
    fold.refused(sent("a-day-and-more-ahead", at(DAY + 1)));
    fold.ok(sent("a-day-ahead", at(DAY)));
    fold.wait(40 * DAY);
    fold.ok(sent("new", at(2 * DAY)));
}

#[test]
fn a_clock_that_leaps_a_year_ahead_or_back_lets_no_job_commit_twice() {
    let mut fold = Fold::with_table(&[]);
    let before = added("before", &[file("a", &[(1, 2, 3)])]);
    fold.ok(before.clone());
    fold.wait(365 * DAY);
    fold.ok(pinned("p", 2, fold.now()));
    fold.wait(-365 * DAY);
    assert!(fold.refused(before).contains("forgotten"));
    let after = Record::FilesAdded {
        job: job("after"),
        run: run("run-1"),
        issued: at(1),
        files: vec![file("b", &[(1, 2, 3)])],
    };
    let done = fold.ok(after.clone());
    assert_eq!(fold.apply(after), Outcome::AlreadyDone(done));
    assert_eq!(fold.state.rows(), 6);
    fold.wait(-1000 * DAY);
    let earlier = fold.state.at();
    fold.ok(pinned("q", 3, at(0)));
    assert_eq!(fold.state.at(), earlier, "the log's time went back");
}

#[test]
fn inputs_are_leased_to_one_compaction_until_its_lease_runs_out() {
    let mut fold = Fold::with_table(&[10]);
    fold.ok(added(
        "j",
        &[
            file("a", &[(1, 2, 3)]),
            file("b", &[(1, 2, 3)]),
            file("c", &[(11, 12, 3)]),
        ],
    ));
    let until = at(60 * MINUTE);
    fold.ok(assigned("c1", "p1", &["a", "b"], until));
    assert_eq!(fold.state.lease(&id("p1"), &name("a")).unwrap().job, job("c1"));
    fold.ok(assigned("c1", "p1", &["a"], at(50 * MINUTE)));
    fold.ok(assigned("c1", "p1", &["a", "b"], until));
    assert_eq!(
        fold.refused(assigned("c2", "p1", &["b"], until)),
        format!("Conflict: input {} is leased to job c1", name("b"))
    );
    let gone = format!("Conflict: input {} is no longer referenced at leaf p1", name("c"));
    assert_eq!(fold.refused(assigned("c2", "p1", &["c"], until)), gone);
    assert_eq!(
        fold.refused(assigned("c2", "p1", &[], until)),
        "Invalid: a compaction needs at least one input"
    );
    let refusal = fold.refused(assigned("c1", "p1", &["a", "a"], until));
    assert_eq!(refusal, format!("Invalid: input {} is named twice", name("a")));
    fold.wait(70 * MINUTE - 1);
    assert!(
        fold.refused(assigned("c2", "p1", &["a"], until))
            .contains("leased")
    );
    fold.wait(1);
    fold.ok(assigned("c2", "p1", &["a"], at(100 * MINUTE)));
    let refusal = fold.refused(compacted(
        "c1",
        "p1",
        &["a", "b"],
        Some(file("out", &[(1, 2, 6)])),
    ));
    assert_eq!(
        refusal,
        format!("Conflict: job c1 lost its lease on input {}", name("a"))
    );
}

#[test]
fn a_compaction_swaps_references_and_commits_once() {
    let mut fold = Fold::with_table(&[10]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)]), file("b", &[(2, 12, 4)])]));
    fold.ok(assigned("c", "p1", &["a", "b"], at(MINUTE)));
    fold.wait(DAY);
    let done = fold.ok(compacted("c", "p1", &["a", "b"], Some(file("out", &[(1, 9, 5)]))));
    assert_eq!(fold.at_leaf("p1"), [(name("out"), 5)]);
    assert_eq!(fold.at_leaf("p2"), [(name("b"), 2)]);
    let garbage: Vec<_> = fold
        .state
        .garbage()
        .map(|(file, garbage)| (file.clone(), garbage.added))
        .collect();
    assert_eq!(garbage, [(name("a"), Some(number(2)))]);
    assert!(fold.state.lease(&id("p1"), &name("a")).is_none());

    let again = Record::CompactionCommitted {
        job: job("c"),
        run: run("run-2"),
        issued: START,
        partition: id("p1"),
        inputs: vec![name("a"), name("b")],
        output: Some(file("out-2", &[(1, 9, 5)])),
    };
    assert_eq!(fold.apply(again), Outcome::AlreadyDone(done));
    assert_eq!(
        fold.apply(assigned("c", "p1", &["out"], at(0))),
        Outcome::AlreadyDone(done)
    );
    assert_eq!(fold.state.rows(), 7);
    assert!(fold.state.garbage().any(|(file, _)| *file == name("out-2")));
}

#[test]
fn a_compaction_without_rows_left_has_no_output() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    fold.ok(assigned("c", "root", &["a"], at(MINUTE)));
    fold.ok(compacted("c", "root", &["a"], None));
    assert_eq!((fold.state.rows(), fold.state.file_count()), (0, 0));
    let entry = fold.state.committed(&job("c")).unwrap();
    assert_eq!((entry.rows, entry.files), (0, 0));
}

#[test]
fn a_compaction_is_refused_without_a_lease_or_with_an_output_that_does_not_fit() {
    let mut fold = Fold::with_table(&[10]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    let output = || Some(file("out", &[(1, 2, 3)]));
    let refusal = fold.refused(compacted("c", "p1", &["a"], output()));
    assert_eq!(
        refusal,
        format!("Conflict: job c lost its lease on input {}", name("a"))
    );
    fold.ok(assigned("c", "p1", &["a"], at(MINUTE)));
    let refusal = fold.refused(compacted("c", "p1", &["a"], Some(file("out", &[(1, 10, 3)]))));
    assert_eq!(
        refusal,
        format!("Invalid: output {} has keys beyond leaf p1", name("out"))
    );
    let refusal = fold.refused(compacted("c", "p1", &["a"], Some(file("a", &[(1, 2, 3)]))));
    assert!(refusal.starts_with("Unavailable: "), "{refusal}");
    let refusal = fold.refused(compacted("c", "p1", &["a", "a"], output()));
    assert!(refusal.ends_with("is named twice"), "{refusal}");
    let refusal = fold.refused(compacted("c", "p1", &[], output()));
    assert_eq!(refusal, "Invalid: a compaction needs at least one input");
    let refusal = fold.refused(compacted("c", "root", &["a"], output()));
    assert!(refusal.contains("no longer referenced at leaf root"), "{refusal}");

    fold.ok(Record::PartitionSplit(split("p1", 2, "l", "r")));
    assert!(fold.state.lease(&id("l"), &name("a")).is_none());
    let refusal = fold.refused(compacted("c", "p1", &["a"], output()));
    assert!(refusal.contains("no longer referenced at leaf p1"), "{refusal}");

    fold.ok(added("k", &[file("b", &[(11, 12, 3)])]));
    fold.wait(36 * DAY);
    fold.ok(pinned("p", 2, at(0)));
    let refusal = fold.refused(compacted("c", "l", &["a"], output()));
    assert!(refusal.contains("forgotten"), "{refusal}");
}

#[test]
fn garbage_is_marked_then_deleted_then_remembered() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)]), file("live", &[(1, 2, 3)])]));
    fold.ok(assigned("c", "root", &["a"], at(MINUTE)));
    fold.ok(compacted("c", "root", &["a"], None));
    assert_eq!(
        fold.refused(deleted(&["a"])),
        format!("Conflict: file {} is not marked for deletion", name("a"))
    );
    assert_eq!(
        fold.refused(deleted(&["live"])),
        format!("Conflict: file {} is not marked for deletion", name("live"))
    );
    let before = fold.state.oldest_readable();
    fold.ok(marked(&["live"]));
    assert_eq!(
        fold.state.garbage().filter(|(_, garbage)| garbage.marked).count(),
        0
    );
    assert_eq!(fold.state.oldest_readable(), before);
    fold.ok(marked(&["a", "a", "unknown"]));
    assert_eq!(
        fold.state.garbage().filter(|(_, garbage)| garbage.marked).count(),
        2
    );
    assert_eq!(
        fold.state.oldest_readable(),
        number(4),
        "the state of 3 needs the marked file"
    );
    fold.ok(deleted(&["a", "a", "never-heard-of"]));
    assert!(fold.state.knows(&name("a")) && !fold.state.knows(&name("never-heard-of")));
    fold.ok(marked(&["a"]));
    assert_eq!(fold.state.garbage().count(), 1, "a deleted file was marked again");
    fold.wait(35 * DAY);
    fold.ok(pinned("p", 6, at(0)));
    assert!(fold.state.knows(&name("a")));
    fold.wait(1);
    fold.ok(pinned("p", 6, at(1)));
    assert!(!fold.state.knows(&name("a")));
}

#[test]
fn pins_keep_the_files_of_their_state_from_being_marked() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    fold.ok(pinned("reader", 2, at(60 * MINUTE)));
    fold.ok(Record::TableCleared);
    fold.ok(pinned("late-reader", 4, at(600 * MINUTE)));
    let is_marked = |fold: &Fold| fold.state.garbage().any(|(_, garbage)| garbage.marked);
    fold.ok(marked(&["a"]));
    assert!(!is_marked(&fold));
    fold.wait(70 * MINUTE - 1);
    fold.ok(marked(&["a"]));
    assert!(!is_marked(&fold), "the margin for skew was not kept");
    fold.wait(1);
    fold.ok(marked(&["a"]));
    assert!(is_marked(&fold));
    let refusal = fold.refused(pinned("reader", 2, at(600 * MINUTE)));
    assert!(
        refusal.starts_with("Conflict: transaction 2 cannot be pinned"),
        "{refusal}"
    );
}

#[test]
fn a_pin_is_extended_and_never_shortened_while_it_holds() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(pinned("reader", 1, at(60 * MINUTE)));
    fold.ok(pinned("reader", 1, at(30 * MINUTE)));
    assert_eq!(fold.state.pin(&pin("reader")).unwrap().until, at(60 * MINUTE));
    fold.ok(pinned("reader", 1, at(90 * MINUTE)));
    assert_eq!(fold.state.pin(&pin("reader")).unwrap().until, at(90 * MINUTE));
    assert_eq!(
        fold.refused(pinned("reader", 2, at(90 * MINUTE))),
        "Conflict: pin reader holds transaction 1, not 2"
    );
    assert_eq!(
        fold.refused(pinned("other", 99, at(90 * MINUTE))),
        "Conflict: transaction 99 cannot be pinned; those from 1 to 6 can"
    );
    fold.ok(released("reader"));
    assert!(fold.state.pin(&pin("reader")).is_none());
    fold.ok(released("reader"));
}

#[test]
fn the_log_is_not_cut_beyond_its_end_or_a_live_pin() {
    let mut fold = Fold::with_table(&[]);
    for i in 0..5 {
        fold.ok(added(&format!("j{i}"), &[]));
    }
    fold.ok(pinned("reader", 3, at(60 * MINUTE)));
    assert_eq!(
        fold.refused(truncated(99)),
        "Invalid: floor 99 is beyond the log's end"
    );
    assert_eq!(
        fold.refused(truncated(5)),
        "Conflict: pin reader needs the log from transaction 3"
    );
    fold.ok(truncated(4));
    assert_eq!(
        (fold.state.floor(), fold.state.oldest_readable()),
        (number(4), number(3))
    );
    fold.ok(truncated(2));
    assert_eq!(fold.state.floor(), number(4));
    fold.wait(70 * MINUTE);
    fold.ok(truncated(5));
    assert_eq!(
        fold.state.floor(),
        number(5),
        "a reader that is long gone held the log"
    );
}

#[test]
fn clearing_leaves_the_partitions_and_the_ledger() {
    let mut fold = Fold::with_table(&[10]);
    let record = added("j", &[file("a", &[(1, 12, 3)])]);
    let done = fold.ok(record.clone());
    fold.ok(assigned("c", "p1", &["a"], at(MINUTE)));
    fold.ok(Record::TableCleared);
    assert_eq!(
        (
            fold.state.rows(),
            fold.state.leaf_count(),
            fold.state.garbage().count()
        ),
        (0, 2, 1)
    );
    assert_eq!(fold.apply(record), Outcome::AlreadyDone(done));
    assert_eq!(fold.state.rows(), 0);
}

#[test]
fn a_deleted_table_takes_nothing_but_what_cleans_up_after_it() {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    fold.ok(pinned("reader", 2, at(60 * MINUTE)));
    fold.ok(Record::TableDeleted);
    assert_eq!(
        (fold.state.status(), fold.state.rows()),
        (TableStatus::Deleted, 0)
    );
    fold.ok(Record::TableDeleted);
    let refused = [
        created(&[]),
        added("k", &[]),
        Record::PartitionSplit(split("root", 5, "l", "r")),
        Record::TableCleared,
        pinned("new", 4, at(0)),
        assigned("c", "root", &["a"], at(0)),
        compacted("c", "root", &["a"], None),
    ];
    for record in refused {
        let refusal = fold.refused(record);
        assert!(
            refusal.starts_with("NotFound: ") || refusal.starts_with("AlreadyExists: "),
            "{refusal}"
        );
    }
    fold.ok(marked(&["a"]));
    assert!(
        fold.state.garbage().all(|(_, garbage)| !garbage.marked),
        "a reader lost its files"
    );
    fold.ok(released("reader"));
    fold.ok(marked(&["a"]));
    fold.ok(deleted(&["a"]));
    fold.ok(truncated(3));
    assert_eq!(fold.state.garbage().count(), 0);
}

#[test]
fn as_many_recent_commits_are_remembered_as_are_promised() {
    let mut state = TableState::default();
    let mut apply = |commits: &[Commit]| {
        state.apply(state.transaction().next(), START, commits);
        state.clone()
    };
    apply(&[commit("create", created(&[]))]);
    let pins = |numbers: std::ops::RangeInclusive<usize>| -> Vec<Commit> {
        numbers
            .map(|i| commit(&format!("c{i}"), pinned("p", 1, at(DAY))))
            .collect()
    };
    let full = apply(&pins(2..=RECENT_COMMITS));
    assert!(full.recent_commit(&CommitId::new("create")).is_some());
    let fuller = apply(&pins(RECENT_COMMITS + 1..=RECENT_COMMITS + 1));
    assert_eq!(fuller.recent_commit(&CommitId::new("create")), None);
    assert!(fuller.recent_commit(&CommitId::new("c2")).is_some());
    assert_eq!(invariants::check(&fuller), []);
}

#[test]
fn a_commit_id_is_its_text() {
    assert_eq!(CommitId::new("a/b").as_str(), "a/b");
    assert_eq!(CommitId::of_run(&job("j"), &run("r")).as_str(), "j/r");
}

#[test]
fn a_state_tells_what_it_has() {
    let mut fold = Fold::with_table(&[10]);
    let ids: Vec<_> = fold
        .state
        .partitions()
        .map(|partition| partition.id.clone())
        .collect();
    assert_eq!(ids.len(), 3);
    for partition in &ids {
        assert_eq!(
            fold.state.partition(partition).map(|found| &found.id),
            Some(partition)
        );
    }
    assert_eq!(fold.state.partition(&id("nowhere")), None);
    assert!(!fold.state.is_referenced(&name("a")) && !fold.state.knows(&name("a")));
    fold.ok(added(
        "j",
        &[file("a", &[(1, 2, 3), (20, 30, 4)]), file("b", &[(1, 2, 5)])],
    ));
    assert!(fold.state.is_referenced(&name("a")) && fold.state.knows(&name("a")));
    assert_eq!((fold.state.file_count(), fold.state.reference_count()), (2, 3));
    assert_eq!(fold.state.rows(), 12);
    let files: Vec<_> = fold
        .state
        .files()
        .map(|(file, leaves)| (file.name.clone(), leaves))
        .collect();
    assert!(
        files.contains(&(name("a"), 2)) && files.contains(&(name("b"), 1)),
        "{files:?}"
    );
    let pinned_by = |fold: &Fold, now| fold.state.oldest_pin(now);
    assert_eq!(pinned_by(&fold, at(0)), None);
    fold.ok(pinned("early", 2, at(DAY)));
    fold.ok(pinned("late", 3, at(2 * DAY)));
    assert_eq!(fold.state.pins().count(), 2);
    assert_eq!(
        fold.state.pin(&pin("early")).map(|pin| pin.transaction),
        Some(number(2))
    );
    assert_eq!(
        pinned_by(&fold, at(DAY)),
        Some(number(2)),
        "within the margin for skew"
    );
    assert_eq!(pinned_by(&fold, at(DAY + 10 * MINUTE)), Some(number(3)));
    fold.ok(Record::TableCleared);
    assert!(!fold.state.is_referenced(&name("a")) && fold.state.knows(&name("a")));
    assert_eq!(fold.state.garbage().count(), 2);
    assert_eq!(fold.state.committed(&job("j")).map(|entry| entry.rows), Some(12));
    assert_eq!(fold.state.ledger().count(), 1);
}
