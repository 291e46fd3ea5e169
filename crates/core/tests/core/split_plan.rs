//! Where leaves are split, and which are looked at.

use dormouse_core::{
    ids::PartitionId,
    key::{Key, KeyValue},
    plan::split::{Division, divide, over_threshold},
    ports::KeySample,
    state::{KeptBecause, Record, transaction::Split},
};
use proptest::prelude::*;

use crate::samples::{Fold, added, file, kept, key, split};

fn sample(keys: &[(Key, u64)]) -> Vec<KeySample> {
    let sample = |(key, rows): &(Key, u64)| KeySample {
        key: key.clone(),
        rows: *rows,
    };
    keys.iter().map(sample).collect()
}

fn numbers(keys: &[(i32, u64)]) -> Vec<KeySample> {
    let keys: Vec<_> = keys.iter().map(|(number, rows)| (key(*number), *rows)).collect();
    sample(&keys)
}

fn division(sample: Vec<KeySample>, threshold: u64) -> Division {
    let mut next = 0;
    let new_id = || {
        next += 1;
        PartitionId::new(format!("p{next}"))
    };
    divide(&PartitionId::root(), sample, threshold, new_id).unwrap()
}

fn splits(sample: Vec<KeySample>, threshold: u64) -> Vec<Split> {
    match division(sample, threshold) {
        Division::Splits(splits) => splits,
        Division::Keep(because) => panic!("kept because {because:?}"),
    }
}

#[test]
fn a_leaf_is_cut_where_its_rows_are_halved() {
    let leaf = numbers(&[(1, 10), (2, 10), (3, 10), (4, 10)]);
    assert_eq!(splits(leaf.clone(), 20), [split("root", 3, "p1", "p2")]);
    assert_eq!(splits(leaf.clone(), 39), [split("root", 3, "p1", "p2")]);
    assert_eq!(division(leaf, 40), Division::Keep(KeptBecause::Fits { rows: 40 }));
    let heavy = numbers(&[(1, 1), (2, 97), (3, 1), (4, 1)]);
    assert_eq!(splits(heavy, 98), [split("root", 3, "p1", "p2")]);
}

#[test]
fn a_leaf_far_over_the_threshold_comes_apart_at_once() {
    let leaf: Vec<_> = (0..64).map(|number| (number, 10)).collect();
    let splits = splits(numbers(&leaf), 20);
    assert_eq!(splits.len(), 31);
    let mut points: Vec<_> = splits.iter().map(|split| split.at.clone()).collect();
    points.sort();
    assert_eq!(points, (1..32).map(|i| key(i * 2)).collect::<Vec<_>>());
}

#[test]
fn rows_that_agree_in_the_first_column_are_cut_by_the_second() {
    let hot = |second: &str| Key::new([KeyValue::Int32(7), KeyValue::Utf8(second.into())]);
    let leaf = sample(&[(hot("a"), 10), (hot("b"), 10), (hot("c"), 10), (hot("d"), 10)]);
    let cut = splits(leaf, 20);
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].at, hot("c"));
}

#[test]
fn a_leaf_of_one_key_is_kept() {
    let because = KeptBecause::OneKey { key: key(7) };
    assert_eq!(
        division(numbers(&[(7, 10), (7, 30)]), 20),
        Division::Keep(because)
    );
    assert_eq!(
        division(Vec::new(), 20),
        Division::Keep(KeptBecause::Fits { rows: 0 })
    );
}

#[test]
fn a_kept_leaf_is_looked_at_again_once_it_has_grown() {
    let mut fold = Fold::with_table(&[100]);
    let (left, right) = {
        let leaves: Vec<_> = fold.state.leaves().map(|leaf| leaf.id).collect();
        (leaves[0].clone(), leaves[1].clone())
    };
    let over = |fold: &Fold, threshold| -> Vec<PartitionId> {
        over_threshold(&fold.state, threshold)
            .map(|leaf| leaf.id)
            .collect()
    };
    let feed = |fold: &mut Fold, name: &str, rows| {
        fold.ok(added(name, &[file(name, &[(1, 99, rows), (100, 200, rows)])]));
    };
    feed(&mut fold, "a", 60);
    assert_eq!(over(&fold, 59), [left.clone(), right.clone()]);
    assert_eq!(over(&fold, 60), []);
    fold.ok(kept(left.as_str(), 60, KeptBecause::OneKey { key: key(7) }));
    fold.ok(kept(right.as_str(), 60, KeptBecause::Fits { rows: 40 }));
    assert_eq!(over(&fold, 50), []);
    feed(&mut fold, "b", 10);
    assert_eq!(over(&fold, 50), []);
    feed(&mut fold, "c", 1);
    assert_eq!(over(&fold, 50), std::slice::from_ref(&right));
    feed(&mut fold, "d", 49);
    assert_eq!(over(&fold, 50), [left.clone(), right.clone()]);
    assert_eq!(
        fold.refused(kept("root", 60, KeptBecause::Fits { rows: 40 })),
        "Conflict: partition root is not a leaf"
    );
    fold.ok(Record::PartitionSplit(split(left.as_str(), 50, "l", "r")));
    assert_eq!(fold.state.kept(&left), None);
    fold.ok(Record::TableCleared);
    assert_eq!(fold.state.kept(&right), None);
    assert_eq!(over(&fold, 0), []);
}

proptest! {
    /// The splits of any sample fit the table, and leave nothing to split that has two keys.
    #[test]
    fn splits_apply_and_leave_pieces_within_the_threshold(
        keys in prop::collection::vec((0..200, 0..1000_u64), 1..200),
        threshold in 0..20_000_u64,
    ) {
        let given = numbers(&keys);
        let total: u64 = keys.iter().map(|(_, rows)| rows).sum();
        match division(given.clone(), threshold) {
            Division::Keep(KeptBecause::Fits { rows }) => {
                prop_assert_eq!(rows, total);
                prop_assert!(total <= threshold);
            }
            Division::Keep(KeptBecause::OneKey { key: only }) => {
                prop_assert!(total > threshold);
                prop_assert!(given.iter().all(|sample| sample.key == only));
            }
            Division::Splits(splits) => {
                prop_assert!(total > threshold);
                let mut fold = Fold::with_table(&[]);
                let count = splits.len();
                fold.ok(Record::PartitionTreeExtended { splits });
                prop_assert_eq!(fold.state.leaf_count(), count + 1);
                for leaf in fold.state.leaves() {
                    let inside: Vec<_> = given.iter().filter(|sample| leaf.bounds.contains(&sample.key)).collect();
                    let rows: u64 = inside.iter().map(|sample| sample.rows).sum();
                    let one_key = inside.iter().all(|sample| sample.key == inside[0].key);
                    prop_assert!(!inside.is_empty());
                    prop_assert!(rows <= threshold || one_key, "{} rows in leaf {}", rows, leaf.bounds);
                }
            }
        }
    }
}
