//! Which files a purge looks into.
//!
//! A purge is about the rows of one state, its beginning. They are in that state's files, and in files that were made
//! of these since: the outputs of compactions, and what a restore brought back. Files that were ingested since have
//! none of them; nor has the output of a compaction that left out the purged rows itself.

use std::collections::BTreeMap;

use crate::{
    ids::{JobId, JobKind, TransactionNumber},
    partition::Leaf,
    state::{Reference, TableState},
};

/// The leaves with the references whose rows may have been in the table at transaction `since`, in key order, without
/// those that were written by the jobs that `purged` knows.
///
/// Where several jobs committed in one transaction, a file counts as the most doubtful one's.
pub fn suspects(
    state: &TableState,
    since: TransactionNumber,
    purged: impl Fn(&JobId) -> bool,
) -> Vec<(Leaf, Vec<Reference>)> {
    let mut doubtful: BTreeMap<TransactionNumber, bool> = BTreeMap::new();
    for (job, entry) in state.ledger().filter(|(_, entry)| entry.transaction > since) {
        let is_clean = entry.kind == JobKind::Ingest || purged(job);
        *doubtful.entry(entry.transaction).or_default() |= !is_clean;
    }
    let is_suspect = |reference: &Reference| {
        let added = state.added(&reference.file.name);
        added.is_none_or(|added| added <= since || doubtful.get(&added).copied().unwrap_or(true))
    };
    let of_leaf = |leaf: Leaf| {
        let references: Vec<_> = state
            .references(&leaf.id)
            .filter(|found| is_suspect(found))
            .cloned()
            .collect();
        (!references.is_empty()).then_some((leaf, references))
    };
    state.leaves().filter_map(of_leaf).collect()
}
