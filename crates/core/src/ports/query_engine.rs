//! SQL over tables.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;

use crate::{error::Result, ids::TableId, row_rules::RulesAt, schema::Schema, state::TableState};

/// Answers queries.
///
/// A query reads the state of each of its tables at one transaction, and writes nothing. Dropping what it answers
/// stops its work soon.
#[async_trait]
pub trait QueryEngine: Debug + Send + Sync {
    /// Begins a query: it is planned when the call returns, and its rows come as they are asked for.
    ///
    /// # Errors
    /// `Invalid` when it is no single `SELECT`, names what is not there, or does what a query may not; `Corrupt` when
    /// a file cannot be read; others as the tables answer.
    async fn query(&self, spec: QuerySpec) -> Result<Box<dyn QueryRows>>;
}

/// What a query answers, piece by piece.
#[async_trait]
pub trait QueryRows: Debug + Send {
    /// The columns of its rows.
    fn columns(&self) -> &[ResultColumn];

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// `Invalid` when a value cannot be computed, or a limit of memory or disk is reached; `Corrupt` when a file
    /// cannot be read.
    async fn next(&mut self) -> Result<Option<EncodedRows>>;

    /// Why rows are missing at the end, if some are: known after the last rows came.
    fn truncated(&self) -> Option<Truncated>;
}

/// What to ask.
#[derive(Clone, Debug)]
pub struct QuerySpec {
    /// One `SELECT`, with or without `WITH`, or an `EXPLAIN` of one.
    pub sql: String,
    /// What stands for `$name` in it.
    pub parameters: BTreeMap<String, ParameterValue>,
    /// The tables that it may name.
    pub tables: Arc<dyn QueryTables>,
    /// How its rows are written.
    pub format: RowFormat,
    /// What it may use.
    pub limits: QueryLimits,
}

/// The tables that a query may name.
#[async_trait]
pub trait QueryTables: Debug + Send + Sync {
    /// A table as the query is to see it; none when there is no such table, or not for whoever asks.
    ///
    /// # Errors
    /// As reading its state has them.
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>>;
}

/// A table as it is at one transaction.
#[derive(Clone, Debug)]
pub struct TableSnapshot {
    /// The table.
    pub table: TableId,
    /// Its columns.
    pub schema: Arc<Schema>,
    /// Its leaves and files.
    pub state: Arc<TableState>,
    /// Its filters and aggregations.
    pub rules: Option<RulesAt>,
    /// Where its files are.
    pub store: Arc<dyn ObjectStore>,
}

/// A value that stands for a name in a query.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ParameterValue {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// An object a row, each on a line of its own.
    JsonLines,
    /// An array of texts a row, each on a line of its own: values as people read them, null for none.
    TextLines,
    /// CSV with a header, `,` between values, and `"` around those that need it.
    Csv,
    /// An Arrow IPC stream.
    ArrowStream,
}

/// What a query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// How many rows it answers; more are cut off.
    pub rows: Option<u64>,
    /// How many bytes of rows it answers, as they are written; what is more is cut off, by whole rows. Not for an Arrow
    /// stream.
    pub bytes: Option<u64>,
    /// How much memory its sorts, joins and aggregates may hold before they go to disk.
    pub memory_bytes: u64,
    /// How much disk they may take.
    pub disk_bytes: u64,
}

/// A column of a query's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// The name.
    pub name: String,
    /// The type, in Arrow's words.
    pub type_name: String,
    /// Whether it may be null.
    pub nullable: bool,
}

/// Some rows of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRows {
    /// How many there are.
    pub rows: u64,
    /// The rows as they are written. What stands before the first row and after the last comes with 0 rows.
    pub bytes: Bytes,
}

/// Why a query's rows were cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// There are more rows than the limit.
    Rows,
    /// The rows take more bytes than the limit.
    Bytes,
}
