//! Windows hold rows that DataFusion does not count: they are counted here, before a window has them.

use std::sync::Arc;

use datafusion::{
    common::{
        ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    logical_expr::WindowFrameBound,
    physical_expr::{expressions::Literal, window::WindowExpr},
    physical_plan::{
        ExecutionPlan,
        execution_plan::replace_children_if_necessary,
        stream::RecordBatchStreamAdapter,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::StreamExt;

use super::{
    passing::{Passage, Passing},
    pieces::written_bytes,
};

/// How many rows a window may look back or ahead without counting what it holds.
const FEW_ROWS: u64 = 10_000;
/// What a row takes beside its values.
const ROW_BYTES: usize = 16;

/// The plan with what its windows hold counted as the query's memory.
pub(super) fn counted(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let counted = plan.transform_up(|plan| {
        let times = if plan.downcast_ref::<WindowAggExec>().is_some() {
            // Its rows, and all of them in one.
            2
        } else if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
            match window.window_expr().iter().all(holds_few_rows) {
                true => return Ok(Transformed::no(plan)),
                false => 1,
            }
        } else {
            return Ok(Transformed::no(plan));
        };
        let inputs = plan.children().into_iter();
        let inputs: Vec<_> = inputs
            .map(|input| Passing::on(input.clone(), Counted { times }))
            .collect();
        Ok(Transformed::yes(replace_children_if_necessary(plan, inputs)?))
    })?;
    Ok(counted.data)
}

fn holds_few_rows(window: &Arc<dyn WindowExpr>) -> bool {
    let frame = window.get_window_frame();
    let is_few = |value: &ScalarValue| match value {
        ScalarValue::UInt64(Some(rows)) => *rows <= FEW_ROWS,
        value => value.is_null(),
    };
    let start = match &frame.start_bound {
        WindowFrameBound::Preceding(rows) | WindowFrameBound::Following(rows) => is_few(rows),
        WindowFrameBound::CurrentRow => true,
    };
    let end = match &frame.end_bound {
        WindowFrameBound::Preceding(rows) => is_few(rows),
        WindowFrameBound::Following(rows) => !rows.is_null() && is_few(rows),
        WindowFrameBound::CurrentRow => true,
    };
    let offsets = window.expressions();
    let offsets_are_few = offsets.iter().all(|expr| match expr.downcast_ref::<Literal>() {
        Some(literal) => match literal.value() {
            ScalarValue::Int64(Some(rows)) => rows.unsigned_abs() <= FEW_ROWS,
            _ => true,
        },
        None => true,
    });
    start && end && offsets_are_few
}

/// Rows that are kept so many times by what asks for them, as long as it asks.
#[derive(Clone, Copy, Debug)]
struct Counted {
    times: usize,
}

impl Passage for Counted {
    const NAME: &'static str = "Counted";

    fn pass(self, rows: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream {
        let held = MemoryConsumer::new("Window").register(context.memory_pool());
        let schema = rows.schema();
        let rows = rows.map(move |batch| {
            let batch = batch?;
            let values = batch.columns().iter().map(|column| written_bytes(column));
            let values = values.fold(0, u64::saturating_add);
            let values = usize::try_from(values).unwrap_or(usize::MAX);
            let bytes = values.saturating_add(batch.num_rows().saturating_mul(ROW_BYTES));
            held.try_grow(bytes.saturating_mul(self.times))?;
            Ok(batch)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}
