//! Writes sorted batches as a Parquet file.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use dormouse_core::{Error, Result};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    object_writer::{Destination, WrittenObject},
    options::FileLayout,
    parquet_file::{EncodedRowGroup, ParquetFile, RowGroupRows},
    table::TableSchema,
};

/// Row groups of at most so many bytes wait to be encoded or appended.
const ENCODING_BYTES: usize = 192 << 20;

/// A Parquet file of batches that come in order.
///
/// The first batch is a sample: columns of few distinct values get a dictionary. Rows are collected until they make
/// a row group, which is then encoded: at once, or beside the caller on other threads while the next rows come. The
/// same batches give the same bytes, on however many threads.
pub(crate) struct FileWriter {
    table: TableSchema,
    runtime: Handle,
    /// How many row groups may be encoded beside the caller.
    helpers: usize,
    layout: FileLayout,
    destination: Option<Destination>,
    file: Option<ParquetFile>,
    rows: RowGroupRows,
    encoding: VecDeque<Encoding>,
}

/// A row group that another thread encodes.
struct Encoding {
    bytes: usize,
    done: JoinHandle<Result<EncodedRowGroup>>,
}

impl FileWriter {
    /// `helpers` is how many threads beside the caller's may encode.
    pub(crate) fn new(
        table: TableSchema,
        destination: Destination,
        layout: FileLayout,
        helpers: usize,
    ) -> Self {
        Self {
            table,
            runtime: destination.runtime.clone(),
            helpers,
            layout,
            destination: Some(destination),
            file: None,
            rows: RowGroupRows::new(layout),
            encoding: VecDeque::new(),
        }
    }

    fn begun(&mut self, sample: Option<&RecordBatch>) -> Result<&mut ParquetFile> {
        if let Some(destination) = self.destination.take() {
            self.file = Some(ParquetFile::create(
                &self.table,
                destination,
                sample,
                self.layout,
            )?);
        }
        self.file
            .as_mut()
            .ok_or_else(|| Error::internal("a file writer failed to start before"))
    }

    /// Appends rows, which must not sort before the ones already there.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.begun(Some(batch))?;
        let mut rows = std::mem::replace(&mut self.rows, RowGroupRows::new(self.layout));
        rows.add(batch, |rows, bytes| self.encode(rows, bytes))?;
        self.rows = rows;
        Ok(())
    }

    fn encode(&mut self, rows: Vec<RecordBatch>, bytes: usize) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let encoder = self.begun(None)?.encoder();
        if self.helpers == 0 {
            let row_group = encoder.encode(&rows)?;
            return self.begun(None)?.append(row_group);
        }
        let done = self.runtime.spawn_blocking(move || encoder.encode(&rows));
        self.encoding.push_back(Encoding { bytes, done });
        while self.encoding.len() > self.helpers || self.bytes_encoding() > ENCODING_BYTES {
            self.append_next()?;
        }
        Ok(())
    }

    fn bytes_encoding(&self) -> usize {
        self.encoding.iter().map(|encoding| encoding.bytes).sum()
    }

    /// Waits for the row group that is due next and appends it.
    fn append_next(&mut self) -> Result<()> {
        let Some(next) = self.encoding.pop_front() else {
            return Ok(());
        };
        let row_group = self
            .runtime
            .block_on(next.done)
            .map_err(|error| Error::internal("encoding did not come to its end").with_source(error))??;
        self.begun(None)?.append(row_group)
    }

    /// Writes the footer and waits until the object is in its store.
    pub(crate) fn finish(mut self) -> Result<WrittenObject> {
        if let Err(error) = self.finish_rows() {
            self.abort();
            return Err(error);
        }
        match self.file {
            Some(file) => file.finish(),
            None => Err(Error::internal("a file writer failed to start before")),
        }
    }

    fn finish_rows(&mut self) -> Result<()> {
        let (rows, bytes) = self.rows.take();
        self.encode(rows, bytes)?;
        while !self.encoding.is_empty() {
            self.append_next()?;
        }
        self.begun(None).map(drop)
    }

    /// Gives up.
    pub(crate) fn abort(self) {
        if let Some(file) = self.file {
            file.abort();
        }
    }
}
