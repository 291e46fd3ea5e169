//! A Parquet file of a table while it is written: row groups are encoded anywhere and appended in order.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, NullBufferBuilder, RecordBatch, UInt32Array, cast::AsArray},
    datatypes::SchemaRef,
};
use dormouse_core::{Error, Result};
use parquet::{
    arrow::{
        ArrowSchemaConverter, ArrowWriter,
        arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{properties::WriterPropertiesPtr, reader::ChunkReader, writer::SerializedFileWriter},
    schema::types::{SchemaDescPtr, SchemaDescriptor},
};

use crate::{
    columns::{batch_bytes, plain_bytes},
    dictionary::{Dictionaries, Dictionary, is_codable},
    dictionary_chunk::{self, DictionaryChunk, PageCompressor},
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
    leaves: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    row_group_rows: usize,
}

/// A row group that is encoded and not yet in its file.
pub(crate) struct EncodedRowGroup(Vec<EncodedChunk>);

enum EncodedChunk {
    Arrow(ArrowColumnChunk),
    Dictionary(DictionaryChunk),
}

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
            leaves: Arc::new(file.schema_descr().clone()),
            properties: file.properties().clone(),
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
                match chunk {
                    EncodedChunk::Arrow(chunk) => chunk.append_to_row_group(&mut open)?,
                    EncodedChunk::Dictionary(chunk) => {
                        open.append_column(&chunk.bytes, chunk.description)?;
                    }
                }
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
        let mut row_group = self.begin(&[])?;
        for batch in rows {
            row_group.encode(batch)?;
        }
        row_group.finish(&Dictionaries::default())
    }

    /// Begins a row group. Rows have codes in the `coded` columns, which are some of [`Encoder::codable`].
    pub(crate) fn begin(&self, coded: &[usize]) -> Result<OpenRowGroup> {
        let rows = |column: &usize| {
            let leaf = self.leaf(*column);
            let leaf = leaf.ok_or_else(|| Error::internal("a column with codes is not in its file"))?;
            Ok((*column, CodedRows::new(leaf)))
        };
        Ok(OpenRowGroup {
            // The number of a row group matters to encrypted files only.
            writers: self.factory.create_column_writers(0).map_err(cannot_encode)?,
            coded: coded.iter().map(rows).collect::<Result<_>>()?,
            encoder: self.clone(),
            rows: 0,
            bytes: 0,
        })
    }

    /// The columns from a column on whose rows may come as codes.
    pub(crate) fn codable(&self, from: usize) -> Vec<usize> {
        let may_be = |column: &usize| {
            let leaf = self.leaf(*column).map(|leaf| self.leaves.column(leaf));
            is_codable(self.schema.field(*column).data_type())
                && leaf.is_some_and(|leaf| dictionary_chunk::is_writable(&leaf, &self.properties))
        };
        (from..self.schema.fields().len()).filter(may_be).collect()
    }

    fn finish_coded(
        &self,
        column: usize,
        rows: CodedRows,
        dictionary: &Dictionary,
        mut writer: ArrowColumnWriter,
        compressor: &mut PageCompressor,
    ) -> Result<EncodedChunk> {
        let CodedRows {
            leaf,
            codes,
            mut nulls,
        } = rows;
        let codes = UInt32Array::new(codes.into(), nulls.finish());
        let leaf = self.leaves.column(leaf);
        let chunk = dictionary_chunk::encode(&leaf, &self.properties, dictionary, &codes, compressor)?;
        if let Some(chunk) = chunk {
            return Ok(EncodedChunk::Dictionary(chunk));
        }
        let values = dictionary.decode(&codes)?;
        for leaf in compute_leaves(self.schema.field(column), &values).map_err(cannot_encode)? {
            writer.write(&leaf).map_err(cannot_encode)?;
        }
        writer.close().map(EncodedChunk::Arrow).map_err(cannot_encode)
    }

    fn leaf(&self, column: usize) -> Option<usize> {
        flat_leaf(&self.leaves, self.schema.field(column).name())
    }
}

/// Where a column that is not nested is among those of Parquet.
pub(crate) fn flat_leaf(leaves: &SchemaDescriptor, name: &str) -> Option<usize> {
    let mut leaves = leaves.columns().iter();
    leaves.position(|leaf| matches!(leaf.path().parts(), [part] if part == name))
}

/// The codes of a column of a row group.
struct CodedRows {
    leaf: usize,
    codes: Vec<u32>,
    nulls: NullBufferBuilder,
}

impl CodedRows {
    fn new(leaf: usize) -> Self {
        Self {
            leaf,
            codes: Vec::new(),
            nulls: NullBufferBuilder::new(0),
        }
    }

    fn add(&mut self, codes: &UInt32Array) {
        self.codes.extend_from_slice(codes.values());
        match codes.nulls() {
            Some(nulls) => self.nulls.append_buffer(nulls),
            None => self.nulls.append_n_non_nulls(codes.len()),
        }
    }
}

/// A row group that rows are encoded into as they come.
pub(crate) struct OpenRowGroup {
    encoder: Encoder,
    writers: Vec<ArrowColumnWriter>,
    /// By column.
    coded: BTreeMap<usize, CodedRows>,
    rows: usize,
    bytes: usize,
}

impl OpenRowGroup {
    /// Encodes as many rows of the batch as there is room for; answers how many. Codes are those of `dictionaries`.
    pub(crate) fn write(&mut self, batch: &RecordBatch, dictionaries: &Dictionaries) -> Result<usize> {
        let count = batch.num_rows().min(self.encoder.row_group_rows - self.rows);
        let batch = batch.slice(0, count);
        self.encode(&batch)?;
        self.rows += count;
        let columns = batch.columns().iter().enumerate();
        self.bytes += columns
            .map(|(position, column)| match dictionaries.get(position) {
                Some(dictionary) => dictionary.plain_bytes(column.as_primitive()),
                None => plain_bytes(column),
            })
            .sum::<usize>();
        Ok(count)
    }

    /// Whether it should have no more rows.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.encoder.row_group_rows || self.bytes >= ROW_GROUP_BYTES
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut leaves = self.writers.iter_mut();
        let fields = self.encoder.schema.fields().iter();
        for (position, (field, column)) in fields.zip(batch.columns()).enumerate() {
            if let Some(coded) = self.coded.get_mut(&position) {
                coded.add(column.as_primitive());
                leaves.next();
                continue;
            }
            for leaf in compute_leaves(field, column).map_err(cannot_encode)? {
                let writer = leaves
                    .next()
                    .ok_or_else(|| Error::internal("a row group has too few columns"))?;
                writer.write(&leaf).map_err(cannot_encode)?;
            }
        }
        Ok(())
    }

    /// The row group, encoded. Codes are those of `dictionaries`.
    pub(crate) fn finish(self, dictionaries: &Dictionaries) -> Result<EncodedRowGroup> {
        let Self {
            encoder,
            writers,
            coded,
            ..
        } = self;
        let mut coded = coded.into_iter().peekable();
        let mut compressor = PageCompressor::default();
        let mut chunks = Vec::with_capacity(writers.len());
        for (leaf, writer) in writers.into_iter().enumerate() {
            chunks.push(match coded.next_if(|(_, rows)| rows.leaf == leaf) {
                None => EncodedChunk::Arrow(writer.close().map_err(cannot_encode)?),
                Some((column, rows)) => {
                    let dictionary = dictionaries
                        .get(column)
                        .ok_or_else(|| Error::internal("codes have no dictionary"))?;
                    encoder.finish_coded(column, rows, dictionary, writer, &mut compressor)?
                }
            });
        }
        Ok(EncodedRowGroup(chunks))
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
