//! A node of a plan whose rows are those of its input: they are looked at, held up or guarded on their way.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties},
};

/// What happens to rows on their way.
pub(super) trait Passage: Copy + Debug + Send + Sync + 'static {
    /// What the node is called.
    const NAME: &'static str;

    /// The rows of one partition, as they pass.
    fn pass(self, rows: SendableRecordBatchStream, context: &TaskContext) -> SendableRecordBatchStream;
}

/// Lets the rows of its input pass.
#[derive(Debug)]
pub(super) struct Passing<P> {
    input: Arc<dyn ExecutionPlan>,
    passage: P,
}

impl<P: Passage> Passing<P> {
    pub(super) fn on(input: Arc<dyn ExecutionPlan>, passage: P) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, passage })
    }
}

impl<P: Passage> DisplayAs for Passing<P> {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::NAME)
    }
}

impl<P: Passage> ExecutionPlan for Passing<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
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

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Self::on(input, self.passage))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context.clone())?;
        Ok(self.passage.pass(rows, &context))
    }
}
