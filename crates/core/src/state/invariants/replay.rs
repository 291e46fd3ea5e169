//! The fold of the log, done again: snapshots agree with it, nothing in it is refused, and a job takes effect
//! once.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        TableState,
        apply::Outcome,
        log::Entry,
        table_state::{EntryHash, LEDGER_RETENTION, LiveFile},
        transaction::Record,
    },
    Invariant, LogHead, Violation,
    log::check_floor,
    shape,
};
use crate::{
    ids::{FileName, JobId, TableId},
    time::Timestamp,
};

const BUG: &str = "stop the writers and keep the log: it holds what the program must never write";

/// A state that follows a log, and what it met that is wrong.
#[derive(Debug)]
pub struct Replay {
    table: TableId,
    state: TableState,
    jobs: BTreeMap<JobId, Timestamp>,
    added: BTreeSet<FileName>,
    wrong: Vec<Violation>,
}

impl Replay {
    /// Begins with `state`: the empty one, or one from a snapshot.
    pub fn new(table: &TableId, state: TableState) -> Self {
        Self {
            table: table.clone(),
            state,
            jobs: BTreeMap::new(),
            added: BTreeSet::new(),
            wrong: Vec::new(),
        }
    }

    /// The state so far.
    pub fn state(&self) -> &TableState {
        &self.state
    }

    /// Follows the log by an entry. Says whether it follows: when it does not, nothing has happened.
    pub fn follow(&mut self, entry: &Entry, hash: EntryHash) -> bool {
        let Ok(outcomes) = self.state.follow(&self.table, entry, hash) else {
            return false;
        };
        let place = format!("log entry {}", entry.number);
        for (commit, outcome) in entry.commits.iter().zip(outcomes) {
            if let Outcome::Refused(refusal) = &outcome {
                let found = format!(
                    "it holds commit {}, which is refused there: {}",
                    commit.id, refusal.reason
                );
                self.wrong
                    .push(Violation::new(Invariant::Fencing, &place, found, BUG));
            }
            match &commit.record {
                Record::FilesAdded { job, files, .. } => {
                    if matches!(outcome, Outcome::Applied(_)) {
                        self.take_effect(&place, job, entry.at);
                        self.added.extend(files.iter().map(|file| file.name.clone()));
                    }
                }
                Record::CompactionCommitted { job, inputs, .. } => {
                    if matches!(outcome, Outcome::Applied(_)) {
                        self.take_effect(&place, job, entry.at);
                        for input in inputs {
                            self.added.remove(input);
                        }
                    }
                }
                _ => {}
            }
        }
        true
    }

    fn take_effect(&mut self, place: &str, job: &JobId, at: Timestamp) {
        if let Some(before) = self.jobs.insert(job.clone(), at)
            && at.since(before) < LEDGER_RETENTION
        {
            let found = format!("job {job} takes effect there, as it did at {before}");
            self.wrong
                .push(Violation::new(Invariant::Once, place, found, BUG));
        }
    }

    /// Compares the state with one from elsewhere of the same transaction, such as a snapshot.
    pub fn compare(&mut self, place: impl Into<String>, other: &TableState) {
        if self.state == *other {
            return;
        }
        self.wrong.push(Violation::new(
            Invariant::Replay,
            place,
            format!(
                "it is not the state that the log gives at transaction {}",
                self.state.transaction
            ),
            "delete the snapshot and its item, so that readers begin with an older one; keep both for a report",
        ));
    }

    /// Checks the last state, with what the log tells about it, and ends.
    pub fn finish(mut self, head: Option<&LogHead>) -> (TableState, Vec<Violation>) {
        self.wrong.extend(shape::check(&self.state));
        self.wrong
            .extend(head.and_then(|head| check_floor(&self.state, head)));
        let whole: Vec<_> = self
            .added
            .iter()
            .filter_map(|name| self.state.files.get(name))
            .filter_map(|live| check_whole(&self.state, live))
            .collect();
        self.wrong.extend(whole);
        (self.state, self.wrong)
    }
}

/// That every leaf that a part of the file touches refers to it: no compaction has read the file.
fn check_whole(state: &TableState, live: &LiveFile) -> Option<Violation> {
    let name = &live.file.name;
    let mut rows = 0_u64;
    let mut leaves = BTreeSet::new();
    for part in &live.file.parts {
        for leaf in state.leaves_touching(&part.range) {
            let Some(reference) = state.references.get(&leaf).and_then(|at| at.get(name)) else {
                return Some(Violation::new(
                    Invariant::PartitionTree,
                    format!("file {name} at leaf {leaf}"),
                    "the file has keys of the leaf, no compaction read it, and it is not referenced there",
                    BUG,
                ));
            };
            if leaves.insert(leaf) {
                rows = rows.saturating_add(reference.rows());
            }
        }
    }
    // After a split, a gap between parts may have become a leaf of its own, with a share of the rows.
    let all_touch = leaves.len() == live.references as usize;
    (all_touch && rows != live.file.rows).then(|| {
        Violation::new(
            Invariant::Rows,
            format!("file {name}"),
            format!("it has {} rows, and its references {rows}", live.file.rows),
            BUG,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{NOW, added, commit, id, name, sample},
        *,
    };
    use crate::state::table_state::{Extent, Reference};

    fn table() -> TableId {
        TableId::new("0a1b2c3d").unwrap()
    }

    /// A replay that has followed the sample by a file at both leaves.
    fn replay() -> Replay {
        let state = sample();
        let record = added(4, &[(1, 5, 4), (12, 15, 2)]);
        let entry = Entry::after(&state, &table(), NOW, vec![commit(record)]);
        let mut replay = Replay::new(&table(), state);
        assert!(replay.follow(&entry, EntryHash([1; 32])));
        replay
    }

    fn found(replay: Replay) -> Vec<Invariant> {
        let (_, wrong) = replay.finish(None);
        wrong.iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn a_file_that_no_compaction_read_has_all_its_references_and_rows() {
        assert_eq!(found(replay()), []);
        let mut lost = replay();
        lost.state.references.get_mut(&id("p2")).unwrap().remove(&name(4));
        lost.state.files.get_mut(&name(4)).unwrap().references = 1;
        assert_eq!(found(lost), [Invariant::PartitionTree]);

        let mut fewer = replay();
        let at_leaf = fewer.state.references.get_mut(&id("p2")).unwrap();
        let reference = at_leaf[&name(4)].clone();
        let extent = Extent::Share {
            range: reference.file.parts[1].range.clone(),
            rows: 1,
        };
        at_leaf.insert(name(4), Reference { extent, ..reference });
        assert_eq!(found(fewer), [Invariant::Rows]);
    }

    #[test]
    fn a_job_takes_effect_once_in_the_time_that_a_ledger_remembers() {
        let job = JobId::new("job-4").unwrap();
        let effect_after = |time| {
            let mut replay = replay();
            replay.take_effect("log entry 9", &job, NOW.plus(time));
            found(replay)
        };
        let millisecond = std::time::Duration::from_millis(1);
        assert_eq!(effect_after(LEDGER_RETENTION - millisecond), [Invariant::Once]);
        assert_eq!(effect_after(LEDGER_RETENTION), []);
    }
}
