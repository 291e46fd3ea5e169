//! The schema's versions. A migration that was released never changes; a new schema is a new file.

use std::path::Path;

use dormouse_core::{Error, Result};
use rusqlite::{Connection, TransactionBehavior};

use crate::error::Failure;

const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_items_and_messages.sql")];

/// Brings the database to the newest schema version, in one transaction.
///
/// # Errors
/// `Invalid` when it has a newer version than this program knows.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    run(connection, path).map_err(Error::from)
}

fn run(connection: &mut Connection, path: &Path) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let applied = usize::try_from(version).unwrap_or(0);
    if applied > MIGRATIONS.len() {
        return Err(Failure::Ours(Error::invalid(format!(
            "{} has schema version {version}, written by a newer Dormouse; this one knows versions up to {}",
            path.display(),
            MIGRATIONS.len()
        ))));
    }
    for migration in &MIGRATIONS[applied..] {
        transaction.execute_batch(migration)?;
    }
    if applied < MIGRATIONS.len() {
        transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    }
    transaction.commit()?;
    Ok(())
}
