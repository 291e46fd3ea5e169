//! The log as stored: no hole, no reuse, a chain of hashes, and a head that agrees.

use std::collections::BTreeMap;

use super::{
    super::{TableState, log::Entry, table_state::EntryHash, transaction::CommitId},
    Invariant, Violation,
};
use crate::{
    error::Error,
    ids::{TableId, TransactionNumber},
    time::Timestamp,
};

const HOLE: &str = "restore the entry from a backup of the item store, or the table from a snapshot: states after \
                    the newest snapshot before it cannot be read";
const DAMAGE: &str = "restore the entry from a backup of the item store; the newest snapshot after it still gives \
                      the table's state";
const HEAD: &str =
    "restore the head and the entries together from a backup of the item store: commits may be lost";
const BUG: &str = "stop the writers and keep the log: it holds what the program must never write";

/// The newest entry of a log, as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Its number.
    pub number: TransactionNumber,
    /// Its hash.
    pub hash: EntryHash,
    /// The oldest entry that must be there.
    pub floor: TransactionNumber,
}

/// Checks the entries of one log, one after the other in the order of their numbers.
#[derive(Debug)]
pub struct LogCheck<'a> {
    table: &'a TableId,
    first: Option<TransactionNumber>,
    last: Option<(TransactionNumber, Option<EntryHash>)>,
    at: Timestamp,
    commits: BTreeMap<CommitId, TransactionNumber>,
    wrong: Vec<Violation>,
}

impl<'a> LogCheck<'a> {
    /// A check of the log of `table`.
    pub fn new(table: &'a TableId) -> Self {
        Self {
            table,
            first: None,
            last: None,
            at: Timestamp::default(),
            commits: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    fn add(&mut self, invariant: Invariant, number: TransactionNumber, found: String, remedy: &'static str) {
        self.wrong
            .push(Violation::new(invariant, place(number), found, remedy));
    }

    /// Takes an entry that is stored under `number`.
    pub fn entry(&mut self, number: TransactionNumber, entry: &Entry, hash: EntryHash) {
        let before = self.last.and_then(|(last, hash)| Some((last, hash?)));
        let follows = self.follow(number, Some(hash));
        if entry.number != number || entry.table() != self.table {
            self.add(
                Invariant::Log,
                number,
                format!("the item holds entry {} of table {}", entry.number, entry.table()),
                DAMAGE,
            );
            return;
        }
        match before {
            Some((_, before)) if follows && before != entry.previous => self.add(
                Invariant::Log,
                number,
                "its hash of the entry before is not that entry's: one of the two was changed".to_owned(),
                DAMAGE,
            ),
            None if number.0 == 1 && entry.previous != EntryHash::default() => self.add(
                Invariant::Log,
                number,
                "it is the first entry, and names one before it".to_owned(),
                DAMAGE,
            ),
            _ => {}
        }
        if entry.at < self.at {
            self.add(
                Invariant::Log,
                number,
                format!("it was made at {}, before the entry before it", entry.at),
                BUG,
            );
        }
        self.at = self.at.max(entry.at);
        for commit in &entry.commits {
            if let Some(earlier) = self.commits.insert(commit.id.clone(), number) {
                self.add(
                    Invariant::Once,
                    number,
                    format!("it holds commit {}, as entry {earlier} does", commit.id),
                    BUG,
                );
            }
        }
    }

    /// Takes an entry that cannot be read; `hash` is what its item says.
    pub fn damaged(&mut self, number: TransactionNumber, hash: Option<EntryHash>, error: &Error) {
        self.follow(number, hash);
        self.add(Invariant::Log, number, error.report(), DAMAGE);
    }

    /// Moves to `number`, and says whether it is the next one.
    fn follow(&mut self, number: TransactionNumber, hash: Option<EntryHash>) -> bool {
        let expected = self.last.map(|(last, _)| last.next());
        let follows = expected.is_none_or(|expected| expected == number);
        if let Some(expected) = expected.filter(|_| !follows) {
            let found = match number.0.checked_sub(1) {
                Some(last) if last > expected.0 => format!("entries {expected} to {last} are missing"),
                _ => "it is missing".to_owned(),
            };
            self.add(Invariant::Log, expected, found, HOLE);
        }
        self.first.get_or_insert(number);
        self.last = Some((number, hash));
        follows
    }

    /// The last entry so far.
    pub fn last(&self) -> Option<TransactionNumber> {
        self.last.map(|(last, _)| last)
    }

    /// Compares the whole with the head and with the numbers of verified snapshots, and ends.
    pub fn finish(
        mut self,
        head: Option<&LogHead>,
        snapshots: impl IntoIterator<Item = TransactionNumber>,
    ) -> Vec<Violation> {
        let Some(head) = head else {
            if let Some((last, _)) = self.last {
                self.head(format!("there is none, and the log ends with entry {last}"), HEAD);
            }
            return self.wrong;
        };
        let (last, hash) = self.last.unwrap_or_default();
        if head.number != last {
            self.head(
                format!("it is at entry {}, and the log ends with {last}", head.number),
                HEAD,
            );
        } else if hash.is_some_and(|hash| hash != head.hash) {
            self.head(format!("its hash is not that of entry {last}"), HEAD);
        }
        let first = self.first.unwrap_or(head.number.next());
        if first > head.floor {
            let found = format!(
                "the log begins with entry {first}, and was cut only before {}",
                head.floor
            );
            self.add(Invariant::Log, head.floor, found, HOLE);
        } else if first.0 > 1
            && !snapshots
                .into_iter()
                .any(|snapshot| snapshot.next() >= first && snapshot <= head.number)
        {
            self.add(
                Invariant::Log,
                first,
                "entries before it are gone, and no verified snapshot stands for them".to_owned(),
                HOLE,
            );
        }
        self.wrong
    }

    fn head(&mut self, found: String, remedy: &'static str) {
        self.wrong
            .push(Violation::new(Invariant::Log, "the log's head", found, remedy));
    }
}

fn place(number: TransactionNumber) -> String {
    format!("log entry {number}")
}

/// Checks a whole log at once; see [`LogCheck`].
pub fn check_log<'a>(
    table: &TableId,
    entries: impl IntoIterator<Item = (&'a Entry, EntryHash)>,
    head: Option<&LogHead>,
    snapshots: impl IntoIterator<Item = TransactionNumber>,
) -> Vec<Violation> {
    let mut check = LogCheck::new(table);
    for (entry, hash) in entries {
        check.entry(entry.number, entry, hash);
    }
    check.finish(head, snapshots)
}

/// That a log's head, seen twice, did not go back.
pub fn check_succession(before: Option<&LogHead>, after: Option<&LogHead>) -> Vec<Violation> {
    let Some(before) = before else { return Vec::new() };
    let found = match after {
        None => format!("it was at entry {}, and is gone", before.number),
        Some(after) if after.number < before.number || after.floor < before.floor => format!(
            "it went back from entry {} and floor {} to {} and {}",
            before.number, before.floor, after.number, after.floor
        ),
        Some(after) if after.number == before.number && after.hash != before.hash => {
            format!("entry {} was written again", before.number)
        }
        Some(_) => return Vec::new(),
    };
    vec![Violation::new(Invariant::Log, "the log's head", found, HEAD)]
}

/// That every acknowledged commit is where its acknowledgement says, among entries from `floor` on.
pub fn check_acknowledged<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    floor: TransactionNumber,
    acknowledged: impl IntoIterator<Item = (&'a CommitId, TransactionNumber)>,
) -> Vec<Violation> {
    let found: BTreeMap<&CommitId, TransactionNumber> = entries
        .into_iter()
        .flat_map(|entry| entry.commits.iter().map(|commit| (&commit.id, entry.number)))
        .collect();
    acknowledged
        .into_iter()
        .filter(|(id, number)| *number >= floor && found.get(id) != Some(number))
        .map(|(id, number)| {
            let found = match found.get(id) {
                Some(other) => format!("it was acknowledged in entry {number}, and is in {other}"),
                None => format!("it was acknowledged in entry {number}, and is not in the log"),
            };
            Violation::new(Invariant::Ack, format!("commit {id}"), found, BUG)
        })
        .collect()
}

/// That the floor which a state knows is the one in the head of its entry.
pub(super) fn check_floor(state: &TableState, head: &LogHead) -> Option<Violation> {
    (state.transaction == head.number && state.floor != head.floor).then(|| {
        let found = format!("its floor is {}, and the log's is {}", head.floor, state.floor);
        Violation::new(Invariant::Log, "the log's head", found, HEAD)
    })
}
