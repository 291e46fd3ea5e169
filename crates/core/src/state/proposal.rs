//! What an append would do, decided before anything is written.

use std::{borrow::Borrow, collections::BTreeMap};

use bytes::Bytes;

use super::{
    apply::{Outcome, Refusal},
    invariants::{Violation, change},
    log::Entry,
    table_state::{EntryHash, TableState},
    transaction::Commit,
};
use crate::{
    error::{ErrorKind, Result},
    ids::TableId,
    time::Timestamp,
};

/// What becomes of commits that meet a state.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// What becomes of each: for certain without an entry, else once it is appended.
    pub outcomes: Vec<Outcome>,
    /// What is to be appended; nothing when no commit changes the state.
    pub append: Option<Append>,
}

/// An entry that may be the next one of a log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The entry, with those of the commits that change something.
    pub entry: Entry,
    /// Its stored form.
    pub body: Bytes,
    /// Its hash.
    pub hash: EntryHash,
    /// The state after it.
    pub next: TableState,
}

impl Proposal {
    /// Checks `commits`, in order, against `state`. A commit whose effect would break an invariant is a fault of the
    /// program: it is refused, and nothing of it is left.
    ///
    /// # Errors
    /// `Internal` when the entry cannot be encoded.
    pub fn new<C: Borrow<Commit>>(
        state: &TableState,
        table: &TableId,
        now: Timestamp,
        commits: &[C],
    ) -> Result<Self> {
        let (mut next, mut outcomes, effective) = applied(state, now, commits);
        if effective.is_empty() {
            // No entry is written, so what was so already is so as of the newest one.
            for outcome in &mut outcomes {
                if *outcome == Outcome::Applied(next.transaction()) {
                    *outcome = Outcome::Applied(state.transaction());
                }
            }
            return Ok(Self {
                outcomes,
                append: None,
            });
        }
        let entry = Entry::after(state, table, now, effective);
        let (body, hash) = entry.encode()?;
        next.set_hash(hash);
        let append = Append {
            entry,
            body,
            hash,
            next,
        };
        Ok(Self {
            outcomes,
            append: Some(append),
        })
    }
}

/// What the commits make of `state`, each one's outcome, and those that change something.
fn applied<C: Borrow<Commit>>(
    state: &TableState,
    now: Timestamp,
    commits: &[C],
) -> (TableState, Vec<Outcome>, Vec<Commit>) {
    let mut barred: BTreeMap<usize, Violation> = BTreeMap::new();
    'again: loop {
        let mut next = state.clone();
        next.begin(state.transaction().next(), now);
        let mut outcomes = Vec::with_capacity(commits.len());
        let mut effective = Vec::new();
        for (i, commit) in commits.iter().map(Borrow::borrow).enumerate() {
            if let Some(violation) = barred.get(&i) {
                outcomes.push(Outcome::Refused(Refusal {
                    kind: ErrorKind::Internal,
                    reason: format!("the commit would break an invariant: {violation}"),
                }));
                continue;
            }
            let before = change::Before::of(&next, commit);
            let (outcome, changed) = next.apply_commit(commit);
            if let Err(violation) = before.check(&next, commit, (&outcome, changed)) {
                tracing::error!(commit = %commit.id, %violation, "commit not appended");
                barred.insert(i, violation);
                continue 'again;
            }
            outcomes.push(outcome);
            if changed {
                effective.push(commit.clone());
            }
        }
        return (next, outcomes, effective);
    }
}
