//! Row policies: what a tenant may not see of another's table.
//!
//! Such rows are left out right above the scan, below everything that a query asks of rows: were the query's own
//! conditions computed first, an error in one could tell what is in a row. Errors from below, as of the policy itself,
//! are told without what they say of rows, and plans, which tell of all rows of a table, are not told.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::Session,
    common::DFSchema,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::Expr,
    physical_plan::{ExecutionPlan, filter::FilterExec, stream::RecordBatchStreamAdapter},
};
use dormouse_core::{
    Error, Result, ids::TableId, ports::RowPolicy, predicate::Predicate, schema::Schema, tenants::TenantId,
};
use futures::TryStreamExt;

use super::{
    failure::without_rows,
    passing::{Passage, Passing},
    pieces::viewed,
};
use crate::{predicate, table::TableSchema};

/// Checks that a predicate fits a table with these columns, also while its values are aggregated, which changes how text
/// is read.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(super) fn check(schema: &Arc<Schema>, predicate: &Predicate) -> Result<()> {
    let columns = TableSchema::new(schema.clone()).arrow;
    for columns in [&viewed(&columns), &columns] {
        predicate::permitted(columns, predicate, TenantId::instance().as_str())?;
    }
    Ok(())
}

/// What a policy asks of rows of a table with these columns.
///
/// # Errors
/// `Corrupt` when it does not fit the table.
pub(super) fn permitted(columns: &SchemaRef, table: &TableId, policy: &RowPolicy) -> Result<Expr> {
    predicate::permitted(columns, &policy.predicate, policy.reader.as_str()).map_err(|error| {
        Error::corrupt(format!("the row policy of table {table} does not fit it")).with_source(error)
    })
}

/// Leaves out all rows but those that are permitted.
pub(super) fn apply(
    permitted: &Expr,
    rows: Arc<dyn ExecutionPlan>,
    session: &dyn Session,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let schema = DFSchema::try_from(rows.schema())?;
    let permitted = session.create_physical_expr(permitted.clone(), &schema)?;
    let seen = FilterExec::try_new(permitted, rows)?;
    Ok(Passing::on(Arc::new(seen), Permitted))
}

/// Rows that are permitted: no condition on them goes further down the plan.
#[derive(Clone, Copy, Debug)]
struct Permitted;

impl Passage for Permitted {
    const NAME: &'static str = "Permitted";

    fn pass(self, rows: SendableRecordBatchStream, _context: &TaskContext) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(
            rows.schema(),
            rows.map_err(without_rows),
        ))
    }
}
