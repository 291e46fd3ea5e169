//! A table at one transaction, as DataFusion sees it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanArray},
    datatypes::{DataType as ArrowType, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Column, DFSchema, ScalarValue, plan_err, pruning::PruningStatistics, stats::Precision},
    error::Result,
    execution::{cache::cache_manager::FileMetadataCache, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit, utils::conjunction},
    physical_expr::{PhysicalExpr, expressions::Column as PhysicalColumn},
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{
        ExecutionPlan, empty::EmptyExec, filter::FilterExec, projection::ProjectionExec, union::UnionExec,
    },
};
use dormouse_core::{
    file::DataFile,
    key::{KeyBounds, KeyRange, KeyValue},
    partition::Leaf,
    ports::{QueryProgress, TableSnapshot},
    row_rules::Filter,
    state::Reference,
};

use super::{
    failure::refused,
    leaves::{LeafFiles, MergedLeaves},
    pieces::viewed,
    row_policy,
    scan::{Pruned, ScannedFile, Scans},
};
use crate::{
    predicate::keeps_order,
    rules::{aggregates, in_unit_of},
    table::TableSchema,
};

/// A table at one transaction.
#[derive(Debug)]
pub(super) struct SnapshotTable {
    snapshot: TableSnapshot,
    table: TableSchema,
    /// What rows must be for whoever asks to see them.
    permitted: Option<Expr>,
    footers: Arc<FileMetadataCache>,
    progress: Arc<QueryProgress>,
    /// Unlike that of the query's other tables.
    url: ObjectStoreUrl,
}

impl SnapshotTable {
    /// A query's table of that number.
    pub(super) fn new(
        snapshot: TableSnapshot,
        number: usize,
        footers: Arc<FileMetadataCache>,
        progress: Arc<QueryProgress>,
    ) -> dormouse_core::Result<Self> {
        let mut table = TableSchema::new(snapshot.schema.clone());
        // Merging keeps the types of the table.
        if !aggregates(snapshot.rules.as_ref()) {
            table.arrow = viewed(&table.arrow);
        }
        let policy = snapshot.policy.as_ref();
        let permitted = policy
            .map(|policy| row_policy::permitted(&table.arrow, &snapshot.table, policy))
            .transpose()?;
        let url = ObjectStoreUrl::parse(format!("dormouse://table-{number}"));
        Ok(Self {
            table,
            permitted,
            url: url.map_err(|error| refused(&error))?,
            snapshot,
            footers,
            progress,
        })
    }

    fn columns(&self) -> usize {
        self.table.arrow.fields().len()
    }

    /// What filters say of the keys, where the order of keys tells it: the rest of them says nothing.
    fn physical(&self, session: &dyn Session, filters: &[Expr]) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = DFSchema::try_from(self.table.arrow.clone())?;
        let mut useful = Vec::new();
        for filter in filters {
            let physical = session.create_physical_expr(filter.clone(), &schema)?;
            if keeps_order(&physical, &self.table.arrow) {
                useful.push(filter.clone());
            }
        }
        let all = conjunction(useful);
        all.map(|all| session.create_physical_expr(all, &schema))
            .transpose()
    }

    /// Which of some ranges of keys may have rows that pass the filters.
    fn may_pass(&self, filter: Option<&Arc<dyn PhysicalExpr>>, ranges: Vec<Cow<'_, KeyRange>>) -> Vec<bool> {
        let everything = vec![true; ranges.len()];
        let statistics = KeyStatistics {
            table: &self.table,
            ranges,
        };
        filter
            .and_then(|filter| {
                PruningPredicateBuilder::new()
                    .with_file_schema(self.table.arrow.clone())
                    .build(filter.clone())
            })
            .and_then(|pruning| pruning.prune(&statistics).ok())
            .unwrap_or(everything)
    }

    /// What there is to read.
    fn plan(&self, filter: Option<&Arc<dyn PhysicalExpr>>) -> Found<'_> {
        let state = &self.snapshot.state;
        let leaves: Vec<Leaf> = state.leaves().collect();
        let references: Vec<(usize, &Reference)> = leaves
            .iter()
            .enumerate()
            .flat_map(|(number, leaf)| {
                state
                    .references(&leaf.id)
                    .map(move |reference| (number, reference))
            })
            .collect();
        let ranges = references
            .iter()
            .map(|(number, reference)| within(reference.range(), &leaves[*number].bounds))
            .collect();
        let passing = self.may_pass(filter, ranges);
        let mut found = Found {
            leaves: Vec::new(),
            all_leaves: leaves.len(),
            all_files: state.file_count(),
        };
        let mut last = None;
        for ((number, reference), _) in references.iter().zip(passing).filter(|(_, passes)| *passes) {
            if last != Some(*number) {
                last = Some(*number);
                found.leaves.push((leaves[*number].clone(), Vec::new()));
            }
            if let Some((_, of_leaf)) = found.leaves.last_mut() {
                of_leaf.push(*reference);
            }
        }
        found
    }

    fn scanned(&self, file: &DataFile, range: KeyRange, rows: u64) -> ScannedFile {
        ScannedFile {
            rows,
            path: file.name.object_path(&self.snapshot.table),
            bytes: file.bytes,
            range,
        }
    }

    fn scans<'a>(&'a self, session: &'a dyn Session, found: &Found<'_>) -> Scans<'a> {
        Scans {
            table: &self.table,
            session,
            url: &self.url,
            store: &self.snapshot.store,
            footers: &self.footers,
            progress: &self.progress,
            pruned: Arc::new(Pruned {
                leaves: (found.leaves.len(), found.all_leaves),
                files: (found.files().len(), found.all_files),
            }),
        }
    }

    /// All rows that are referred to, in as many partitions as there are threads or more, each in key order.
    fn rows(
        &self,
        session: &dyn Session,
        found: &Found<'_>,
        projection: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scans = self.scans(session, found);
        let mut whole: BTreeMap<_, ScannedFile> = BTreeMap::new();
        let mut rows = Precision::Exact(0);
        let mut cut: Vec<(&Leaf, Vec<ScannedFile>)> = Vec::new();
        for (leaf, references) in &found.leaves {
            let mut of_leaf = Vec::new();
            for reference in references {
                let file = &reference.file;
                if !self.snapshot.state.refers_to_all_of(file) {
                    of_leaf.push(self.scanned(file, reference.range().clone(), reference.rows()));
                } else if let (Some(first), Some(last)) = (file.parts.first(), file.parts.last()) {
                    let range = first.range.union(&last.range);
                    if whole
                        .insert(&file.name, self.scanned(file, range, file.rows))
                        .is_none()
                    {
                        rows = rows.add(&Precision::Exact(
                            usize::try_from(file.rows).unwrap_or(usize::MAX),
                        ));
                    }
                }
            }
            if !of_leaf.is_empty() {
                cut.push((leaf, of_leaf));
            }
        }
        let mut plans = Vec::with_capacity(cut.len() + 1);
        if !whole.is_empty() {
            let limit = limit.filter(|_| cut.is_empty());
            plans.push(scans.scan(whole.into_values().collect(), projection, limit, rows)?);
        }
        for (leaf, files) in cut {
            plans.push(self.cut(&scans, files, &leaf.bounds, projection)?);
        }
        match plans.len() {
            0 => Ok(Arc::new(EmptyExec::new(Arc::new(
                self.table.arrow.project(projection)?,
            )))),
            1 => Ok(plans.swap_remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    /// The rows of files that are in bounds.
    pub(super) fn cut(
        &self,
        scans: &Scans<'_>,
        files: Vec<ScannedFile>,
        bounds: &KeyBounds,
        projection: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = (0..self.table.row_key_columns()).filter(|key| !projection.contains(key));
        let read: Vec<usize> = projection.iter().copied().chain(keys).collect();
        let scan = scans.scan(files, &read, None, Precision::Absent)?;
        let Some(inside) = self.inside(bounds) else {
            return project(scan, projection.len());
        };
        let schema = DFSchema::try_from(scan.schema())?;
        let inside = scans.session.create_physical_expr(inside, &schema)?;
        project(Arc::new(FilterExec::try_new(inside, scan)?), projection.len())
    }

    /// That a row's key is in bounds; none where every one is.
    fn inside(&self, bounds: &KeyBounds) -> Option<Expr> {
        let lower = bounds
            .lower
            .as_ref()
            .map(|lower| self.is_below(&lower.0).map(|below| !below));
        let upper = bounds.upper.as_ref().map(|upper| self.is_below(&upper.0));
        conjunction([lower, upper].into_iter().flatten().flatten())
    }

    /// That a row's key comes before a bound, which may name fewer columns than it has.
    fn is_below(&self, bound: &[KeyValue]) -> Option<Expr> {
        let mut below: Option<Expr> = None;
        for (number, value) in bound.iter().enumerate().rev() {
            let field = self.table.arrow.field(number);
            let (column, value) = (
                col(Column::from_name(field.name())),
                lit(scalar(value, field.data_type())),
            );
            let less = column.clone().lt(value.clone());
            below = Some(match below {
                None => less,
                Some(rest) => less.or(column.eq(value).and(rest)),
            });
        }
        below
    }

    /// Drops the rows that a filter of the table says are too old.
    fn filtered(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(rules) = &self.snapshot.rules else {
            return Ok(plan);
        };
        let mut young = Vec::new();
        for Filter::AgeOff { column, millis } in &rules.rules.filters {
            let field = self.table.arrow.field_with_name(column)?;
            let oldest = rules.at.as_millis().saturating_sub(*millis);
            let oldest = ScalarValue::Int64(Some(in_unit_of(field.data_type(), oldest)));
            let oldest = oldest.cast_to(field.data_type())?;
            young.push(col(Column::from_name(column)).gt(lit(oldest)));
        }
        let Some(young) = conjunction(young) else {
            return Ok(plan);
        };
        let schema = DFSchema::try_from(plan.schema())?;
        let young = session.create_physical_expr(young, &schema)?;
        Ok(Arc::new(FilterExec::try_new(young, plan)?))
    }

    /// The columns asked for, and those that the table's filters and its policy look at.
    fn read(&self, projection: &[usize]) -> Result<Vec<usize>> {
        let filters = self.snapshot.rules.iter().flat_map(|rules| &rules.rules.filters);
        let filtered = filters.map(|Filter::AgeOff { column, .. }| column.as_str());
        let permitted: Vec<&Column> = self.permitted.iter().flat_map(Expr::column_refs).collect();
        let mut columns = projection.to_vec();
        for name in filtered.chain(permitted.iter().map(|column| column.name())) {
            let number = self.table.arrow.index_of(name)?;
            if !columns.contains(&number) {
                columns.push(number);
            }
        }
        Ok(columns)
    }
}

/// What a scan finds to read: the leaves that may have rows, each with its references.
#[derive(Debug)]
struct Found<'a> {
    leaves: Vec<(Leaf, Vec<&'a Reference>)>,
    all_leaves: usize,
    all_files: usize,
}

impl Found<'_> {
    fn files(&self) -> HashSet<&str> {
        let references = self.leaves.iter().flat_map(|(_, references)| references);
        references.map(|reference| reference.file.name.as_str()).collect()
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        self.table.arrow.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        session
            .runtime_env()
            .register_object_store(self.url.as_ref(), self.snapshot.store.clone());
        let all: Vec<usize> = (0..self.columns()).collect();
        let projection = projection.unwrap_or(&all);
        let filters: Vec<Expr> = filters.iter().chain(&self.permitted).cloned().collect();
        let filter = self.physical(session, &filters)?;
        let found = self.plan(filter.as_ref());
        let read = self.read(projection)?;
        let rows = match aggregates(self.snapshot.rules.as_ref()) {
            true => self.merged(session, &found, &read)?,
            false => {
                let limit = limit.filter(|_| self.snapshot.rules.is_none() && self.permitted.is_none());
                self.filtered(self.rows(session, &found, &read, limit)?, session)?
            }
        };
        let rows = match &self.permitted {
            Some(permitted) => row_policy::apply(permitted, rows, session)?,
            None => rows,
        };
        project(rows, projection.len())
    }
}

impl SnapshotTable {
    /// Every leaf merged by itself, as the table's aggregations will have it.
    fn merged(
        &self,
        session: &dyn Session,
        found: &Found<'_>,
        projection: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scans = self.scans(session, found);
        let all: Vec<usize> = (0..self.columns()).collect();
        let mut leaves = Vec::with_capacity(found.leaves.len());
        for (leaf, references) in &found.leaves {
            let files = references
                .iter()
                .map(|reference| self.scanned(&reference.file, reference.range().clone(), reference.rows()));
            let rows: u64 = references
                .iter()
                .map(|reference| reference.rows())
                .fold(0, u64::saturating_add);
            leaves.push(LeafFiles {
                rows,
                plan: self.cut(&scans, files.collect(), &leaf.bounds, &all)?,
            });
        }
        let Some(rules) = &self.snapshot.rules else {
            return plan_err!("a table without aggregations needs no merge");
        };
        let partitions = session.config().target_partitions();
        MergedLeaves::plan(&self.table, rules, leaves, partitions, projection, scans.pruned)
    }
}

/// What of a range of keys is in bounds.
fn within<'a>(range: &'a KeyRange, bounds: &KeyBounds) -> Cow<'a, KeyRange> {
    let lower = bounds.lower.as_ref().filter(|lower| range.min < **lower);
    let upper = bounds.upper.as_ref().filter(|upper| range.max > **upper);
    if lower.is_none() && upper.is_none() {
        return Cow::Borrowed(range);
    }
    Cow::Owned(KeyRange {
        min: lower.unwrap_or(&range.min).clone(),
        max: upper.unwrap_or(&range.max).clone(),
    })
}

/// The first so many columns of a plan.
fn project(plan: Arc<dyn ExecutionPlan>, columns: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    if schema.fields().len() == columns {
        return Ok(plan);
    }
    let columns = schema
        .fields()
        .iter()
        .take(columns)
        .enumerate()
        .map(|(number, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(field.name(), number));
            (column, field.name().clone())
        });
    Ok(Arc::new(ProjectionExec::try_new(
        columns.collect::<Vec<_>>(),
        plan,
    )?))
}

/// A key's value as DataFusion has it, in a column of that type.
fn scalar(value: &KeyValue, data_type: &ArrowType) -> ScalarValue {
    match value {
        KeyValue::Int32(value) => ScalarValue::Int32(Some(*value)),
        KeyValue::Int64(value) => ScalarValue::Int64(Some(*value)),
        KeyValue::Utf8(value) => match data_type {
            ArrowType::Utf8View => ScalarValue::Utf8View(Some(value.to_string())),
            _ => ScalarValue::Utf8(Some(value.to_string())),
        },
        KeyValue::Binary(value) => match data_type {
            ArrowType::BinaryView => ScalarValue::BinaryView(Some(value.0.to_vec())),
            _ => ScalarValue::Binary(Some(value.0.to_vec())),
        },
        KeyValue::Date32(value) => ScalarValue::Date32(Some(*value)),
        KeyValue::Timestamp(value) => {
            let count = ScalarValue::Int64(Some(*value));
            count.cast_to(data_type).unwrap_or(count)
        }
    }
}

/// What ranges of row keys say of the key columns: of the first one always, of others as long as those before have one
/// value.
struct KeyStatistics<'a> {
    table: &'a TableSchema,
    ranges: Vec<Cow<'a, KeyRange>>,
}

impl KeyStatistics<'_> {
    fn values(&self, column: &Column, end: impl Fn(&KeyRange) -> &[KeyValue]) -> Option<ArrayRef> {
        let number = self.table.arrow.index_of(&column.name).ok()?;
        if number >= self.table.row_key_columns() {
            return None;
        }
        let data_type = self.table.column_type(number);
        let null = ScalarValue::try_from(data_type).ok()?;
        let values = self.ranges.iter().map(|range| {
            let is_known = range.min.0.get(..number) == range.max.0.get(..number);
            let value = end(range).get(number).filter(|_| is_known);
            value.map_or_else(|| null.clone(), |value| scalar(value, data_type))
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for KeyStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |range| &range.min.0)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |range| &range.max.0)
    }

    fn num_containers(&self) -> usize {
        self.ranges.len()
    }

    fn null_counts(&self, _column: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
