//! Tables with aggregations: the rows of a key may be in many files, so each leaf is merged as a whole, in key order,
//! and its rows made one a key on their way.

use std::{fmt, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    common::{plan_datafusion_err, tree_node::TreeNodeRecursion},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr, expressions::Column,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        empty::EmptyExec,
        execution_plan::{Boundedness, EmissionType},
        sorts::sort_preserving_merge::SortPreservingMergeExec,
        stream::RecordBatchStreamAdapter,
    },
};
use dormouse_core::row_rules::RulesAt;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::scan::Pruned;
use crate::{rules::Rules, table::TableSchema};

/// The rows of a leaf, not merged yet.
#[derive(Debug)]
pub(super) struct LeafFiles {
    /// About how many there are.
    pub(super) rows: u64,
    /// All of a table's columns, in partitions that are each in key order.
    pub(super) plan: Arc<dyn ExecutionPlan>,
}

/// Leaves, merged and aggregated one after the other in each partition.
#[derive(Debug)]
pub(super) struct MergedLeaves {
    table: TableSchema,
    rules: RulesAt,
    /// Consecutive leaves; none is empty.
    partitions: Vec<Vec<Arc<dyn ExecutionPlan>>>,
    projection: Vec<usize>,
    pruned: Arc<Pruned>,
    properties: Arc<PlanProperties>,
}

impl MergedLeaves {
    /// A plan of leaves in key order, cut in so many partitions of about as many rows.
    pub(super) fn plan(
        table: &TableSchema,
        rules: &RulesAt,
        leaves: Vec<LeafFiles>,
        partitions: usize,
        projection: &[usize],
        pruned: Arc<Pruned>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(table.arrow.project(projection)?);
        if leaves.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let order = key_order(table)?;
        let rows: u64 = leaves.iter().map(|leaf| leaf.rows).sum();
        let share = (rows / partitions.max(1) as u64).max(1);
        let mut cut: Vec<Vec<Arc<dyn ExecutionPlan>>> = Vec::new();
        let mut before = 0;
        for leaf in leaves {
            let number = usize::try_from(before / share)
                .unwrap_or(0)
                .min(partitions.saturating_sub(1));
            before += leaf.rows;
            let merged: Arc<dyn ExecutionPlan> =
                Arc::new(SortPreservingMergeExec::new(order.clone(), leaf.plan));
            let begun = cut.len();
            match cut.last_mut() {
                Some(last) if number < begun => last.push(merged),
                _ => cut.push(vec![merged]),
            }
        }
        let keys = projection
            .iter()
            .enumerate()
            .take_while(|(number, column)| number == *column && **column < table.key_columns())
            .map(|(number, _)| ascending(table, number));
        let equivalences = EquivalenceProperties::new_with_orderings(schema, LexOrdering::new(keys));
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(cut.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(Self {
            table: table.clone(),
            rules: rules.clone(),
            partitions: cut,
            projection: projection.to_vec(),
            pruned,
            properties: Arc::new(properties),
        }))
    }
}

/// The rows of a merged leaf, as the rules will have them.
fn ruled(
    table: &TableSchema,
    rules: &RulesAt,
    leaf: &Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<impl Stream<Item = Result<RecordBatch>> + use<>> {
    let rules = Rules::new(table, Some(rules), None)
        .map_err(external)?
        .ok_or_else(|| plan_datafusion_err!("a table without aggregations needs no merge"))?;
    let mut ruled = rules.into_apply();
    let merged = leaf.execute(0, context)?;
    let ends = merged.map_ok(Some).chain(stream::once(async { Ok(None) }));
    let batches = ends.map(move |next| match next? {
        Some(batch) => ruled.push(batch).map_err(external),
        None => Ok(ruled.finish().into_iter().collect()),
    });
    Ok(batches
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
        .try_flatten())
}

fn external(error: dormouse_core::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn ascending(table: &TableSchema, column: usize) -> PhysicalSortExpr {
    let column = Column::new(table.arrow.field(column).name(), column);
    PhysicalSortExpr::new_default(Arc::new(column))
}

fn key_order(table: &TableSchema) -> Result<LexOrdering> {
    LexOrdering::new((0..table.key_columns()).map(|column| ascending(table, column)))
        .ok_or_else(|| plan_datafusion_err!("a table without keys has no order"))
}

impl DisplayAs for MergedLeaves {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::TreeRender => writeln!(f, "{}", self.pruned),
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(
                    f,
                    "MergedLeaves: {}, partitions={}",
                    self.pruned,
                    self.partitions.len()
                )
            }
        }
    }
}

impl ExecutionPlan for MergedLeaves {
    fn name(&self) -> &'static str {
        "MergedLeaves"
    }

    fn schema(&self) -> SchemaRef {
        self.properties.eq_properties.schema().clone()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let leaves = self.partitions.get(partition).cloned().unwrap_or_default();
        let (table, rules, projection) = (self.table.clone(), self.rules.clone(), self.projection.clone());
        // A leaf is opened when the one before is at its end.
        let rows = stream::iter(leaves)
            .map(move |leaf| ruled(&table, &rules, &leaf, context.clone()))
            .try_flatten()
            .map(move |batch| Ok(batch?.project(&projection)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
