//! Sorts rows that lie in several batches, without moving them.
//!
//! Rows are ordered by 64-bit digits of their keys, most significant first: a number is one digit, text is cut
//! into digits of seven bytes. Rows of equal digits form a run, which is sorted by its next digit, until runs are
//! short enough to be compared whole. Text that all rows of a run share is skipped, so long common fronts cost
//! one look.

use std::cmp::Ordering;

use crate::sort_key::{KeyColumn, Keys, bytes_prefix64, flip64};

/// A row of a sort: where it is, and the digit it is sorted by at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    digit: u64,
    pub(crate) batch: u32,
    pub(crate) row: u32,
}

/// A row costs so many bytes while it is sorted.
pub(crate) const ROW_BYTES: u64 = size_of::<Row>() as u64;

impl Row {
    pub(crate) fn new(batch: u32, row: u32) -> Self {
        Self { digit: 0, batch, row }
    }
}

/// Runs of at most so many rows are compared whole.
const SHORT_RUN: usize = 24;

/// A run of rows whose keys are equal before byte `skip` of column `column`.
struct Run {
    from: usize,
    until: usize,
    column: usize,
    skip: usize,
}

/// Sorts `rows` by their keys; equal rows end up by batch and row.
pub(crate) fn sort(rows: &mut [Row], batches: &[Keys]) {
    let columns = batches.first().map_or(0, |keys| keys.columns().len());
    let mut pending = vec![Run {
        from: 0,
        until: rows.len(),
        column: 0,
        skip: 0,
    }];
    while let Some(run) = pending.pop() {
        let part = &mut rows[run.from..run.until];
        if part.len() <= SHORT_RUN || run.column >= columns {
            part.sort_unstable_by(|a, b| compare(*a, *b, batches, run.column));
            continue;
        }
        let skip = set_digits(part, batches, run.column, run.skip);
        part.sort_unstable_by_key(|row| row.digit);
        let mut from = 0;
        for equal in part.chunk_by(|a, b| a.digit == b.digit) {
            if equal.len() > 1 {
                let is_text = matches!(
                    column(batches, equal[0], run.column),
                    KeyColumn::Bytes(..) | KeyColumn::Views(_)
                );
                let text_goes_on = is_text && equal[0].digit & 0xff == 8;
                pending.push(Run {
                    from: run.from + from,
                    until: run.from + from + equal.len(),
                    column: if text_goes_on { run.column } else { run.column + 1 },
                    skip: if text_goes_on { skip + 7 } else { 0 },
                });
            }
            from += equal.len();
        }
    }
}

fn compare(a: Row, b: Row, batches: &[Keys], first_column: usize) -> Ordering {
    batches[a.batch as usize]
        .compare(
            a.row as usize,
            &batches[b.batch as usize],
            b.row as usize,
            first_column,
        )
        .then_with(|| (a.batch, a.row).cmp(&(b.batch, b.row)))
}

fn column(batches: &[Keys], row: Row, column: usize) -> &KeyColumn {
    &batches[row.batch as usize].columns()[column]
}

/// Sets the rows' digits by a column; answers how many bytes of it were skipped.
fn set_digits(rows: &mut [Row], batches: &[Keys], at: usize, skip: usize) -> usize {
    if rows.is_empty() {
        return skip;
    }
    let shared = shared_front(rows, batches, at, skip);
    for row in rows {
        row.digit = match column(batches, *row, at) {
            KeyColumn::Int32(values) => flip64(i64::from(values[row.row as usize])),
            KeyColumn::Int64(values) => flip64(values[row.row as usize]),
            text => bytes_prefix64(&text.bytes(row.row as usize)[shared..]),
        };
    }
    shared
}

/// How many bytes of a text column all rows share, given that they share `skip`; 0 for numbers.
fn shared_front(rows: &[Row], batches: &[Keys], at: usize, skip: usize) -> usize {
    let first = column(batches, rows[0], at).bytes(rows[0].row as usize);
    let mut shared = first.len();
    for row in rows {
        let other = column(batches, *row, at).bytes(row.row as usize);
        if other.get(skip..shared) != Some(&first[skip..shared]) {
            shared = skip
                + first[skip..shared]
                    .iter()
                    .zip(&other[skip..])
                    .take_while(|(a, b)| a == b)
                    .count();
            if shared == skip {
                break;
            }
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    fn sorted(columns: &[Vec<ArrayRef>]) -> Vec<(u32, u32)> {
        let batches: Vec<Keys> = columns.iter().map(|c| Keys::new(c, c.len()).unwrap()).collect();
        let mut rows = Vec::new();
        for (batch, keys) in batches.iter().enumerate() {
            rows.extend((0..keys.rows()).map(|row| Row::new(batch as u32, row as u32)));
        }
        sort(&mut rows, &batches);
        rows.iter().map(|row| (row.batch, row.row)).collect()
    }

    proptest! {
        #[test]
        fn rows_come_out_as_a_comparison_sort_puts_them(
            batches in prop::collection::vec(
                prop::collection::vec(("[ab]{0,3}(common front that is long)?[ab\\x00]{0,9}", -2i32..2), 0..60),
                1..4,
            ),
        ) {
            let columns: Vec<Vec<ArrayRef>> = batches.iter().map(|rows| vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0))) as ArrayRef,
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1))),
            ]).collect();
            let mut expected: Vec<(&str, i32, u32, u32)> = Vec::new();
            for (batch, rows) in batches.iter().enumerate() {
                for (row, (text, number)) in rows.iter().enumerate() {
                    expected.push((text, *number, batch as u32, row as u32));
                }
            }
            expected.sort_unstable();
            let expected: Vec<(u32, u32)> = expected.iter().map(|row| (row.2, row.3)).collect();
            prop_assert_eq!(sorted(&columns), expected);
        }
    }

    #[test]
    fn extensions_of_each_other_end_in_order_without_recursion() {
        let texts: Vec<String> = (0..3000).rev().map(|length| "x".repeat(length)).collect();
        let rows = sorted(&[vec![Arc::new(StringArray::from(texts)) as ArrayRef]]);
        assert!(rows.windows(2).all(|pair| pair[0].1 > pair[1].1));
    }
}
