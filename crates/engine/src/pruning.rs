//! Row groups and pages of a sorted file that cannot have rows within bounds, by the first key column.
//!
//! Statistics may be cut short by their writer, but only outwards: a minimum is never above a value, a maximum
//! never below one. Where they are missing, everything is read.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use dormouse_core::{
    Result,
    key::{KeyBounds, KeyValue},
};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector, statistics::StatisticsConverter};

use crate::{
    cancel::contain,
    input::{Input, row_count},
    sort_key::{KeyColumn, Keys, row_key},
    table::TableSchema,
};

/// The row groups that may have rows in the bounds.
pub(crate) fn row_groups(input: &Input, bounds: &KeyBounds) -> Result<Vec<usize>> {
    let all = || (0..input.row_groups()).filter(|group| row_count(input.footer().row_group(*group)) > 0);
    guarded(input, || {
        let Some(converter) = converter(input) else {
            return Ok(all().collect());
        };
        let groups = input.footer().row_groups();
        let (Ok(mins), Ok(maxes)) = (
            converter.row_group_mins(groups),
            converter.row_group_maxes(groups),
        ) else {
            return Ok(all().collect());
        };
        let touch = touching(&mins, &maxes, bounds)?;
        Ok(all()
            .filter(|group| touch.get(*group).copied().unwrap_or(true))
            .collect())
    })
}

/// The smallest and the largest value of the first key column in each row group, as far as is known.
pub(crate) fn spans(input: &Input, table: &TableSchema) -> Result<Vec<Option<(KeyValue, KeyValue)>>> {
    let groups = input.footer().row_groups();
    guarded(input, || {
        let unknown = || vec![None; groups.len()];
        let Some(converter) = converter(input) else {
            return Ok(unknown());
        };
        let (Ok(mins), Ok(maxes)) = (
            converter.row_group_mins(groups),
            converter.row_group_maxes(groups),
        ) else {
            return Ok(unknown());
        };
        let spans = values(&mins, table)?.into_iter().zip(values(&maxes, table)?);
        Ok(spans.map(|(min, max)| min.zip(max)).collect())
    })
}

/// Where the pages of the first key column begin: the smallest value of each, with its rows. Without a page index,
/// nothing.
pub(crate) fn page_starts(
    input: &Input,
    row_group: usize,
    table: &TableSchema,
) -> Result<Vec<(KeyValue, usize)>> {
    let everything = KeyBounds::default();
    let footer = input.footer();
    guarded(input, || {
        let (Some(converter), Some(column_index), Some(offset_index), Some(pages)) = (
            converter(input),
            footer.column_index(),
            footer.offset_index(),
            indexed_pages(input, row_group, &everything)?,
        ) else {
            return Ok(Vec::new());
        };
        let Ok(mins) = converter.data_page_mins(column_index, offset_index, &[row_group]) else {
            return Ok(Vec::new());
        };
        let starts = values(&mins, table)?.into_iter().zip(pages);
        Ok(starts
            .filter_map(|(min, rows)| Some((min?, rows.len())))
            .collect())
    })
}

/// Values of the first key column.
fn values(array: &ArrayRef, table: &TableSchema) -> Result<Vec<Option<KeyValue>>> {
    let keys = Keys::new(std::slice::from_ref(array), 1)?;
    (0..array.len())
        .map(|row| {
            if array.is_null(row) {
                return Ok(None);
            }
            let key = row_key(&table.core, &keys, row)?;
            Ok(key.0.into_iter().next())
        })
        .collect()
}

/// The rows of a row group between the first and the last page that may have rows in the bounds; none for all
/// rows.
pub(crate) fn pages(input: &Input, row_group: usize, bounds: &KeyBounds) -> Result<Option<RowSelection>> {
    let rows = row_count(input.footer().row_group(row_group)) as usize;
    let touched = page_rows(input, row_group, bounds)?;
    let (Some(first), Some(last)) = (touched.first(), touched.last()) else {
        return Ok(None);
    };
    if first.start == 0 && last.end == rows {
        return Ok(None);
    }
    Ok(Some(RowSelection::from(vec![
        RowSelector::skip(first.start),
        RowSelector::select(last.end - first.start),
        RowSelector::skip(rows - last.end),
    ])))
}

/// The rows of each page of the first key column, from the first to the last page that may have rows in the bounds.
/// Without a page index, all rows of the row group are as one page.
pub(crate) fn page_rows(input: &Input, row_group: usize, bounds: &KeyBounds) -> Result<Vec<Range<usize>>> {
    let rows = row_count(input.footer().row_group(row_group)) as usize;
    guarded(input, || {
        Ok(indexed_pages(input, row_group, bounds)?.unwrap_or_else(|| std::iter::once(0..rows).collect()))
    })
}

fn indexed_pages(input: &Input, row_group: usize, bounds: &KeyBounds) -> Result<Option<Vec<Range<usize>>>> {
    let footer = input.footer();
    let (Some(converter), Some(column_index), Some(offset_index)) =
        (converter(input), footer.column_index(), footer.offset_index())
    else {
        return Ok(None);
    };
    let groups = [row_group];
    let (Ok(mins), Ok(maxes)) = (
        converter.data_page_mins(column_index, offset_index, &groups),
        converter.data_page_maxes(column_index, offset_index, &groups),
    ) else {
        return Ok(None);
    };
    let touch = touching(&mins, &maxes, bounds)?;
    let Some(pages) = offset_index.get(row_group).and_then(|columns| columns.first()) else {
        return Ok(None);
    };
    let mut starts: Vec<usize> = pages
        .page_locations()
        .iter()
        .filter_map(|page| usize::try_from(page.first_row_index).ok())
        .collect();
    let rows = row_count(footer.row_group(row_group)) as usize;
    let first = touch.iter().position(|touches| *touches);
    let last = touch.iter().rposition(|touches| *touches);
    let (Some(first), Some(last)) = (first, last) else {
        // The row group's own statistics did not rule it out, so its rows are looked at.
        return Ok(None);
    };
    if starts.len() != touch.len() {
        return Ok(None);
    }
    starts.push(rows);
    if !starts.is_sorted() {
        return Ok(None);
    }
    let pages = starts[first..=last + 1].windows(2).map(|page| page[0]..page[1]);
    Ok(Some(pages.collect()))
}

fn guarded<T>(input: &Input, work: impl FnOnce() -> Result<T>) -> Result<T> {
    contain(
        |panic| {
            input
                .object()
                .damaged(format!("its statistics cannot be read: {panic}"))
        },
        work,
    )
}

/// Reads statistics of the first key column, where that is the file's first column.
fn converter(input: &Input) -> Option<StatisticsConverter<'_>> {
    let schema = input.schema();
    let first = schema
        .fields()
        .get(input.first_key_column())
        .filter(|_| input.first_key_column() == 0)?;
    StatisticsConverter::try_new(
        first.name(),
        schema,
        input.footer().file_metadata().schema_descr(),
    )
    .ok()
}

/// Which entries may have keys in the bounds.
fn touching(mins: &ArrayRef, maxes: &ArrayRef, bounds: &KeyBounds) -> Result<Vec<bool>> {
    let (min_keys, max_keys) = (KeyColumn::new(mins)?, KeyColumn::new(maxes)?);
    let lower: Option<&KeyValue> = bounds.lower.as_ref().and_then(|lower| lower.0.first());
    let upper = bounds
        .upper
        .as_ref()
        .and_then(|upper| Some((upper.0.first()?, upper.0.len() == 1)));
    Ok((0..mins.len())
        .map(|entry| {
            let is_before = maxes.is_valid(entry)
                && lower.is_some_and(|lower| max_keys.compare_value(entry, lower).is_lt());
            let is_beyond = mins.is_valid(entry)
                && upper.is_some_and(|(upper, is_whole)| {
                    let order = min_keys.compare_value(entry, upper);
                    order.is_gt() || (is_whole && order.is_eq())
                });
            !is_before && !is_beyond
        })
        .collect())
}
