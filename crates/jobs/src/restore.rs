//! Restore: a past state of a table becomes current, by one transaction.
//!
//! The past state is read from the log, and its references are asked for again. Leaves stay as they are now: what was
//! referred to at a leaf that has split since is referred to at the leaves below it. A file that has been marked for
//! deletion since refuses the whole restore; until then the table's history keeps it, so a restore within the history
//! finds everything. Jobs that have committed since stay committed: their messages do not bring their rows back.

use dormouse_core::{
    Result,
    ids::TransactionNumber,
    state::{AsOf, Commit, CommitId, Record},
    tables::TableInfo,
    time::Timestamp,
};
use serde::Serialize;

use crate::services::Services;

/// What a restore has done.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// The transaction that did it; the one before it brings back what was there.
    pub transaction: TransactionNumber,
    /// The past state.
    pub of: TransactionNumber,
    /// When that state's transaction was.
    pub as_of: Timestamp,
    /// Rows before; estimated where leaves were split since their files were written.
    pub rows_before: u64,
    /// Rows now, as far as the past state knew.
    pub rows: u64,
    /// Files now.
    pub files: u64,
}

/// Makes a past state of a table current.
///
/// # Errors
/// `NotFound` when the state is not kept; `Conflict` when a file of it has been collected.
pub async fn restore(services: &Services, table: &TableInfo, as_of: AsOf) -> Result<Restored> {
    let past = services.states.state_as_of(&table.id, as_of).await?;
    let before = services.states.live_state(&table.id).await?;
    let files = past.to_restore();
    let restored = Restored {
        transaction: before.transaction(),
        of: past.transaction(),
        as_of: past.at(),
        rows_before: before.rows(),
        rows: past.rows(),
        files: files.len() as u64,
    };
    let record = Record::TableRestored {
        of: past.transaction(),
        files,
    };
    let id = CommitId::new(format!("restore/{}", services.ports.ids.uuid()));
    let committed = services.states.commit(&table.id, Commit::new(id, record)).await?;
    Ok(Restored {
        transaction: committed.outcome.into_result()?,
        ..restored
    })
}
