//! What an append would do, decided before anything is written.

use std::borrow::Borrow;

use bytes::Bytes;

use super::{
    apply::Outcome,
    log::Entry,
    table_state::{EntryHash, TableState},
    transaction::Commit,
};
use crate::{error::Result, ids::TableId, time::Timestamp};

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
    /// Checks `commits`, in order, against `state`.
    ///
    /// # Errors
    /// `Internal` when the entry cannot be encoded.
    pub fn new<C: Borrow<Commit>>(
        state: &TableState,
        table: &TableId,
        now: Timestamp,
        commits: &[C],
    ) -> Result<Self> {
        let mut next = state.clone();
        next.begin(state.transaction().next(), now);
        let mut outcomes = Vec::with_capacity(commits.len());
        let mut effective = Vec::new();
        for commit in commits.iter().map(Borrow::borrow) {
            let (outcome, changed) = next.apply_commit(commit);
            outcomes.push(outcome);
            if changed {
                effective.push(commit.clone());
            }
        }
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
