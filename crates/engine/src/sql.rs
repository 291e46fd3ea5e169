//! SQL over tables, by DataFusion.
//!
//! A query is parsed, the tables it names are asked for, and it is planned over their states: each is one transaction
//! of a table, so a query sees what was committed and nothing that comes later. It may only read: the plan is checked,
//! not the text, and there is nothing in its catalog but the tables that it may name. It runs on threads of the engine's
//! own.
//!
//! | Module | What lives there |
//! |---|---|
//! | `workers` | the threads that queries run on |
//! | `statement`, `plan` | what a statement may be; from its text to a plan |
//! | `session` | what a query may call and use |
//! | `decimals` | literals of decimals at the scale of what they are added to |
//! | `growth`, `operators` | functions and operators that refuse to make what is too long |
//! | `run`, `windows`, `pauses`, `passing` | running a plan; the memory of windows; turns for others; the node of those whose rows are those of their input |
//! | `table` | a table at a transaction: which leaves, files and rows a filter leaves to read |
//! | `row_policy` | rows that whoever asks may not see, left out before all else |
//! | `chains` | files in groups that are each in key order |
//! | `scan`, `reading` | reading them, in the order of keys; how far that is |
//! | `leaves` | tables with aggregations, merged leaf by leaf |
//! | `pieces` | batches cut in pieces that are small as they are written |
//! | `answer`, `encode` | rows as they are answered |
//! | `write` | rows as objects |
//! | `csv` | CSV of both |
//! | `failure` | what is wrong, in the words of the ports |

mod answer;
mod chains;
mod csv;
mod decimals;
mod encode;
mod failure;
mod growth;
mod leaves;
mod operators;
mod passing;
mod pauses;
mod pieces;
mod plan;
mod reading;
mod row_policy;
mod run;
mod scan;
mod session;
mod statement;
mod table;
mod windows;
mod workers;
mod write;

use std::{num::NonZeroUsize, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::{SessionState, cache::cache_manager::FileMetadataCache};
use dormouse_core::{
    Result,
    ports::{
        FileFormat, Ids, QueryEngine, QueryLimits, QueryOutput, QueryProgress, QueryRows, QuerySpec,
        ResultColumn, RowFormat, WrittenQuery,
    },
    predicate::Predicate,
    schema::Schema,
};

pub(crate) use self::failure::reason;
use self::{
    answer::Answer,
    plan::{Planner, limited},
    run::execute,
    session::footer_cache,
    statement::masked,
    workers::{Work, Workers},
};
use crate::{options::EngineOptions, spill::SpillDirectory};

/// Answers SQL over tables.
#[derive(Debug)]
pub struct SqlEngine {
    threads: NonZeroUsize,
    spill: SpillDirectory,
    footers: Arc<FileMetadataCache>,
    workers: Workers,
}

impl SqlEngine {
    /// An engine with the threads and the spill directory of `options`. It keeps footers of files that it has read, up
    /// to `footer_bytes`.
    pub fn new(options: &EngineOptions, footer_bytes: usize, ids: &dyn Ids) -> Self {
        Self {
            threads: options.threads,
            spill: SpillDirectory::new(&options.spill_directory, ids.uuid()),
            footers: footer_cache(footer_bytes),
            workers: Workers::new(options.threads),
        }
    }

    fn session(&self, limits: &QueryLimits) -> Result<SessionState> {
        session::session(self.threads, self.spill.path()?, limits)
    }

    fn planner(&self, progress: Arc<QueryProgress>) -> Planner {
        Planner {
            footers: self.footers.clone(),
            progress,
        }
    }
}

#[async_trait]
impl QueryEngine for SqlEngine {
    async fn query(&self, spec: QuerySpec, format: RowFormat) -> Result<Box<dyn QueryRows>> {
        let workers = self.workers.handle()?;
        let session = self.session(&spec.limits)?;
        let planner = self.planner(Arc::default());
        let limits = spec.limits;
        let mut begin = Work::begin(&workers, async move {
            let plan = planner.plan(&session, &spec).await?;
            execute(&session, &limited(plan, limits.rows)?).await
        });
        let rows = begin.end().await??;
        Ok(Box::new(Answer::new(&workers, rows, format, limits)?))
    }

    fn check_row_policy(&self, schema: &Arc<Schema>, predicate: &Predicate) -> Result<()> {
        row_policy::check(schema, predicate)
    }

    fn masked(&self, sql: &str) -> String {
        masked(sql)
    }

    async fn write(&self, spec: QuerySpec, output: QueryOutput) -> Result<WrittenQuery> {
        let session = self.session(&spec.limits)?;
        let planner = self.planner(output.progress.clone());
        let mut work = Work::begin(&self.workers.handle()?, async move {
            let mut plan = planner.plan(&session, &spec).await?;
            if let FileFormat::Parquet { partition_by, .. } = &output.format {
                plan = write::partitioned(plan, partition_by)?;
            }
            let rows = execute(&session, &plan).await?;
            write::write(rows, &output, &session.runtime_env().disk_manager).await
        });
        work.end().await?
    }
}

fn columns(schema: &SchemaRef) -> Vec<ResultColumn> {
    let columns = schema.fields().iter().map(|field| ResultColumn {
        name: field.name().clone(),
        type_name: pieces::plain_type(field.data_type()).to_string(),
        nullable: field.is_nullable(),
    });
    columns.collect()
}
