//! SQL over tables, by DataFusion.
//!
//! A query is parsed, the tables it names are asked for, and it is planned over their states: each is one transaction
//! of a table, so a query sees what was committed and nothing that comes later. It may only read: the plan is checked,
//! not the text, and there is nothing in its catalog but the tables that it may name.
//!
//! | Module | What lives there |
//! |---|---|
//! | `session` | what a query may call and use |
//! | `table` | a table at a transaction: which leaves, files and rows a filter leaves to read |
//! | `chains` | files in groups that are each in key order |
//! | `scan` | reading them, in the order of keys |
//! | `leaves` | tables with aggregations, merged leaf by leaf |
//! | `encode` | rows as they are answered |

mod chains;
mod encode;
mod leaves;
mod scan;
mod session;
mod table;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::Arc,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use async_trait::async_trait;
use datafusion::{
    common::{ParamValues, ScalarValue, TableReference, metadata::ScalarAndMetadata},
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionState, cache::cache_manager::FileMetadataCache, context::SQLOptions,
    },
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    physical_plan::execute_stream,
    sql::{parser::Statement, sqlparser::ast},
};
use dormouse_core::{
    Error, Result,
    ports::{
        EncodedRows, Ids, ParameterValue, QueryEngine, QueryLimits, QueryRows, QuerySpec, QueryTables,
        ResultColumn, Truncated,
    },
};
use futures::{FutureExt, StreamExt};

use self::{encode::RowEncoder, session::footer_cache, table::SnapshotTable};
use crate::{options::EngineOptions, spill::SpillDirectory};

/// The longest text of a query, in bytes.
pub const MAX_SQL_BYTES: usize = 100_000;

/// Answers SQL over tables.
#[derive(Debug)]
pub struct SqlEngine {
    threads: NonZeroUsize,
    spill: SpillDirectory,
    footers: Arc<FileMetadataCache>,
}

impl SqlEngine {
    /// An engine with the threads and the spill directory of `options`. It keeps footers of files that it has read, up
    /// to `footer_bytes`.
    pub fn new(options: &EngineOptions, footer_bytes: usize, ids: &dyn Ids) -> Self {
        Self {
            threads: options.threads,
            spill: SpillDirectory::new(&options.spill_directory, ids.uuid()),
            footers: footer_cache(footer_bytes),
        }
    }

    async fn plan(&self, session: &SessionState, spec: &QuerySpec) -> Result<LogicalPlan> {
        if spec.sql.len() > MAX_SQL_BYTES {
            return Err(Error::invalid(format!(
                "the query has {} bytes, and may have {MAX_SQL_BYTES}",
                spec.sql.len()
            )));
        }
        let dialect = session.config_options().sql_parser.dialect;
        let statement = session
            .sql_to_statement(&spec.sql, &dialect)
            .map_err(|error| refused(&error))?;
        check_statement(&statement)?;
        let names = session
            .resolve_table_references(&statement)
            .map_err(|error| refused(&error))?;
        self.register(session, names, &*spec.tables).await?;
        let plan = session
            .statement_to_plan(statement)
            .await
            .map_err(|error| refused(&error))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|error| refused(&error))?;
        let plan = plan
            .with_param_values(parameters(&spec.parameters))
            .map_err(|error| refused(&error))?;
        limited(plan, spec.limits.rows)
    }

    /// Makes the tables that a query names known to its session.
    async fn register(
        &self,
        session: &SessionState,
        names: Vec<TableReference>,
        tables: &dyn QueryTables,
    ) -> Result<()> {
        for (number, name) in names.into_iter().enumerate() {
            let TableReference::Bare { table } = &name else {
                return Err(Error::invalid(format!(
                    "\"{name}\" is no table; tables have names of one part"
                )));
            };
            let snapshot = tables
                .table(table)
                .await?
                .ok_or_else(|| Error::invalid(format!("Table '{table}' does not exist")))?;
            let provider = SnapshotTable::new(snapshot, number, self.footers.clone())
                .map_err(|error| refused(&error))?;
            session
                .schema_for_ref(name.clone())
                .and_then(|schema| schema.register_table(table.to_string(), Arc::new(provider)))
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }
}

#[async_trait]
impl QueryEngine for SqlEngine {
    async fn query(&self, spec: QuerySpec) -> Result<Box<dyn QueryRows>> {
        let begin = AssertUnwindSafe(async {
            let session = session::session(self.threads, self.spill.path()?, &spec.limits)?;
            let plan = self.plan(&session, &spec).await?;
            let physical = session
                .create_physical_plan(&plan)
                .await
                .map_err(|error| refused(&error))?;
            let rows = execute_stream(physical, session.task_ctx()).map_err(|error| failed(&error))?;
            Ok(rows)
        })
        .catch_unwind();
        let rows = begin.await.unwrap_or_else(|panic| Err(panicked(&*panic)))?;
        Ok(Box::new(Rows::new(rows, &spec)?))
    }
}

/// That a statement is a query, or explains one.
fn check_statement(statement: &Statement) -> Result<()> {
    let wrong = |found: &str| {
        Err(Error::invalid(format!(
            "{found} is not allowed; a query is one SELECT, with or without WITH"
        )))
    };
    match statement {
        Statement::Statement(statement) => match &**statement {
            ast::Statement::Query(_) => Ok(()),
            other => {
                let text = other.to_string();
                wrong(text.split_whitespace().next().unwrap_or("this"))
            }
        },
        Statement::Explain(explain) => check_statement(&explain.statement),
        Statement::CreateExternalTable(_) => wrong("CREATE EXTERNAL TABLE"),
        Statement::CopyTo(_) => wrong("COPY"),
        Statement::Reset(_) => wrong("RESET"),
    }
}

/// The plan with its rows limited to one more than asked for, so that it shows whether there are more.
fn limited(plan: LogicalPlan, rows: Option<u64>) -> Result<LogicalPlan> {
    let Some(rows) = rows else { return Ok(plan) };
    if matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_)) {
        return Ok(plan);
    }
    let fetch = usize::try_from(rows).unwrap_or(usize::MAX).saturating_add(1);
    LogicalPlanBuilder::from(plan)
        .limit(0, Some(fetch))
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| refused(&error))
}

fn parameters(values: &BTreeMap<String, ParameterValue>) -> ParamValues {
    let scalar = |value: &ParameterValue| match value {
        ParameterValue::Null => ScalarValue::Null,
        ParameterValue::Boolean(value) => ScalarValue::Boolean(Some(*value)),
        ParameterValue::Integer(value) => ScalarValue::Int64(Some(*value)),
        ParameterValue::Float(value) => ScalarValue::Float64(Some(*value)),
        ParameterValue::Text(value) => ScalarValue::Utf8(Some(value.clone())),
    };
    let named: HashMap<_, _> = values
        .iter()
        .map(|(name, value)| (name.clone(), ScalarAndMetadata::from(scalar(value))))
        .collect();
    ParamValues::Map(named)
}

/// What is wrong with a query that cannot be planned.
fn refused(error: &DataFusionError) -> Error {
    kind_of(error).unwrap_or_else(|| Error::invalid(reason(error)))
}

/// What is wrong with a query that is under way.
fn failed(error: &DataFusionError) -> Error {
    kind_of(error).unwrap_or_else(|| Error::invalid(format!("the query failed: {}", reason(error))))
}

/// An error that is not the query's.
fn kind_of(error: &DataFusionError) -> Option<Error> {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) => Some(too_large(text)),
        // Spilling has no error of its own.
        DataFusionError::ArrowError(source, _) => match &**source {
            ArrowError::IoError(text, _) => Some(too_large(text)),
            _ => None,
        },
        DataFusionError::External(source) => {
            let ours = source.downcast_ref::<Error>()?;
            Some(Error::new(ours.kind(), ours.report()))
        }
        DataFusionError::ObjectStore(source) => Some(of_store(source)),
        DataFusionError::ParquetError(source) => Some(of_parquet(source)),
        DataFusionError::IoError(source) => Some(Error::unavailable(format!(
            "the query cannot use the disk: {source}"
        ))),
        _ => None,
    }
}

fn too_large(reason: &str) -> Error {
    Error::invalid(format!(
        "the query needs more memory or disk than it may use: {reason}"
    ))
}

fn of_store(error: &object_store::Error) -> Error {
    match error {
        // Its state was newer than what the garbage collector goes by when the query began.
        object_store::Error::NotFound { path, .. } => Error::unavailable(format!(
            "file {path} was collected while the query ran; ask again"
        )),
        error => Error::unavailable(format!("a file cannot be read: {error}")),
    }
}

fn of_parquet(error: &parquet::errors::ParquetError) -> Error {
    if let parquet::errors::ParquetError::External(source) = error
        && let Some(source) = source.downcast_ref::<object_store::Error>()
    {
        return of_store(source);
    }
    Error::corrupt(format!("a file of the table cannot be read: {error}"))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why");
    tracing::error!(panic = text, "a query panicked");
    Error::internal(format!("the query cannot be answered: {text}"))
}

/// What is wrong, for people.
pub(crate) fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        error => error.strip_backtrace(),
    }
}

/// A query under way.
struct Rows {
    rows: SendableRecordBatchStream,
    columns: Vec<ResultColumn>,
    encoder: RowEncoder,
    limits: QueryLimits,
    sent: (u64, u64),
    end: End,
    truncated: Option<Truncated>,
}

/// How far a query's answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    LastRowsSent,
    Closed,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl Rows {
    fn new(rows: SendableRecordBatchStream, spec: &QuerySpec) -> Result<Self> {
        let schema = rows.schema();
        Ok(Self {
            columns: columns(&schema),
            encoder: RowEncoder::new(spec.format, &schema)?,
            rows,
            limits: spec.limits,
            sent: (0, 0),
            end: End::Open,
            truncated: None,
        })
    }

    /// As much of a batch as the limits allow, as it is written.
    fn encode(&mut self, batch: RecordBatch) -> Result<EncodedRows> {
        let left = self.limits.rows.map_or(u64::MAX, |rows| rows - self.sent.0);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(batch.num_rows());
        if wanted < batch.num_rows() {
            self.truncated = Some(Truncated::Rows);
        }
        let most = self
            .limits
            .bytes
            .map_or(u64::MAX, |bytes| bytes.saturating_sub(self.sent.1));
        let (rows, bytes) = self.encoder.encode(&batch.slice(0, wanted), most)?;
        if rows < wanted {
            self.truncated = Some(Truncated::Bytes);
        }
        if self.truncated.is_some() {
            self.end = End::LastRowsSent;
        }
        self.sent.0 += rows as u64;
        self.sent.1 += bytes.len() as u64;
        Ok(EncodedRows {
            rows: rows as u64,
            bytes: bytes.into(),
        })
    }
}

#[async_trait]
impl QueryRows for Rows {
    fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    async fn next(&mut self) -> Result<Option<EncodedRows>> {
        while self.end == End::Open {
            let next = AssertUnwindSafe(self.rows.next()).catch_unwind();
            match next.await.map_err(|panic| panicked(&*panic))? {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => return self.encode(batch).map(Some),
                Some(Err(error)) => {
                    self.end = End::Closed;
                    return Err(failed(&error));
                }
                None => self.end = End::LastRowsSent,
            }
        }
        if self.end == End::Closed {
            return Ok(None);
        }
        self.end = End::Closed;
        let bytes = self.encoder.finish()?;
        Ok((!bytes.is_empty()).then(|| EncodedRows {
            rows: 0,
            bytes: bytes.into(),
        }))
    }

    fn truncated(&self) -> Option<Truncated> {
        self.truncated
    }
}

fn columns(schema: &SchemaRef) -> Vec<ResultColumn> {
    let columns = schema.fields().iter().map(|field| ResultColumn {
        name: field.name().clone(),
        type_name: encode::plain_type(field.data_type()).to_string(),
        nullable: field.is_nullable(),
    });
    columns.collect()
}
