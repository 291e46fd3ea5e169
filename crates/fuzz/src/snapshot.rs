//! Snapshots of table state: as stored, or as frames that are compressed here, since a change in compressed bytes
//! seldom reaches what is inside.

use std::io::Write as _;

use dormouse_core::{
    ErrorKind,
    ids::TransactionNumber,
    state::{Commit, CommitId, Record, TableState, invariants, snapshot},
};

use crate::transaction::table;

const MAGIC: &[u8] = b"DMSNAP01";

pub(crate) fn run(data: &[u8]) {
    if data.starts_with(MAGIC) {
        return check(data);
    }
    let mut encoder = zstd::stream::write::Encoder::new(MAGIC.to_vec(), 1)
        .unwrap_or_else(|error| panic!("no compression: {error}"));
    let stored = encoder.write_all(data).and_then(|()| encoder.finish());
    check(&stored.unwrap_or_else(|error| panic!("no compression: {error}")));
}

fn check(stored: &[u8]) {
    let state = match snapshot::decode(&table(), stored) {
        Ok(state) => state,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report()),
    };
    let again = snapshot::encode(&table(), &state).unwrap_or_else(|error| panic!("{error}"));
    let read = snapshot::decode(&table(), &again).unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(
        read == state,
        "a state is another one after it was written and read"
    );
    ask(&state);
}

/// Nothing that a state is asked or told may panic, sound or not.
fn ask(state: &TableState) {
    let _ = invariants::check(state);
    let _ = (state.rows(), state.reference_count(), state.oldest_readable());
    for leaf in state.leaves() {
        for reference in state.references(&leaf.id) {
            let _ = (reference.range(), reference.rows(), reference.exact());
        }
    }
    if state.transaction() == TransactionNumber(u64::MAX) {
        return;
    }
    let mut state = state.clone();
    let files: Vec<_> = state.files().map(|(file, _)| file.name.clone()).collect();
    let records = [
        Record::GarbageMarked { files: files.clone() },
        Record::FilesDeleted { files },
        Record::TableCleared,
        Record::TableDeleted,
    ];
    let commits: Vec<_> = records
        .into_iter()
        .enumerate()
        .map(|(number, record)| Commit::new(CommitId::new(number.to_string()), record))
        .collect();
    let _ = state.apply(state.transaction().next(), state.at(), &commits);
}
