//! Row rules on batches in key order: rows that are purged or do not count are dropped, rows of equal keys become one.
//!
//! Rows of one key may be spread over batches, so the last key of each batch waits for the next one.

use std::{borrow::Borrow, ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, BooleanArray, MapArray, PrimitiveArray,
        RecordBatch, StructArray, UInt32Array, cast::AsArray,
    },
    buffer::OffsetBuffer,
    compute::{self, concat_batches, filter_record_batch, take},
    datatypes::{
        DataType as ArrowType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
    row::{RowConverter, SortField},
};
use dormouse_core::{
    Error, Result,
    predicate::Predicate,
    row_rules::{Aggregation, Filter, Function, RulesAt},
};

use crate::{input::Input, predicate::RowPredicate, table::TableSchema};

/// The rules of a table, at a time, and what is purged.
pub(crate) struct Rules {
    table: TableSchema,
    purged: Option<RowPredicate>,
    /// Columns, and the time that each must be later than, in the column's unit.
    later_than: Vec<(usize, i64)>,
    /// For each value column what becomes of it; none when rows stay single.
    aggregations: Option<Vec<Aggregation>>,
}

impl Rules {
    /// None when every row stays as it is.
    ///
    /// # Errors
    /// `Invalid` when the rules or the predicate do not fit the columns.
    pub(crate) fn new(
        table: &TableSchema,
        rules: Option<&RulesAt>,
        purge: Option<&Predicate>,
    ) -> Result<Option<Self>> {
        let purged = purge
            .map(|purge| RowPredicate::new(table, purge, aggregates(rules)))
            .transpose()?;
        let Some(RulesAt { rules, at: now }) = rules else {
            return Ok(purged.map(|purged| Self {
                table: table.clone(),
                purged: Some(purged),
                later_than: Vec::new(),
                aggregations: None,
            }));
        };
        rules.check(&table.core)?;
        let position = |name: &str| table.core.columns().position(|column| column.name == name);
        let mut later_than = Vec::with_capacity(rules.filters.len());
        for Filter::AgeOff { column, millis } in &rules.filters {
            let position = position(column).ok_or_else(|| Error::internal("a filter has lost its column"))?;
            let oldest = now.as_millis().saturating_sub(*millis);
            later_than.push((position, in_unit_of(table.column_type(position), oldest)));
        }
        let of_column = |name: &str| {
            rules
                .aggregations
                .iter()
                .find(|rule| rule.column == name)
                .cloned()
        };
        let values = table.core.values().iter();
        let aggregations: Option<Vec<_>> = values.map(|column| of_column(&column.name)).collect();
        Ok(Some(Self {
            table: table.clone(),
            purged,
            later_than,
            aggregations: aggregations.filter(|_| !rules.aggregations.is_empty()),
        }))
    }

    /// Says of each row group of a file whether the rules may change something of it.
    pub(crate) fn may_change(&self, input: &Input) -> Vec<bool> {
        match &self.purged {
            Some(purged) if self.later_than.is_empty() && self.aggregations.is_none() => {
                purged.may_match(input, &self.table)
            }
            _ => vec![true; input.row_groups()],
        }
    }

    /// Applies the rules to some rows in key order.
    pub(crate) fn apply(&self) -> RuledRows<&Self> {
        RuledRows {
            rules: self,
            waiting: None,
        }
    }

    /// As [`Self::apply`], for whoever keeps nothing else of them.
    pub(crate) fn into_apply(self) -> RuledRows<Self> {
        RuledRows {
            rules: self,
            waiting: None,
        }
    }
}

/// Whether a row's values are those of many.
pub(crate) fn aggregates(rules: Option<&RulesAt>) -> bool {
    rules.is_some_and(|rules| !rules.rules.aggregations.is_empty())
}

/// A time in milliseconds, in the unit of a column: the latest value that is not after it.
pub(crate) fn in_unit_of(column: &ArrowType, millis: i64) -> i64 {
    match column {
        ArrowType::Timestamp(TimeUnit::Second, _) => millis.div_euclid(1000),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => millis.saturating_mul(1000),
        ArrowType::Timestamp(TimeUnit::Nanosecond, _) => millis.saturating_mul(1_000_000),
        _ => millis,
    }
}

/// Rows on their way through the rules.
pub(crate) struct RuledRows<R> {
    rules: R,
    /// One row, of the last key.
    waiting: Option<RecordBatch>,
}

impl<R: Borrow<Rules>> RuledRows<R> {
    /// Takes rows, which follow those before in key order; answers rows that are complete.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let rules = self.rules.borrow();
        let batch = rules.filter(batch)?;
        let Some(aggregations) = &rules.aggregations else {
            return Ok(some_rows(batch));
        };
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let mut complete = Vec::new();
        let batch = match self.waiting.take() {
            Some(waiting) if rules.is_same_key(&waiting, &batch)? => {
                concat_batches(&rules.table.arrow, [&waiting, &batch]).map_err(cannot_apply)?
            }
            waiting => {
                complete.extend(waiting);
                batch
            }
        };
        let groups = rules.groups(&batch)?;
        let batch = if groups.len() < batch.num_rows() {
            rules.aggregate(&batch, &groups, aggregations)?
        } else {
            batch
        };
        let last = batch.num_rows() - 1;
        self.waiting = Some(batch.slice(last, 1));
        complete.extend(some_rows(batch.slice(0, last)));
        Ok(complete)
    }

    /// The rows that are left at the end.
    pub(crate) fn finish(&mut self) -> Option<RecordBatch> {
        self.waiting.take()
    }
}

fn some_rows(batch: RecordBatch) -> Vec<RecordBatch> {
    let is_empty = batch.num_rows() == 0;
    Some(batch).filter(|_| !is_empty).into_iter().collect()
}

fn cannot_apply(error: arrow::error::ArrowError) -> Error {
    Error::internal("cannot apply the table's filters and aggregations").with_source(error)
}

impl Rules {
    fn filter(&self, mut batch: RecordBatch) -> Result<RecordBatch> {
        if let Some(purged) = &self.purged {
            batch = purged.without(&batch)?;
        }
        for (column, oldest) in &self.later_than {
            let times = compute::cast(batch.column(*column), &ArrowType::Int64).map_err(cannot_apply)?;
            let times = times.as_primitive::<Int64Type>();
            // A row without a time has no age that could be told, and goes.
            let kept: BooleanArray = BooleanArray::from_unary(times, |time| time > *oldest);
            batch = filter_record_batch(&batch, &kept).map_err(cannot_apply)?;
        }
        Ok(batch)
    }

    fn is_same_key(&self, one: &RecordBatch, next: &RecordBatch) -> Result<bool> {
        let (one, next) = (self.table.keys(one.columns())?, self.table.keys(next.columns())?);
        Ok(one.compare(0, &next, 0, 0).is_eq())
    }

    /// The rows of each key.
    fn groups(&self, batch: &RecordBatch) -> Result<Vec<Range<usize>>> {
        let keys = self.table.keys(batch.columns())?;
        let rows: Vec<usize> = (0..batch.num_rows()).collect();
        let groups = rows.chunk_by(|a, b| keys.compare(*a, &keys, *b, 0).is_eq());
        Ok(groups.map(|group| group[0]..group[group.len() - 1] + 1).collect())
    }

    /// One row of each group.
    fn aggregate(
        &self,
        batch: &RecordBatch,
        groups: &[Range<usize>],
        aggregations: &[Aggregation],
    ) -> Result<RecordBatch> {
        let firsts = UInt32Array::from_iter_values(groups.iter().map(|group| group.start as u32));
        let (keys, values) = batch.columns().split_at(self.table.key_columns());
        let mut columns = Vec::with_capacity(batch.num_columns());
        for key in keys {
            columns.push(take(key, &firsts, None).map_err(cannot_apply)?);
        }
        for (column, aggregation) in values.iter().zip(aggregations) {
            columns.push(if aggregation.is_map {
                fold_maps(column.as_map(), groups, aggregation.function)?
            } else {
                fold(column, groups, aggregation.function)?
            });
        }
        self.table.batch(columns)
    }
}

/// Folds each group of numbers.
fn fold(column: &ArrayRef, groups: &[Range<usize>], function: Function) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        ArrowType::Int8 => fold_numbers::<Int8Type>(column, groups, function),
        ArrowType::Int16 => fold_numbers::<Int16Type>(column, groups, function),
        ArrowType::Int32 => fold_numbers::<Int32Type>(column, groups, function),
        ArrowType::Int64 => fold_numbers::<Int64Type>(column, groups, function),
        ArrowType::UInt8 => fold_numbers::<UInt8Type>(column, groups, function),
        ArrowType::UInt16 => fold_numbers::<UInt16Type>(column, groups, function),
        ArrowType::UInt32 => fold_numbers::<UInt32Type>(column, groups, function),
        ArrowType::UInt64 => fold_numbers::<UInt64Type>(column, groups, function),
        ArrowType::Float32 => fold_numbers::<Float32Type>(column, groups, function),
        ArrowType::Float64 => fold_numbers::<Float64Type>(column, groups, function),
        other => return Err(Error::internal(format!("{other} cannot be aggregated"))),
    })
}

fn fold_numbers<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    groups: &[Range<usize>],
    function: Function,
) -> ArrayRef {
    let values = column.as_primitive::<T>().values();
    let pick: fn(T::Native, T::Native) -> T::Native = match function {
        Function::Sum => |a, b| a.add_wrapping(b),
        Function::Min => |a, b| if b.is_lt(a) { b } else { a },
        Function::Max => |a, b| if b.is_gt(a) { b } else { a },
    };
    let folded = groups.iter().map(|group| {
        let rest = &values[group.start + 1..group.end];
        rest.iter()
            .fold(values[group.start], |sum, value| pick(sum, *value))
    });
    Arc::new(PrimitiveArray::<T>::from_iter_values(folded))
}

/// Folds the entries of each group of maps, key by key; the keys come out in order.
fn fold_maps(maps: &MapArray, groups: &[Range<usize>], function: Function) -> Result<ArrayRef> {
    let offsets = maps.offsets();
    let ArrowType::Map(entries_field, sorted) = maps.data_type() else {
        return Err(Error::internal("a map is no map"));
    };
    let converter =
        RowConverter::new(vec![SortField::new(maps.keys().data_type().clone())]).map_err(cannot_apply)?;
    let keys = converter
        .convert_columns(std::slice::from_ref(maps.keys()))
        .map_err(cannot_apply)?;
    let mut order: Vec<u32> = Vec::with_capacity(maps.entries().len());
    let mut folds: Vec<Range<usize>> = Vec::with_capacity(maps.entries().len());
    let mut ends: Vec<i32> = Vec::with_capacity(groups.len() + 1);
    ends.push(0);
    for group in groups {
        let from = order.len();
        order.extend(offsets[group.start] as u32..offsets[group.end] as u32);
        order[from..].sort_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
        let mut at = from;
        for same in order[from..].chunk_by(|a, b| keys.row(*a as usize) == keys.row(*b as usize)) {
            folds.push(at..at + same.len());
            at += same.len();
        }
        ends.push(i32::try_from(folds.len()).map_err(|_| Error::internal("maps have too many entries"))?);
    }
    let order = UInt32Array::from(order);
    let firsts: UInt32Array = folds.iter().map(|fold| order.value(fold.start)).collect();
    let kept_keys = take(maps.keys(), &firsts, None).map_err(cannot_apply)?;
    let values = take(maps.values(), &order, None).map_err(cannot_apply)?;
    let values = fold(&values, &folds, function)?;
    let ArrowType::Struct(fields) = entries_field.data_type() else {
        return Err(Error::internal("a map has no entries"));
    };
    let entries =
        StructArray::try_new(fields.clone(), vec![kept_keys, values], None).map_err(cannot_apply)?;
    let maps = MapArray::try_new(
        entries_field.clone(),
        OffsetBuffer::new(ends.into()),
        entries,
        None,
        *sorted,
    );
    Ok(Arc::new(maps.map_err(cannot_apply)?))
}
