//! Joins and lists that become rows make work of little input, and hold their thread as long as it takes. Here they
//! pause between batches: others have their turn, and a query that nobody waits for any more stops.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{
        ExecutionPlan, RecordBatchStream,
        execution_plan::replace_children_if_necessary,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec},
        unnest::UnnestExec,
    },
};
use futures::{Stream, StreamExt};

use super::passing::{Passage, Passing};

/// The plan with pauses before and after what makes many rows of few.
pub(super) fn paused(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let paused = plan.transform_up(|plan| {
        if !multiplies(&plan) {
            return Ok(Transformed::no(plan));
        }
        let inputs = plan.children().into_iter().map(|input| pausing(input.clone()));
        let inputs: Vec<_> = inputs.collect();
        let plan = replace_children_if_necessary(plan, inputs)?;
        Ok(Transformed::yes(pausing(plan)))
    })?;
    Ok(paused.data)
}

fn multiplies(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<NestedLoopJoinExec>().is_some()
        || plan.downcast_ref::<CrossJoinExec>().is_some()
        || plan.downcast_ref::<HashJoinExec>().is_some()
        || plan.downcast_ref::<SortMergeJoinExec>().is_some()
        || plan.downcast_ref::<PiecewiseMergeJoinExec>().is_some()
        || plan.downcast_ref::<UnnestExec>().is_some()
}

fn pausing(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match input.downcast_ref::<Passing<Pausing>>() {
        Some(_) => input,
        None => Passing::on(input, Pausing),
    }
}

/// A pause after each batch.
#[derive(Clone, Copy, Debug)]
struct Pausing;

impl Passage for Pausing {
    const NAME: &'static str = "Pausing";

    fn pass(self, rows: SendableRecordBatchStream, _context: &TaskContext) -> SendableRecordBatchStream {
        Box::pin(Pauses { rows, is_due: false })
    }
}

/// Rows with a pause after each batch.
struct Pauses {
    rows: SendableRecordBatchStream,
    is_due: bool,
}

impl Stream for Pauses {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_due) {
            // At the end of the line, behind all others that can go on.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.rows.poll_next_unpin(context);
        self.is_due = matches!(next, Poll::Ready(Some(_)));
        next
    }
}

impl RecordBatchStream for Pauses {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
