//! A plan that is run.

use std::sync::Arc;

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::Result as PlanResult,
    execution::{SendableRecordBatchStream, SessionState, TaskContext},
    logical_expr::LogicalPlan,
    physical_expr::expressions::Literal,
    physical_plan::{ExecutionPlan, execute_stream, placeholder_row::PlaceholderRowExec},
};
use dormouse_core::Result;

use super::{
    failure::{failed, refused},
    growth::constant_bytes,
    pauses::paused,
    windows,
};

/// How much a constant takes at most when it stands in each row of a batch.
const CONSTANT_BYTES: u64 = 32 << 20;

/// Begins to run a plan.
pub(super) async fn execute(session: &SessionState, plan: &LogicalPlan) -> Result<SendableRecordBatchStream> {
    let physical = session
        .create_physical_plan(plan)
        .await
        .map_err(|error| refused(&error))?;
    begin(session, physical).map_err(|error| failed(&error))
}

fn begin(session: &SessionState, plan: Arc<dyn ExecutionPlan>) -> PlanResult<SendableRecordBatchStream> {
    let plan = windows::counted(plan)?;
    let most = CONSTANT_BYTES / longest_constant(&plan)?.max(1);
    let rows = usize::try_from(most).unwrap_or(usize::MAX).max(1);
    let config = session.config().clone();
    let rows = rows.min(config.batch_size());
    let context = TaskContext::from(session).with_session_config(config.with_batch_size(rows));
    execute_stream(paused(plan)?, Arc::new(context))
}

/// How many bytes the longest constant has that expressions of a plan name. A list that stands in one row is left out:
/// it is there to make rows of.
fn longest_constant(plan: &Arc<dyn ExecutionPlan>) -> PlanResult<u64> {
    let mut longest = 0;
    plan.apply(|plan| {
        let children = plan.children();
        let is_one_row = children
            .iter()
            .any(|child| child.downcast_ref::<PlaceholderRowExec>().is_some());
        plan.apply_expressions(&mut |expr| {
            expr.apply(|expr| {
                if let Some(literal) = expr.downcast_ref::<Literal>()
                    && !(is_one_row && literal.value().data_type().is_nested())
                {
                    longest = longest.max(constant_bytes(literal.value()));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(longest)
}
