//! Which jobs' rows are in a table, as the auditor knows it.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_core::{
    ids::{JobId, TransactionNumber},
    testing::rows::Row,
};

/// A change of a table's rows.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Added(JobId),
    Cleared,
    /// To what the table was after this transaction.
    Restored(TransactionNumber),
    PurgeBegun(JobId),
    /// Nothing is left of what was there when the purge began.
    Purged(JobId),
}

/// How much of a job's rows is in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// All.
    Whole,
    /// Some, and none once a purge has ended.
    Doomed,
    /// Some, as they came or came back while a purge went on.
    Maybe,
}

/// The jobs of which some rows may be in the table after a transaction.
pub(super) fn presence_at(
    changes: &[(TransactionNumber, Change)],
    at: TransactionNumber,
) -> BTreeMap<&JobId, Presence> {
    let mut present: BTreeMap<&JobId, Presence> = BTreeMap::new();
    let mut purging: BTreeSet<&JobId> = BTreeSet::new();
    for (_, change) in changes.iter().take_while(|(number, _)| *number <= at) {
        match change {
            Change::Cleared => present.clear(),
            Change::Added(job) => {
                let presence = match purging.contains(job) {
                    true => Presence::Maybe,
                    false => Presence::Whole,
                };
                present.insert(job, presence);
            }
            Change::Restored(of) => {
                present = presence_at(changes, *of);
                for (job, presence) in &mut present {
                    *presence = match (purging.contains(job), *presence) {
                        (true, _) => Presence::Doomed,
                        (false, Presence::Doomed) => Presence::Maybe,
                        (false, presence) => presence,
                    };
                }
            }
            Change::PurgeBegun(job) => {
                purging.insert(job);
                if let Some(presence) = present.get_mut(job) {
                    *presence = Presence::Doomed;
                }
            }
            Change::Purged(job) => {
                purging.remove(job);
                if present.get(job) == Some(&Presence::Doomed) {
                    present.remove(job);
                }
            }
        }
    }
    present
}

/// The rows of a table as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct RowsAt {
    must: BTreeMap<Row, usize>,
    may: BTreeMap<Row, usize>,
}

impl RowsAt {
    pub(super) fn add(&mut self, presence: Presence, rows: impl Iterator<Item = Row>) {
        let counts = match presence {
            Presence::Whole => &mut self.must,
            Presence::Doomed | Presence::Maybe => &mut self.may,
        };
        for row in rows {
            *counts.entry(row).or_default() += 1;
        }
    }

    /// What is wrong with these rows, if they are not the table's.
    pub fn differ_from(&self, found: &[Row]) -> Option<String> {
        let mut counts: BTreeMap<&Row, usize> = BTreeMap::new();
        for row in found {
            *counts.entry(row).or_default() += 1;
        }
        let of = |rows: &BTreeMap<Row, usize>, row: &Row| rows.get(row).copied().unwrap_or(0);
        let lost = self
            .must
            .iter()
            .find(|(row, count)| counts.get(row).is_none_or(|found| found < count));
        let added = counts
            .iter()
            .find(|(row, found)| **found > of(&self.must, row) + of(&self.may, row));
        let rows: usize = self.must.values().sum();
        match (lost, added) {
            (None, None) => None,
            (Some((row, _)), _) => Some(format!(
                "{} rows, must hold {rows}, and lacks {row:?}",
                found.len()
            )),
            (None, Some((row, _))) => Some(format!(
                "{} rows, must hold {rows}, and has {row:?} too often",
                found.len()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    fn presence(changes: &[(u64, Change)], at: u64, name: &str) -> Option<Presence> {
        let changes: Vec<_> = changes
            .iter()
            .map(|(number, change)| (TransactionNumber(*number), change.clone()))
            .collect();
        presence_at(&changes, TransactionNumber(at))
            .get(&job(name))
            .copied()
    }

    #[test]
    fn a_purge_takes_what_was_there_when_it_began_and_what_a_restore_brought_back_meanwhile() {
        let mut changes = vec![
            (1, Change::Added(job("a"))),
            (2, Change::PurgeBegun(job("a"))),
            (2, Change::PurgeBegun(job("late"))),
            (3, Change::Added(job("late"))),
            (4, Change::Purged(job("a"))),
            (4, Change::Purged(job("late"))),
        ];
        assert_eq!(presence(&changes, 1, "a"), Some(Presence::Whole));
        assert_eq!(presence(&changes, 3, "a"), Some(Presence::Doomed));
        assert_eq!(presence(&changes, 4, "a"), None);
        assert_eq!(presence(&changes, 4, "late"), Some(Presence::Maybe));
        changes.insert(4, (3, Change::Restored(TransactionNumber(1))));
        assert_eq!(presence(&changes, 4, "a"), None);
        changes.push((5, Change::Restored(TransactionNumber(3))));
        assert_eq!(presence(&changes, 5, "a"), Some(Presence::Maybe));
        changes.push((6, Change::Restored(TransactionNumber(1))));
        assert_eq!(presence(&changes, 6, "a"), Some(Presence::Whole));
    }

    #[test]
    fn rows_are_those_that_must_be_there_and_none_that_may_not() {
        let row = |key: i64| (key, "text".to_owned());
        let mut rows = RowsAt::default();
        rows.add(Presence::Whole, [row(1), row(2), row(2)].into_iter());
        rows.add(Presence::Maybe, [row(3)].into_iter());
        assert_eq!(rows.differ_from(&[row(1), row(2), row(2)]), None);
        assert_eq!(rows.differ_from(&[row(1), row(2), row(2), row(3)]), None);
        assert!(
            rows.differ_from(&[row(1), row(2), row(3)])
                .unwrap()
                .contains("lacks")
        );
        assert!(
            rows.differ_from(&[row(1), row(1), row(2), row(2)])
                .unwrap()
                .contains("too often")
        );
        assert!(
            rows.differ_from(&[row(1), row(2), row(2), row(4)])
                .unwrap()
                .contains("too often")
        );
    }
}
