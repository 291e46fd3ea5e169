//! Which garbage is old enough to go.

use std::time::Duration;

use dormouse_core::{
    plan::garbage::{GarbagePolicy, deletable, markable},
    state::Record,
};

use crate::samples::*;

fn policy(delay: u64, history: u64) -> GarbagePolicy {
    GarbagePolicy {
        delay: Duration::from_secs(delay * 60),
        history: Duration::from_secs(history * 60),
    }
}

/// A state where `a` was in the table until the minute 10, and `lost` never was: a run that lost left it then.
fn fold() -> Fold {
    let mut fold = Fold::with_table(&[]);
    fold.ok(added("j", &[file("a", &[(1, 2, 3)])]));
    fold.wait(10 * MINUTE);
    fold.ok(Record::TableCleared);
    fold.apply(Record::FilesAdded {
        job: job("j"),
        run: run("run-2"),
        issued: START,
        files: vec![file("lost", &[(1, 2, 3)])],
    });
    fold
}

#[test]
fn files_stay_for_the_delay_and_as_long_as_history_needs_them() {
    let state = fold().state;
    let names = |policy, minute| {
        let mut names = markable(&state, policy, at(minute * MINUTE));
        names.sort();
        names
    };
    let mut both = vec![name("a"), name("lost")];
    both.sort();
    assert_eq!(names(policy(5, 3), 14), []);
    assert_eq!(names(policy(5, 3), 15), both);
    assert_eq!(names(policy(5, 60), 15), [name("lost")]);
    assert_eq!(names(policy(5, 60), 69), [name("lost")]);
    assert_eq!(names(policy(5, 60), 70), both);
}

#[test]
fn what_is_marked_is_deleted_and_not_marked_again() {
    let mut fold = fold();
    assert_eq!(deletable(&fold.state), []);
    fold.ok(marked(&["a"]));
    assert_eq!(deletable(&fold.state), [name("a")]);
    assert_eq!(markable(&fold.state, policy(0, 0), at(DAY)), [name("lost")]);
    fold.ok(deleted(&["a"]));
    assert_eq!(deletable(&fold.state), []);
}
