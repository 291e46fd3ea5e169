//! The rows of simulated tables.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;

use super::memory::{MemoryRow, MemoryRowEngine};
use crate::{
    error::Result,
    key::Key,
    ports::{Ids, RowEngine},
    schema::Schema,
};

/// A key, and a text that tells which job brought the row.
pub type Row = (i64, String);

/// A form of rows: how they are stored, and which engine keeps them. Keys are one `Int64`.
pub trait Rows: Debug + Send + Sync {
    /// The name of the form.
    fn name(&self) -> &'static str;

    /// The columns of every table: a number as row key, and a text.
    ///
    /// # Errors
    /// None in fact.
    fn schema(&self) -> Result<Arc<Schema>>;

    /// An object that a client would send.
    fn encode(&self, rows: &[Row]) -> Bytes;

    /// The rows of a data file or of a file of an export, in the order in which they are stored.
    ///
    /// # Errors
    /// When it is neither.
    fn decode(&self, object: Bytes) -> Result<Vec<Row>>;

    /// An engine of a new process.
    fn engine(&self, ids: Arc<dyn Ids>) -> Arc<dyn RowEngine>;

    /// The row key of a number.
    fn key(&self, key: i64) -> Key {
        MemoryRowEngine::key(key)
    }
}

/// Rows as short texts, kept by [`MemoryRowEngine`].
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryRows;

impl Rows for MemoryRows {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn schema(&self) -> Result<Arc<Schema>> {
        MemoryRowEngine::schema()
    }

    fn encode(&self, rows: &[Row]) -> Bytes {
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, text)| MemoryRow(*key, text.clone()))
            .collect();
        MemoryRowEngine::encode(&rows)
    }

    fn decode(&self, object: Bytes) -> Result<Vec<Row>> {
        let rows = MemoryRowEngine::decode(&object)?;
        Ok(rows.into_iter().map(|row| (row.0, row.1)).collect())
    }

    fn engine(&self, ids: Arc<dyn Ids>) -> Arc<dyn RowEngine> {
        Arc::new(MemoryRowEngine::new(ids))
    }
}
