//! Windows hold rows that DataFusion does not count: they are counted here, before a window has them.

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{
        ScalarValue,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    logical_expr::WindowFrameBound,
    physical_expr::{PhysicalExpr, expressions::Literal, window::WindowExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        execution_plan::replace_children_if_necessary,
        stream::RecordBatchStreamAdapter,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::StreamExt;

use super::pieces::written_bytes;

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
        let inputs = plan.children().into_iter().map(|input| {
            let counted: Arc<dyn ExecutionPlan> = Arc::new(Counted {
                input: input.clone(),
                times,
            });
            counted
        });
        let inputs: Vec<_> = inputs.collect();
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

/// Rows that are kept by what asks for them, as long as it asks.
#[derive(Debug)]
struct Counted {
    input: Arc<dyn ExecutionPlan>,
    times: usize,
}

impl DisplayAs for Counted {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted")
    }
}

impl ExecutionPlan for Counted {
    fn name(&self) -> &'static str {
        "Counted"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Arc::new(Self {
            input,
            times: self.times,
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let held = MemoryConsumer::new("Window").register(context.memory_pool());
        let times = self.times;
        let rows = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let values = batch.columns().iter().map(|column| written_bytes(column));
            let values = values.fold(0, u64::saturating_add);
            let values = usize::try_from(values).unwrap_or(usize::MAX);
            let bytes = values.saturating_add(batch.num_rows().saturating_mul(ROW_BYTES));
            held.try_grow(bytes.saturating_mul(times))?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
