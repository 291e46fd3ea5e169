//! A sample of a leaf's row keys.
//!
//! The page index of each file says where its pages of the first key column begin. Rows are taken at the beginnings
//! of pages, spread evenly over all files, so that each costs one page of every key column at most; where pages have
//! more rows than a sample stands for, rows inside them are taken too. What a row stands for counts where that row is:
//! at the leaf's bounds, each file may count a sample too many or too few.

use std::{ops::Range, sync::Arc};

use dormouse_core::{
    Result,
    key::KeyBounds,
    ports::{KeySample, MergeInput},
    schema::Schema,
};
use parquet::arrow::arrow_reader::RowSelection;
use tokio::runtime::Handle;

use crate::{
    cancel::Cancel,
    input::{Input, row_count},
    object_reader::RemoteObject,
    pruning,
    sort_key::{Keys, row_key},
    table::TableSchema,
};

/// One look at a leaf.
pub(crate) struct Sample {
    pub(crate) schema: Arc<Schema>,
    pub(crate) bounds: KeyBounds,
    pub(crate) inputs: Vec<MergeInput>,
    /// About how many keys to take.
    pub(crate) keys: usize,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
}

/// Rows of a file that may be in the leaf.
struct Pages {
    input: Input,
    /// Row groups, and rows in them.
    pages: Vec<(usize, Range<usize>)>,
}

/// A row to read, and how many rows it stands for.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    group: usize,
    row: usize,
    rows: usize,
}

impl Sample {
    /// Does the work, on this thread.
    pub(crate) fn run(&self) -> Result<Vec<KeySample>> {
        let table = TableSchema::new(self.schema.clone());
        let files = self
            .inputs
            .iter()
            .map(|input| self.open(input, &table))
            .collect::<Result<Vec<_>>>()?;
        let rows = files
            .iter()
            .flat_map(|file| &file.pages)
            .map(|(_, rows)| rows.len());
        let step = rows.sum::<usize>().div_ceil(self.keys.max(1)).max(1);
        let mut samples = Vec::new();
        for file in files {
            let taken = take(&file.pages, step);
            for group in taken.chunk_by(|a, b| a.group == b.group) {
                self.cancel.check()?;
                self.read(&file.input, group, &table, &mut samples)?;
            }
        }
        Ok(samples)
    }

    fn open(&self, input: &MergeInput, table: &TableSchema) -> Result<Pages> {
        self.cancel.check()?;
        let object = RemoteObject::of_table(input, &self.runtime);
        let opened = Input::open(object, table)?;
        let mut pages = Vec::new();
        for group in pruning::row_groups(&opened, &self.bounds)? {
            let rows = pruning::page_rows(&opened, group, &self.bounds)?;
            pages.extend(rows.into_iter().map(|rows| (group, rows)));
        }
        Ok(Pages {
            input: opened.with_row_keys_only(table),
            pages,
        })
    }

    /// Reads the keys of rows of one row group.
    fn read(
        &self,
        input: &Input,
        taken: &[Taken],
        table: &TableSchema,
        samples: &mut Vec<KeySample>,
    ) -> Result<()> {
        let Some(first) = taken.first() else { return Ok(()) };
        let all = row_count(input.footer().row_group(first.group)) as usize;
        let rows = taken.iter().map(|taken| taken.row..taken.row + 1);
        let selection = RowSelection::from_consecutive_ranges(rows, all);
        let mut reader = input.read(first.group, Some(selection), table)?;
        let mut weights = taken.iter().map(|taken| taken.rows as u64);
        while let Some(rows) = reader.next()? {
            let columns = rows.conformed(input.object(), table)?;
            let keys = Keys::new(&columns, columns.len())?;
            for (row, weight) in (0..rows.rows).zip(weights.by_ref()) {
                let key = row_key(&table.core, &keys, row)?;
                if self.bounds.contains(&key) {
                    samples.push(KeySample { key, rows: weight });
                }
            }
        }
        Ok(())
    }
}

/// A row for about every `step` rows; each page begins with one, unless the one before has room.
fn take(pages: &[(usize, Range<usize>)], step: usize) -> Vec<Taken> {
    let mut taken: Vec<Taken> = Vec::new();
    for (group, page) in pages {
        for row in page.clone().step_by(step) {
            let rows = (page.end - row).min(step);
            match taken.last_mut() {
                Some(last) if last.rows + rows <= step => last.rows += rows,
                _ => taken.push(Taken {
                    group: *group,
                    row,
                    rows,
                }),
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pages: &[Range<usize>], step: usize) -> Vec<(usize, usize)> {
        let pages: Vec<_> = pages.iter().map(|page| (0, page.clone())).collect();
        take(&pages, step)
            .iter()
            .map(|taken| (taken.row, taken.rows))
            .collect()
    }

    #[test]
    fn small_pages_share_a_row_and_large_ones_have_several() {
        assert_eq!(taken(&[0..10, 10..20, 20..25], 20), [(0, 20), (20, 5)]);
        assert_eq!(taken(&[0..10, 10..13], 4), [(0, 4), (4, 4), (8, 2), (10, 3)]);
        assert_eq!(taken(&[5..7, 7..8], 1), [(5, 1), (6, 1), (7, 1)]);
        assert_eq!(taken(&[], 5), []);
    }
}
