//! What sorted batches are on their way into a file: their count, digest and key range.

use arrow::array::RecordBatch;
use dormouse_core::{
    Result,
    file::{FilePart, RowDigest},
    key::{Key, KeyRange},
};

use crate::{
    dictionary::Dictionaries,
    digest::Digester,
    sort_key::{Keys, row_key},
    table::TableSchema,
};

/// Takes down rows, digest and key range of sorted batches on their way into a file.
#[derive(Debug)]
pub(crate) struct Meter {
    table: TableSchema,
    digester: Digester,
    rows: u64,
    digest: RowDigest,
    min: Option<Key>,
    last: Option<Keys>,
}

impl Meter {
    pub(crate) fn new(table: TableSchema) -> Self {
        Self {
            table,
            digester: Digester::default(),
            rows: 0,
            digest: RowDigest::default(),
            min: None,
            last: None,
        }
    }

    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.add_coded(batch, &Dictionaries::default())
    }

    /// Takes down a batch that has codes in the columns of `dictionaries`.
    pub(crate) fn add_coded(&mut self, batch: &RecordBatch, dictionaries: &Dictionaries) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        self.digester
            .hash_coded_rows(batch.columns(), dictionaries, rows)?;
        self.digest = self.digest + self.digester.sum(0..rows);
        self.rows += rows as u64;
        let keys = self.table.keys(batch.columns())?;
        if self.min.is_none() {
            self.min = Some(row_key(&self.table.core, &keys, 0)?);
        }
        self.last = Some(keys);
        Ok(())
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn digest(&self) -> RowDigest {
        self.digest
    }

    /// The smallest and the largest row key so far.
    pub(crate) fn range(&self) -> Result<Option<KeyRange>> {
        let (Some(min), Some(last)) = (&self.min, &self.last) else {
            return Ok(None);
        };
        Ok(Some(KeyRange {
            min: min.clone(),
            max: row_key(&self.table.core, last, last.rows() - 1)?,
        }))
    }

    /// The rows as a part of a file; none without rows.
    pub(crate) fn part(&self) -> Result<Option<FilePart>> {
        Ok(self.range()?.map(|range| FilePart {
            range,
            rows: self.rows,
            digest: self.digest,
        }))
    }
}
