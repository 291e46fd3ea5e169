//! SQL over tables.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStore, path::Path};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ids::TableId,
    predicate::Predicate,
    row_rules::RulesAt,
    schema::Schema,
    state::TableState,
    tenants::TenantId,
    time::Timestamp,
};

/// The longest text of a query, in bytes.
pub const MAX_SQL_BYTES: usize = 100_000;

/// How many joins a query has at most, each comma in `FROM` one.
pub const MAX_JOINS: usize = 32;

/// How many queries are inside a query at most, those of `WITH` among them.
pub const MAX_SUBQUERIES: usize = 64;

/// How long a query is in a log.
pub const MAX_MASKED_BYTES: usize = 2000;

/// Answers queries.
///
/// A query reads the state of each of its tables at one transaction. Dropping what it answers, or the future that
/// writes it, stops its work soon.
#[async_trait]
pub trait QueryEngine: Debug + Send + Sync {
    /// Begins a query: it is planned when the call returns, and its rows come as they are asked for.
    ///
    /// # Errors
    /// `Invalid` when it is no single `SELECT`, names what is not there, or does what a query may not; `Corrupt` when
    /// a file cannot be read; others as the tables answer.
    async fn query(&self, spec: QuerySpec, format: RowFormat) -> Result<Box<dyn QueryRows>>;

    /// Writes all rows of a query as objects. What is written streams: memory is bounded whatever the rows are. An
    /// object is there whole or not at all; after an error some of them may be there.
    ///
    /// # Errors
    /// As [`QueryEngine::query`] and [`QueryRows::next`] have them; `Invalid` when a column of the rows cannot be
    /// written in that format, or rows cannot be partitioned as asked for; `Unavailable` as the store has it.
    async fn write(&self, spec: QuerySpec, output: QueryOutput) -> Result<WrittenQuery>;

    /// Checks that the predicate of a row policy fits a table with these columns.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong.
    fn check_row_policy(&self, schema: &Arc<Schema>, predicate: &Predicate) -> Result<()>;

    /// A query as logs may have it: with `?` for each text and number, without comments, and not longer than
    /// [`MAX_MASKED_BYTES`]. Of what is not SQL, nothing is left.
    fn masked(&self, sql: &str) -> String;
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
    /// Which of its rows whoever asks may read; none for all.
    pub policy: Option<RowPolicy>,
    /// Where its files are.
    pub store: Arc<dyn ObjectStore>,
}

/// Which rows of another's table a tenant may read. Nothing that a query computes sees any other, be it in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPolicy {
    /// They are those for which it is true. `$tenant` in it is the reader's id.
    pub predicate: Predicate,
    /// Who reads.
    pub reader: TenantId,
}

/// Why a query is refused, where callers tell it from other faults: the source of an `Invalid` error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryRefusal {
    /// A statement of this kind is no query.
    NotAQuery(String),
    /// There is no table with this name, or not for whoever asks.
    AbsentTable(String),
}

impl QueryRefusal {
    /// The refusal that an error is of, if it is of one.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for QueryRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAQuery(statement) => write!(
                f,
                "{statement} is not allowed; a query is one SELECT, with or without WITH"
            ),
            Self::AbsentTable(name) => write!(f, "Table '{name}' does not exist"),
        }
    }
}

impl std::error::Error for QueryRefusal {}

impl From<QueryRefusal> for Error {
    fn from(refusal: QueryRefusal) -> Self {
        Self::invalid(refusal.to_string()).with_source(refusal)
    }
}

/// A value that stands for a name in a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
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

/// Where the rows of a query go, and how.
///
/// The objects are `<prefix>/<name>.<ending>`; with `partition_by`,
/// `<prefix>/<name>/<column>=<value>/…/<number>.parquet`. The ending is the format's, then the compression's:
/// `csv.gz`, `json.zst`, `ndjson`, `parquet`.
#[derive(Clone, Debug)]
pub struct QueryOutput {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// What the objects are below.
    pub prefix: Path,
    /// The name of the object, without its ending.
    pub name: String,
    /// What it holds.
    pub format: FileFormat,
    /// When the rows were asked for, as the metadata of [`FileFormat::Json`] says.
    pub generated_at: Timestamp,
    /// Is told how far it is.
    pub progress: Arc<QueryProgress>,
}

/// What an object of rows holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FileFormat {
    /// CSV (RFC 4180).
    Csv {
        /// Which CSV.
        #[serde(flatten)]
        csv: CsvFormat,
        /// Of the whole.
        compression: Compression,
    },
    /// One object: `{"metadata":{"columns":[…],"row_count":N,"generated_at":…},"data":[{…}]}`, metadata first.
    Json {
        /// Of the whole.
        compression: Compression,
    },
    /// An object a row, each on a line of its own.
    JsonLines {
        /// Of the whole.
        compression: Compression,
    },
    /// Parquet with the types of the query's columns.
    Parquet {
        /// Of its pages.
        compression: PageCompression,
        /// The columns that make directories, and are not in the files. Empty for one file.
        partition_by: Vec<String>,
    },
}

/// How CSV is written. A null is an empty field, or the marker; an empty text is `""`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvFormat {
    /// What is between values; a character of ASCII that is no quote and no line end.
    pub delimiter: char,
    /// Whether lines end with `\r\n`, not `\n`.
    pub crlf: bool,
    /// Whether the first line has the columns' names.
    pub header: bool,
    /// What stands for a null. Text that is the same is quoted.
    pub null_marker: String,
}

impl Default for CsvFormat {
    /// `,`, `\n`, a header, and nothing for null.
    fn default() -> Self {
        Self {
            delimiter: ',',
            crlf: false,
            header: true,
            null_marker: String::new(),
        }
    }
}

/// How a whole object is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// Gzip; may have several members (RFC 1952), which decoders join.
    Gzip,
    /// Zstandard, one frame.
    Zstd,
}

/// How the pages of a Parquet file are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageCompression {
    /// Not.
    None,
    /// Snappy.
    #[default]
    Snappy,
    /// Zstandard.
    Zstd,
}

impl FileFormat {
    /// How names of its objects end, such as `csv.gz`.
    pub fn ending(&self) -> &'static str {
        match self {
            Self::Csv { compression, .. } => ["csv", "csv.gz", "csv.zst"][*compression as usize],
            Self::Json { compression } => ["json", "json.gz", "json.zst"][*compression as usize],
            Self::JsonLines { compression } => ["ndjson", "ndjson.gz", "ndjson.zst"][*compression as usize],
            Self::Parquet { .. } => "parquet",
        }
    }
}

/// How far a query is. It only grows.
#[derive(Debug, Default)]
pub struct QueryProgress {
    rows_to_read: AtomicU64,
    rows_read: AtomicU64,
    rows_written: AtomicU64,
    bytes_written: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $add:ident, $name:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> u64 {
            self.$name.load(Ordering::Relaxed)
        }

        #[doc = concat!("Adds to [`QueryProgress::", stringify!($name), "`].")]
        pub fn $add(&self, more: u64) {
            self.$name.fetch_add(more, Ordering::Relaxed);
        }
    )*};
}

impl QueryProgress {
    counters! {
        /// How many rows there are to read, as far as the states of the tables tell.
        add_rows_to_read, rows_to_read;
        /// How many rows were read, or passed over.
        add_rows_read, rows_read;
        /// How many rows were written.
        add_rows_written, rows_written;
        /// How many bytes were written.
        add_bytes_written, bytes_written;
    }
}

/// What a query has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenQuery {
    /// The columns of its rows.
    pub columns: Vec<ResultColumn>,
    /// How many rows.
    pub rows: u64,
    /// The objects, in the order of their rows; at least one.
    pub files: Vec<WrittenFile>,
}

/// One object that a query has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// The object.
    pub path: String,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The SHA-256 of them, in hexadecimal.
    pub sha256: String,
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
    /// How many joins it has at most, each comma in `FROM` one; never more than [`MAX_JOINS`].
    pub joins: usize,
    /// How many queries are inside it at most, beside those of `WITH`; with those never more than [`MAX_SUBQUERIES`].
    pub subqueries: usize,
}

/// A column of a query's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
