//! A state in numbers.

use dormouse_core::{
    ids::TransactionNumber,
    state::{
        Record,
        summary::{Spread, Summary},
    },
};

use crate::samples::*;

#[test]
fn a_summary_counts_what_is_there_and_what_is_left_over() {
    let mut fold = Fold::with_table(&[100]);
    let nothing = Summary::of(&fold.state, fold.now());
    assert_eq!(nothing.write_amplification, None);
    fold.ok(added("j1", &[file("a", &[(1, 9, 30), (100, 120, 10)])]));
    fold.ok(added("j2", &[file("b", &[(1, 9, 30)])]));
    let leaf = fold.state.leaves().next().unwrap().id;
    fold.ok(pinned("late", 4, at(DAY)));
    fold.ok(pinned("early", 3, at(DAY)));
    fold.ok(assigned("c", leaf.as_str(), &["a", "b"], at(DAY)));
    let before = Summary::of(&fold.state, fold.now());
    assert_eq!((before.rows, before.files, before.bytes), (70, 2, 2000));
    let spread = Spread {
        min: 1,
        mean: 1.5,
        max: 2,
    };
    assert_eq!((before.leaves, before.files_per_leaf), (2, spread));
    assert_eq!(before.read_amplification, Some((60.0 * 2.0 + 10.0) / 70.0));
    assert_eq!(before.write_amplification, Some(1.0));
    assert_eq!(before.garbage_files, 0);

    fold.ok(compacted(
        "c",
        leaf.as_str(),
        &["a", "b"],
        Some(file("out", &[(1, 9, 60)])),
    ));
    let after = Summary::of(&fold.state, fold.now());
    assert_eq!(
        (after.rows, after.files, after.transaction),
        (70, 2, fold.state.transaction())
    );
    assert_eq!((after.garbage_files, after.garbage_bytes), (1, 1000));
    assert_eq!(after.read_amplification, Some(1.0));
    assert_eq!(after.write_amplification, Some((70.0 + 60.0) / 70.0));
    assert_eq!(
        after.oldest_pin.map(|pin| pin.transaction),
        Some(TransactionNumber(3))
    );
    assert_eq!(after.log_entries, fold.state.transaction().0);
    assert_eq!(Summary::of(&fold.state, at(2 * DAY)).oldest_pin, None);

    fold.ok(Record::TableCleared);
    let empty = Summary::of(&fold.state, fold.now());
    assert_eq!((empty.rows, empty.files, empty.read_amplification), (0, 0, None));
    assert_eq!(empty.files_per_leaf, Spread::default());
}
