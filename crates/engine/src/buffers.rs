//! Rows in memory on their way to a sort: batches that are ordered by leaf, and where each leaf's rows are.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use dormouse_core::{Error, Result};

use crate::{
    columns::{batch_bytes, interleave},
    merge::SortedSource,
    sort::{ROW_BYTES, Row, sort},
    sort_key::Keys,
    table::TableSchema,
};

/// An output batch has at most so many rows, and about so many bytes.
const OUTPUT_ROWS: usize = 8 << 10;
const OUTPUT_BYTES: u64 = 4 << 20;

/// Consecutive rows of one batch.
#[derive(Clone, Copy, Debug)]
struct Slice {
    batch: u32,
    from: u32,
    rows: u32,
}

/// Batches with their rows by leaf.
#[derive(Debug)]
pub(crate) struct LeafBuffers {
    table: TableSchema,
    batches: Vec<RecordBatch>,
    keys: Vec<Keys>,
    leaves: Vec<Vec<Slice>>,
    bytes: u64,
}

/// Rows and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Volume {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Volume {
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

impl LeafBuffers {
    pub(crate) fn new(table: TableSchema, leaves: usize) -> Self {
        Self {
            table,
            batches: Vec::new(),
            keys: Vec::new(),
            leaves: vec![Vec::new(); leaves],
            bytes: 0,
        }
    }

    /// The memory that the rows take, their sort entries included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a batch whose rows are in the order of `cut`; tells each leaf's volume to `count`.
    pub(crate) fn add(
        &mut self,
        batch: RecordBatch,
        cut: &[(usize, u32)],
        mut count: impl FnMut(usize, Volume),
    ) -> Result<()> {
        let rows = batch.num_rows() as u64;
        let plain = batch_bytes(&batch) as u64;
        let index = u32::try_from(self.batches.len()).map_err(|_| Error::internal("too many batches"))?;
        let mut from = 0;
        for &(leaf, end) in cut {
            let slice = Slice {
                batch: index,
                from,
                rows: end - from,
            };
            self.leaves[leaf].push(slice);
            count(
                leaf,
                Volume {
                    rows: u64::from(slice.rows),
                    bytes: u64::from(slice.rows) * plain / rows.max(1),
                },
            );
            from = end;
        }
        self.bytes +=
            batch.get_array_memory_size() as u64 + rows * ROW_BYTES + (cut.len() * size_of::<Slice>()) as u64;
        self.keys.push(self.table.keys(batch.columns())?);
        self.batches.push(batch);
        Ok(())
    }

    /// Takes over the rows of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        let shift = self.batches.len() as u32;
        self.batches.extend(other.batches);
        self.keys.extend(other.keys);
        self.bytes += other.bytes;
        for (leaf, slices) in self.leaves.iter_mut().zip(other.leaves) {
            leaf.extend(slices.into_iter().map(|slice| Slice {
                batch: slice.batch + shift,
                ..slice
            }));
        }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.keys.clear();
        self.leaves.iter_mut().for_each(Vec::clear);
        self.bytes = 0;
    }

    /// The rows of a leaf in key order; none without rows.
    pub(crate) fn sorted(&self, leaf: usize) -> Option<SortedRows<'_>> {
        let slices = &self.leaves[leaf];
        let count: usize = slices.iter().map(|slice| slice.rows as usize).sum();
        if count == 0 {
            return None;
        }
        let mut rows = Vec::with_capacity(count);
        let mut bytes = 0;
        for slice in slices {
            rows.extend((slice.from..slice.from + slice.rows).map(|row| Row::new(slice.batch, row)));
            let batch = &self.batches[slice.batch as usize];
            bytes += batch_bytes(batch) as u64 * u64::from(slice.rows) / batch.num_rows().max(1) as u64;
        }
        sort(&mut rows, &self.keys);
        let row_bytes = (bytes / count as u64).max(1);
        Some(SortedRows {
            buffers: self,
            rows,
            at: 0,
            batch_rows: (OUTPUT_BYTES / row_bytes).clamp(1, OUTPUT_ROWS as u64) as usize,
            ready: VecDeque::new(),
        })
    }
}

/// A leaf's rows, sorted in place; they are gathered a batch at a time.
pub(crate) struct SortedRows<'a> {
    buffers: &'a LeafBuffers,
    rows: Vec<Row>,
    at: usize,
    batch_rows: usize,
    ready: VecDeque<RecordBatch>,
}

impl SortedSource for SortedRows<'_> {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        let until = (self.at + self.batch_rows).min(self.rows.len());
        if self.at == until {
            return Ok(None);
        }
        let places: Vec<(usize, usize)> = self.rows[self.at..until]
            .iter()
            .map(|row| (row.batch as usize, row.row as usize))
            .collect();
        interleave(
            &self.buffers.table,
            &self.buffers.batches,
            &places,
            &mut self.ready,
        )?;
        self.at = until;
        Ok(self.ready.pop_front())
    }

    fn unsorted(&self) -> Error {
        Error::internal("sorted rows are not in order")
    }
}
