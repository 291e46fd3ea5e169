//! Reading data files, in the order of keys.
//!
//! DataFusion's own Parquet scan reads them; what it cannot know is added: that the files of a group are in key order
//! as a whole, and which filters statistics may not be trusted with.

use std::{any::Any, fmt, sync::Arc};

use arrow::compute::SortOptions;
use datafusion::{
    catalog::Session,
    common::{Statistics, config::TableParquetOptions, stats::Precision, tree_node::TreeNodeRecursion},
    config::ConfigOptions,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
            parquet::CachedParquetFileReaderFactory,
        },
        source::{DataSource, DataSourceExec, OpenArgs},
        table_schema::TableSchema as ScanSchema,
    },
    error::Result,
    execution::{
        SendableRecordBatchStream, TaskContext, cache::cache_manager::FileMetadataCache,
        object_store::ObjectStoreUrl,
    },
    logical_expr::Operator,
    physical_expr::{
        EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
        expressions::{BinaryExpr, Column},
        projection::ProjectionExprs,
        split_conjunction,
        utils::collect_columns,
    },
    physical_plan::{
        DisplayFormatType, ExecutionPlan, SortOrderPushdownResult,
        execution_plan::SchedulingType,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::ExecutionPlanMetricsSet,
    },
};
use dormouse_core::{key::KeyRange, ports::QueryProgress};
use object_store::{ObjectMeta, ObjectStore, path::Path};

use super::{chains::chains, reading::Reading};
use crate::{predicate::keeps_order, table::TableSchema};

/// How many bytes of the end of a file are fetched at first: the footer of most.
const FOOTER_BYTES: usize = 64 << 10;

/// A file to read.
#[derive(Clone, Debug)]
pub(super) struct ScannedFile {
    pub(super) path: Path,
    pub(super) bytes: u64,
    /// About how many of its rows are wanted.
    pub(super) rows: u64,
    /// Of the row keys that are wanted.
    pub(super) range: KeyRange,
}

/// How much of a table is read, for people: some of all.
#[derive(Debug)]
pub(super) struct Pruned {
    pub(super) leaves: (usize, usize),
    pub(super) files: (usize, usize),
}

impl fmt::Display for Pruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((leaves, all_leaves), (files, all_files)) = (self.leaves, self.files);
        write!(f, "leaves={leaves}/{all_leaves}, files={files}/{all_files}")
    }
}

/// What scans of a table share.
pub(super) struct Scans<'a> {
    pub(super) table: &'a TableSchema,
    pub(super) session: &'a dyn Session,
    pub(super) url: &'a ObjectStoreUrl,
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) footers: &'a Arc<FileMetadataCache>,
    pub(super) pruned: Arc<Pruned>,
    pub(super) progress: &'a Arc<QueryProgress>,
}

impl Scans<'_> {
    /// All rows of these files.
    pub(super) fn scan(
        &self,
        files: Vec<ScannedFile>,
        projection: &[usize],
        limit: Option<usize>,
        rows: Precision<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = TableParquetOptions {
            global: self.session.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let reader = CachedParquetFileReaderFactory::new(self.store.clone(), self.footers.clone());
        let source = ParquetSource::new(ScanSchema::from(self.table.arrow.clone()))
            .with_table_parquet_options(options)
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_parquet_file_reader_factory(Arc::new(reader));
        let bytes = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let wanted = files.iter().map(|file| file.rows).fold(0, u64::saturating_add);
        let files = files
            .into_iter()
            .map(|file| (file.range.clone(), file.bytes, file));
        let groups = chains(files.collect(), self.session.config().target_partitions());
        let groups = groups
            .into_iter()
            .map(|files| FileGroup::new(files.into_iter().map(partitioned).collect()));
        let mut statistics = Statistics::new_unknown(&self.table.arrow);
        statistics.num_rows = rows;
        statistics.total_byte_size = Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        let files = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups.collect())
            .with_statistics(statistics)
            .with_projection_indices(Some(projection.to_vec()))?
            .with_limit(limit)
            .with_preserve_order(true)
            .build();
        let scan = TableScan {
            files,
            key_columns: Some(self.table.key_columns()),
            pruned: self.pruned.clone(),
            reading: Arc::new(Reading::new(self.progress, wanted)),
        };
        Ok(Arc::new(DataSourceExec::new(Arc::new(scan))))
    }
}

fn partitioned(file: ScannedFile) -> PartitionedFile {
    PartitionedFile::new_from_meta(ObjectMeta {
        location: file.path,
        // A name is never used again, so whatever is kept of a file holds for ever.
        last_modified: Default::default(),
        size: file.bytes,
        e_tag: None,
        version: None,
    })
}

/// Files of a table in groups, each in key order as a whole.
#[derive(Clone, Debug)]
struct TableScan {
    files: FileScanConfig,
    /// How many columns decide the order; none where the groups are read in another.
    key_columns: Option<usize>,
    pruned: Arc<Pruned>,
    reading: Arc<Reading>,
}

impl TableScan {
    /// The same with another scan of its files, which DataFusion has made of this one's.
    fn rewrapped(&self, scan: &Arc<dyn DataSource>, keeps_order: bool) -> Option<Arc<dyn DataSource>> {
        let scan: &dyn Any = scan.as_ref();
        Some(Arc::new(Self {
            files: scan.downcast_ref::<FileScanConfig>()?.clone(),
            key_columns: self.key_columns.filter(|_| keeps_order),
            pruned: self.pruned.clone(),
            reading: self.reading.clone(),
        }))
    }

    fn counted(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let partitions = self.files.output_partitioning().partition_count();
        self.reading.counted(rows, partitions)
    }

    /// Whether what statistics say of a filter can be trusted: not where it looks at fractions, whose statistics leave
    /// NaN out, which is above every number; nor where it makes something of a column that is in another order.
    fn is_safe(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let Ok(schema) = self.files.projected_schema() else {
            return false;
        };
        let fractions = collect_columns(filter).into_iter().any(|column| {
            let field = schema.fields().get(column.index());
            field.is_none_or(|field| field.data_type().is_floating())
        });
        !fractions && keeps_order(filter, &schema)
    }
}

impl DataSource for TableScan {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(self.counted(self.files.open(partition, context)?))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        Ok(self.counted(self.files.open_with_args(args)?))
    }

    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of files are nobody's business.
        let groups = self.files.file_groups.len();
        match t {
            DisplayFormatType::TreeRender => {
                writeln!(f, "{}", self.pruned)?;
                writeln!(f, "groups={groups}")?;
            }
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "{}, groups={groups}", self.pruned)?;
                let columns = self.files.projected_schema().map_err(|_| fmt::Error)?;
                let columns: Vec<_> = columns
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                write!(f, ", projection=[{}]", columns.join(", "))?;
                if let Some(limit) = self.files.limit {
                    write!(f, ", limit={limit}")?;
                }
                if let Some(ordering) = self.eq_properties().output_ordering() {
                    write!(f, ", output_ordering=[{ordering}]")?;
                }
            }
        }
        self.files.file_source().fmt_extra(t, f)
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let scan = self
            .files
            .repartitioned(target_partitions, repartition_file_min_size, output_ordering)?;
        Ok(scan.and_then(|scan| self.rewrapped(&scan, true)))
    }

    fn output_partitioning(&self) -> Partitioning {
        self.files.output_partitioning()
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let source = self.files.file_source();
        let schema = source.table_schema().table_schema();
        let keys = (0..self.key_columns.unwrap_or(0)).map(|key| PhysicalSortExpr {
            expr: Arc::new(Column::new(schema.field(key).name(), key)),
            options: SortOptions::default(),
        });
        let ordering = LexOrdering::new(keys);
        let mut properties = EquivalenceProperties::new_with_orderings(schema.clone(), ordering);
        if let Some(filter) = source.filter() {
            for part in split_conjunction(&filter) {
                if let Some(equal) = part.downcast_ref::<BinaryExpr>()
                    && *equal.op() == Operator::Eq
                {
                    // What is not learned here is only an order that is not used.
                    let _ = properties.add_equal_conditions(equal.left().clone(), equal.right().clone());
                }
            }
        }
        let Some(projection) = source.projection() else {
            return properties;
        };
        match (
            projection.projection_mapping(schema),
            projection.project_schema(schema),
        ) {
            (Ok(mapping), Ok(output)) => properties.project(&mapping, Arc::new(output)),
            _ => self.files.eq_properties(),
        }
    }

    fn scheduling_type(&self) -> SchedulingType {
        self.files.scheduling_type()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.files.partition_statistics(partition)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        self.rewrapped(&self.files.with_fetch(limit)?, true)
    }

    fn fetch(&self) -> Option<usize> {
        self.files.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.files.metrics()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let scan = self.files.try_swapping_with_projection(projection)?;
        Ok(scan.and_then(|scan| self.rewrapped(&scan, true)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let safe: Vec<bool> = filters.iter().map(|filter| self.is_safe(filter)).collect();
        let offered = filters
            .into_iter()
            .zip(&safe)
            .filter_map(|(filter, is_safe)| is_safe.then_some(filter));
        let pushed = self.files.try_pushdown_filters(offered.collect(), config)?;
        let mut taken = pushed.filters.into_iter();
        let answers = safe.into_iter().map(|is_safe| match is_safe {
            true => taken.next().unwrap_or(PushedDown::No),
            false => PushedDown::No,
        });
        Ok(FilterPushdownPropagation {
            filters: answers.collect(),
            updated_node: pushed.updated_node.and_then(|scan| self.rewrapped(&scan, true)),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        // Read in about that order, rows that are wanted come early; the order of keys is lost.
        Ok(match self.files.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } | SortOrderPushdownResult::Inexact { inner } => {
                match self.rewrapped(&inner, false) {
                    Some(inner) => SortOrderPushdownResult::Inexact { inner },
                    None => SortOrderPushdownResult::Unsupported,
                }
            }
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn with_preserve_order(&self, _preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        // It always does.
        Some(Arc::new(self.clone()))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        // What it projects may have constants that are longer than any row.
        if let Some(projection) = self.files.file_source().projection() {
            for projected in projection.iter() {
                f(&projected.expr)?;
            }
        }
        self.files.apply_expressions(f)
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn DataSource>> {
        self.rewrapped(&self.files.with_new_state(state)?, true)
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        self.files.create_sibling_state(config)
    }
}
