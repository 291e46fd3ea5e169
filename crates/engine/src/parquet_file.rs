//! A Parquet file of a table while it is written: row groups are encoded anywhere and appended in order.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use dormouse_core::{Error, Result};
use parquet::{
    arrow::{
        ArrowSchemaConverter, ArrowWriter,
        arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{reader::ChunkReader, writer::SerializedFileWriter},
    schema::types::SchemaDescriptor,
};

use crate::{
    columns::batch_bytes,
    encodings::properties,
    object_writer::{Destination, ObjectWriter, WrittenObject},
    options::FileLayout,
    table::TableSchema,
};

/// A row group of rows larger than this in memory ends early, so that readers and writers can hold it.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// A file that is being written.
pub(crate) struct ParquetFile {
    file: SerializedFileWriter<ObjectWriter>,
    encoder: Encoder,
}

/// Encodes row groups of one file, on any thread.
#[derive(Clone)]
pub(crate) struct Encoder {
    factory: Arc<ArrowRowGroupWriterFactory>,
    schema: SchemaRef,
    row_group_rows: usize,
}

/// A row group that is encoded and not yet in its file.
pub(crate) struct EncodedRowGroup(Vec<ArrowColumnChunk>);

impl ParquetFile {
    /// Begins a file, with the encodings that suit `sample`.
    pub(crate) fn create(
        table: &TableSchema,
        destination: Destination,
        sample: Option<&RecordBatch>,
        layout: FileLayout,
    ) -> Result<Self> {
        let properties = properties(table, sample, layout)?;
        let object = ObjectWriter::new(destination);
        let (file, factory) = ArrowWriter::try_new(object, table.arrow.clone(), Some(properties))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(cannot_encode)?;
        let encoder = Encoder {
            factory: Arc::new(factory),
            schema: table.arrow.clone(),
            row_group_rows: layout.row_group_rows.max(1),
        };
        Ok(Self { file, encoder })
    }

    /// What encodes row groups for this file.
    pub(crate) fn encoder(&self) -> Encoder {
        self.encoder.clone()
    }

    /// Appends a row group that this file's encoder has made.
    pub(crate) fn append(&mut self, row_group: EncodedRowGroup) -> Result<()> {
        let appended = self.file.next_row_group().and_then(|mut open| {
            for chunk in row_group.0 {
                chunk.append_to_row_group(&mut open)?;
            }
            open.close().map(drop)
        });
        appended.map_err(|error| self.failure(error))
    }

    /// Appends a row group as another file of the same columns has it, chunk by chunk.
    pub(crate) fn append_encoded<R: ChunkReader>(
        &mut self,
        bytes: &R,
        chunks: Vec<ColumnCloseResult>,
    ) -> Result<()> {
        let appended = self.file.next_row_group().and_then(|mut open| {
            for chunk in chunks {
                open.append_column(bytes, chunk)?;
            }
            open.close().map(drop)
        });
        appended.map_err(|error| self.failure(error))
    }

    /// Writes the footer and waits until the object is in its store.
    pub(crate) fn finish(mut self) -> Result<WrittenObject> {
        let finished = match self.file.finish() {
            Ok(_) => self.file.inner_mut().finish(),
            Err(error) => Err(self.failure(error)),
        };
        finished.inspect_err(|_| self.file.inner_mut().abort())
    }

    /// Gives up.
    pub(crate) fn abort(mut self) {
        self.file.inner_mut().abort();
    }

    fn failure(&mut self, error: ParquetError) -> Error {
        let store = self.file.inner_mut().take_failure();
        store.unwrap_or_else(|| cannot_encode(error))
    }
}

/// The columns of every file of a table.
pub(crate) fn parquet_columns(table: &TableSchema) -> Result<SchemaDescriptor> {
    ArrowSchemaConverter::new()
        .convert(&table.arrow)
        .map_err(cannot_encode)
}

impl Encoder {
    /// Encodes rows as one row group.
    pub(crate) fn encode(&self, rows: &[RecordBatch]) -> Result<EncodedRowGroup> {
        let mut row_group = self.begin()?;
        for batch in rows {
            row_group.encode(batch)?;
        }
        row_group.finish()
    }

    /// Begins a row group.
    pub(crate) fn begin(&self) -> Result<OpenRowGroup> {
        Ok(OpenRowGroup {
            // The number of a row group matters to encrypted files only.
            writers: self.factory.create_column_writers(0).map_err(cannot_encode)?,
            schema: self.schema.clone(),
            most: self.row_group_rows,
            rows: 0,
            bytes: 0,
        })
    }
}

/// A row group that rows are encoded into as they come.
pub(crate) struct OpenRowGroup {
    writers: Vec<ArrowColumnWriter>,
    schema: SchemaRef,
    most: usize,
    rows: usize,
    bytes: usize,
}

impl OpenRowGroup {
    /// Encodes as many rows of the batch as there is room for; answers how many.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<usize> {
        let count = batch.num_rows().min(self.most - self.rows);
        let batch = batch.slice(0, count);
        self.encode(&batch)?;
        self.rows += count;
        self.bytes += batch_bytes(&batch);
        Ok(count)
    }

    /// Whether it should have no more rows.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.most || self.bytes >= ROW_GROUP_BYTES
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut leaves = self.writers.iter_mut();
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, column).map_err(cannot_encode)? {
                let writer = leaves
                    .next()
                    .ok_or_else(|| Error::internal("a row group has too few columns"))?;
                writer.write(&leaf).map_err(cannot_encode)?;
            }
        }
        Ok(())
    }

    /// The row group, encoded.
    pub(crate) fn finish(self) -> Result<EncodedRowGroup> {
        let writers = self.writers.into_iter();
        writers
            .map(|writer| writer.close().map_err(cannot_encode))
            .collect::<Result<_>>()
            .map(EncodedRowGroup)
    }
}

pub(crate) fn cannot_encode(error: ParquetError) -> Error {
    Error::internal("cannot write a Parquet file").with_source(error)
}

/// Batches that are collected until they make a row group.
pub(crate) struct RowGroupRows {
    most: usize,
    rows: Vec<RecordBatch>,
    count: usize,
    bytes: usize,
}

impl RowGroupRows {
    pub(crate) fn new(layout: FileLayout) -> Self {
        Self {
            most: layout.row_group_rows.max(1),
            rows: Vec::new(),
            count: 0,
            bytes: 0,
        }
    }

    /// Adds rows, and hands over the batches of each row group that becomes full, with their size in memory.
    pub(crate) fn add(
        &mut self,
        batch: &RecordBatch,
        mut full: impl FnMut(Vec<RecordBatch>, usize) -> Result<()>,
    ) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let count = (batch.num_rows() - from).min(self.most - self.count);
            let part = batch.slice(from, count);
            self.count += count;
            self.bytes += batch_bytes(&part);
            self.rows.push(part);
            from += count;
            if self.count == self.most || self.bytes >= ROW_GROUP_BYTES {
                let (rows, bytes) = self.take();
                full(rows, bytes)?;
            }
        }
        Ok(())
    }

    /// What is left, which may be nothing.
    pub(crate) fn take(&mut self) -> (Vec<RecordBatch>, usize) {
        self.count = 0;
        (std::mem::take(&mut self.rows), std::mem::take(&mut self.bytes))
    }
}
