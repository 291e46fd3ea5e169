//! Predicates over a table's columns: what a SQL expression is true for.
//!
//! DataFusion parses, checks and evaluates them. Names of columns are written as the table has them, quoted or not. The
//! same predicate holds for the same row whenever it is asked, so `now()` and `random()` have no place in one.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt64Array},
    compute,
    datatypes::{DataType as ArrowType, Schema as ArrowSchema, SchemaRef},
};
use datafusion::{
    common::{
        Column, DFSchema, ScalarValue,
        pruning::PruningStatistics,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{Expr, Volatility, lit},
    physical_expr::{
        PhysicalExpr,
        expressions::{CastExpr, NegativeExpr, TryCastExpr},
    },
    physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder},
    prelude::SessionConfig,
};
use dormouse_core::{Error, Result, predicate::Predicate};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use crate::{
    cancel::contain,
    input::{Input, row_count},
    sql::reason,
    table::TableSchema,
};

/// Functions whose result may be longer by far than all that they are given.
const LENGTHENING: [&str; 3] = ["lpad", "repeat", "rpad"];

/// What stands for the tenant that reads, in a row policy.
const TENANT: &str = "$tenant";

/// A predicate, ready to be evaluated on rows of a table.
#[derive(Debug)]
pub(crate) struct RowPredicate {
    text: Predicate,
    holds: Arc<dyn PhysicalExpr>,
    /// What statistics can tell; none when they tell nothing.
    pruning: Option<Arc<PruningPredicate>>,
}

impl RowPredicate {
    /// Reads a predicate. Of a table whose values are aggregated, it may name key columns only.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong.
    pub(crate) fn new(table: &TableSchema, text: &Predicate, keys_only: bool) -> Result<Self> {
        contain(
            |panic| invalid(text, format!("it cannot be read: {panic}")),
            || Self::read(table, text, keys_only),
        )
    }

    fn read(table: &TableSchema, text: &Predicate, keys_only: bool) -> Result<Self> {
        let session = session();
        let expression = parse(&session, &table.arrow, text, None)?;
        if keys_only {
            let keys: Vec<&str> = table
                .core
                .columns()
                .take(table.key_columns())
                .map(|key| key.name.as_str())
                .collect();
            if let Some(value) = expression
                .column_refs()
                .iter()
                .find(|column| !keys.contains(&column.name()))
            {
                let columns = keys.join(", ");
                return Err(invalid(
                    text,
                    format!(
                        "column \"{}\" is aggregated; in this table it may name the keys: {columns}",
                        value.name()
                    ),
                ));
            }
        }
        let holds = physical(&session, &table.arrow, text, expression)?;
        let pruning = match keeps_order(&holds, &table.arrow) {
            true => PruningPredicateBuilder::new()
                .with_file_schema(table.arrow.clone())
                .build(holds.clone()),
            false => None,
        };
        Ok(Self {
            text: text.clone(),
            holds,
            pruning,
        })
    }

    /// The rows that it is not true for.
    ///
    /// # Errors
    /// `Invalid` when it cannot be evaluated, as for a division by zero.
    pub(crate) fn without(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let wrong =
            |reason: String| invalid(&self.text, format!("it cannot be evaluated for a row: {reason}"));
        let kept = contain(
            |panic| wrong(panic.to_string()),
            || {
                let value = self
                    .holds
                    .evaluate(batch)
                    .map_err(|error| wrong(reason(&error)))?;
                let values = value
                    .into_array(batch.num_rows())
                    .map_err(|error| wrong(reason(&error)))?;
                let values = BooleanArray::from(values.to_data());
                // Where it is unknown, it is not true.
                let known = match values.null_count() {
                    0 => values,
                    _ => compute::prep_null_mask_filter(&values),
                };
                compute::not(&known).map_err(|error| wrong(error.to_string()))
            },
        )?;
        compute::filter_record_batch(batch, &kept).map_err(|error| wrong(error.to_string()))
    }

    /// Says of each row group whether it may have a row that it is true for, by statistics.
    pub(crate) fn may_match(&self, input: &Input, table: &TableSchema) -> Vec<bool> {
        let everything = || vec![true; input.row_groups()];
        let Some(pruning) = &self.pruning else {
            return everything();
        };
        let statistics = RowGroupStatistics { input, table };
        let found: Result<_> = contain(
            |panic| {
                input
                    .object()
                    .damaged(format!("its statistics cannot be read: {panic}"))
            },
            || Ok(pruning.prune(&statistics).unwrap_or_else(|_| everything())),
        );
        found.unwrap_or_else(|_| everything())
    }
}

fn session() -> SessionState {
    let mut options = ConfigOptions::default();
    options.sql_parser.enable_ident_normalization = false;
    SessionStateBuilder::new()
        .with_config(SessionConfig::from(options))
        .with_default_features()
        .build()
}

/// What the predicate of a row policy asks of rows with these columns.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(crate) fn permitted(columns: &SchemaRef, predicate: &Predicate, reader: &str) -> Result<Expr> {
    contain(
        |panic| invalid(predicate, format!("it cannot be read: {panic}")),
        || {
            let session = session();
            let expression = parse(&session, columns, predicate, Some(reader))?;
            physical(&session, columns, predicate, expression.clone())?;
            Ok(expression)
        },
    )
}

/// The expression on these columns that a text is, in which `$tenant` stands for a tenant if there is one.
fn parse(
    session: &SessionState,
    columns: &SchemaRef,
    text: &Predicate,
    tenant: Option<&str>,
) -> Result<Expr> {
    let wrong = |error: DataFusionError| invalid(text, reason(&error));
    let schema = DFSchema::try_from(columns.clone()).map_err(wrong)?;
    let dialect = session.config_options().sql_parser.dialect;
    let parsed = session
        .sql_to_expr_with_alias(text.as_str(), &dialect)
        .map_err(wrong)?;
    if let Some(rest) = &parsed.alias {
        return Err(invalid(text, format!("{rest} stands where it should end")));
    }
    let expression = session
        .create_logical_expr_from_sql_expr(parsed, &schema)
        .map_err(wrong)?;
    let bound = expression.transform(|part| {
        Ok(match (&part, tenant) {
            (Expr::Placeholder(placeholder), Some(tenant)) if placeholder.id == TENANT => {
                Transformed::yes(lit(tenant))
            }
            _ => Transformed::no(part),
        })
    });
    let expression = bound.map_err(wrong)?.data;
    check(&expression, text)?;
    Ok(expression)
}

/// The expression as it is evaluated, to true or false.
fn physical(
    session: &SessionState,
    columns: &SchemaRef,
    text: &Predicate,
    expression: Expr,
) -> Result<Arc<dyn PhysicalExpr>> {
    let wrong = |error: DataFusionError| invalid(text, reason(&error));
    let schema = DFSchema::try_from(columns.clone()).map_err(wrong)?;
    let holds = session.create_physical_expr(expression, &schema).map_err(wrong)?;
    match holds.data_type(columns).map_err(wrong)? {
        ArrowType::Boolean => Ok(holds),
        found => Err(invalid(
            text,
            format!("it is of type {found}, and would have to be true or false"),
        )),
    }
}

fn invalid(text: &Predicate, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("predicate \"{text}\": {reason}"))
}

/// That the expression is about one row, and says the same of it at any time.
fn check(expression: &Expr, text: &Predicate) -> Result<()> {
    let mut wrong = None;
    let walked = expression.apply(|part| {
        wrong = match part {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(format!(
                    "{}() is another at another time; write the value that is meant",
                    call.func.name()
                ))
            }
            Expr::ScalarFunction(call) if LENGTHENING.contains(&call.func.name()) => Some(format!(
                "{}() makes texts of any length, which may not fit in memory",
                call.func.name()
            )),
            Expr::AggregateFunction(call) => Some(format!("{}() is about many rows", call.func.name())),
            Expr::WindowFunction(call) => Some(format!("{}() is about many rows", call.fun.name())),
            Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::ScalarSubquery(_)
            | Expr::OuterReferenceColumn(..) => {
                Some("it has a query inside, and may look at a row alone".to_owned())
            }
            Expr::Placeholder(placeholder) => Some(format!("nothing stands for {}", placeholder.id)),
            _ => None,
        };
        Ok(match wrong {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    });
    match (wrong, walked) {
        (Some(reason), _) => Err(invalid(text, reason)),
        (None, Err(error)) => Err(invalid(text, reason(&error))),
        (None, Ok(_)) => Ok(()),
    }
}

/// Whether what the expression makes of columns, before it compares them, keeps their order: else the smallest and the
/// largest value of a column tell nothing of what becomes of those between. DataFusion takes any cast for such a one.
pub(crate) fn keeps_order(holds: &Arc<dyn PhysicalExpr>, schema: &ArrowSchema) -> bool {
    let mut keeps = true;
    let walked = holds.apply(|part| {
        let cast = part
            .downcast_ref::<CastExpr>()
            .map(|cast| (cast.expr(), cast.cast_type()))
            .or_else(|| {
                part.downcast_ref::<TryCastExpr>()
                    .map(|cast| (cast.expr(), cast.cast_type()))
            });
        if let Some((from, to)) = cast {
            keeps &= is_monotonic(&from.data_type(schema)?, to);
        }
        keeps &= part.downcast_ref::<NegativeExpr>().is_none();
        Ok(match keeps {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    });
    walked.is_ok() && keeps
}

/// Whether a larger value never becomes a smaller one, nor one that is unknown.
fn is_monotonic(from: &ArrowType, to: &ArrowType) -> bool {
    use ArrowType as T;
    let is_wide = |to: &ArrowType| matches!(to, T::Float32 | T::Float64 | T::Decimal128(38, 0..10));
    match (from, to) {
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View) => true,
        (T::Binary | T::LargeBinary | T::BinaryView, T::Binary | T::LargeBinary | T::BinaryView) => true,
        (T::Int8, T::Int16 | T::Int32 | T::Int64)
        | (T::Int16, T::Int32 | T::Int64)
        | (T::Int32, T::Int64)
        | (T::UInt8, T::UInt16 | T::UInt32 | T::UInt64 | T::Int16 | T::Int32 | T::Int64)
        | (T::UInt16, T::UInt32 | T::UInt64 | T::Int32 | T::Int64)
        | (T::UInt32, T::UInt64 | T::Int64) => true,
        (from, to) if from.is_integer() && is_wide(to) => true,
        (T::Date32, T::Timestamp(_, None)) => true,
        (T::Timestamp(_, from), T::Timestamp(_, to)) => from == to,
        (T::Decimal128(precision, scale), T::Decimal128(to_precision, to_scale)) => {
            to_scale >= scale
                && i16::from(*to_precision) - i16::from(*to_scale)
                    >= i16::from(*precision) - i16::from(*scale)
        }
        (from, to) => from == to,
    }
}

/// What a file's footer says of its row groups.
struct RowGroupStatistics<'a> {
    input: &'a Input,
    table: &'a TableSchema,
}

impl RowGroupStatistics<'_> {
    fn converter<'s>(&'s self, column: &'s Column) -> Option<StatisticsConverter<'s>> {
        let field = self.table.arrow.field_with_name(&column.name).ok()?;
        // Statistics of fractions leave NaN out, which is above every number.
        if field.data_type().is_floating() {
            return None;
        }
        let parquet = self.input.footer().file_metadata().schema_descr();
        let converter = StatisticsConverter::try_new(&column.name, self.input.schema(), parquet).ok()?;
        Some(converter.with_missing_null_counts_as_zero(false))
    }
}

impl PruningStatistics for RowGroupStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?
            .row_group_mins(self.input.footer().row_groups())
            .ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?
            .row_group_maxes(self.input.footer().row_groups())
            .ok()
    }

    fn num_containers(&self) -> usize {
        self.input.row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self
            .converter(column)?
            .row_group_null_counts(self.input.footer().row_groups())
            .ok()?;
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let groups = self.input.footer().row_groups();
        Some(Arc::new(UInt64Array::from_iter_values(
            groups.iter().map(row_count),
        )))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
