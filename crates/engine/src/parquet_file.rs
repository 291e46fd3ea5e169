//! A Parquet file of a table while it is written: row groups are encoded anywhere and appended in order.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{
    array::{Array, NullBufferBuilder, RecordBatch, UInt32Array, cast::AsArray},
    datatypes::{Field, SchemaRef},
};
use dormouse_core::{Error, Result};
use parquet::{
    arrow::{
        ArrowSchemaConverter, ArrowWriter,
        arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{
        properties::{WriterProperties, WriterPropertiesPtr},
        reader::ChunkReader,
        writer::SerializedFileWriter,
    },
    schema::types::{SchemaDescPtr, SchemaDescriptor},
};

use crate::{
    column_chunk::{ColumnChunk, PageCompressor},
    columns::{batch_bytes, plain_bytes},
    delta_chunk::DeltaChunk,
    dictionary::{Dictionaries, Dictionary, is_codable},
    dictionary_chunk,
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
    /// Of the columns that [`DeltaChunk`] does not write.
    factory: Arc<ArrowRowGroupWriterFactory>,
    compressors: Arc<Mutex<Vec<PageCompressor>>>,
    schema: SchemaRef,
    leaves: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    row_group_rows: usize,
}

/// A row group that is encoded and not yet in its file.
pub(crate) struct EncodedRowGroup(Vec<EncodedChunk>);

enum EncodedChunk {
    Arrow(ArrowColumnChunk),
    Own(ColumnChunk),
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
        let (file, _) = ArrowWriter::try_new(object, table.arrow.clone(), Some(properties.clone()))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(cannot_encode)?;
        let leaves = Arc::new(file.schema_descr().clone());
        let others = |position: &usize| {
            let delta = delta_chunk(&leaves, table.arrow.field(*position), file.properties());
            delta.is_none()
        };
        let others: Vec<usize> = (0..table.arrow.fields().len()).filter(others).collect();
        let (_, factory) = table
            .arrow
            .project(&others)
            .map_err(ParquetError::from)
            .and_then(|others| ArrowWriter::try_new(io::sink(), Arc::new(others), Some(properties)))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(cannot_encode)?;
        let encoder = Encoder {
            factory: Arc::new(factory),
            compressors: Arc::default(),
            schema: table.arrow.clone(),
            leaves,
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
                    EncodedChunk::Own(chunk) => {
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
        // The number of a row group matters to encrypted files only.
        let writers = self.factory.create_column_writers(0).map_err(cannot_encode)?;
        let mut writers = writers.into_iter();
        let columns = self.schema.fields().iter().enumerate();
        let columns = columns.map(|(position, field)| {
            if let Some(chunk) = delta_chunk(&self.leaves, field, &self.properties) {
                return Ok(ColumnEncoder::Delta(Box::new(chunk)));
            }
            let leaves = (0..self.leaves.num_columns())
                .filter(|leaf| self.leaves.get_column_root_idx(*leaf) == position)
                .count();
            let writers: Vec<ArrowColumnWriter> = writers.by_ref().take(leaves).collect();
            match self.leaf(position) {
                Some(leaf) if coded.contains(&position) => {
                    Ok(ColumnEncoder::Coded(CodedRows::new(leaf), writers))
                }
                _ if coded.contains(&position) => {
                    Err(Error::internal("a column with codes is not in its file"))
                }
                _ => Ok(ColumnEncoder::Arrow(writers)),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let compressor = self.lock_compressors().pop();
        Ok(OpenRowGroup {
            columns,
            compressor: compressor.unwrap_or_default(),
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
        writers: Vec<ArrowColumnWriter>,
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
            return Ok(EncodedChunk::Own(chunk));
        }
        let values = dictionary.decode(&codes)?;
        let mut writer = writers
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("a row group has too few columns"))?;
        for leaf in compute_leaves(self.schema.field(column), &values).map_err(cannot_encode)? {
            writer.write(&leaf).map_err(cannot_encode)?;
        }
        writer.close().map(EncodedChunk::Arrow).map_err(cannot_encode)
    }

    fn lock_compressors(&self) -> MutexGuard<'_, Vec<PageCompressor>> {
        self.compressors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaf(&self, column: usize) -> Option<usize> {
        flat_leaf(&self.leaves, self.schema.field(column).name())
    }
}

/// A chunk of values told by their neighbours; none of columns that are written in another way.
fn delta_chunk(
    leaves: &SchemaDescriptor,
    field: &Field,
    properties: &WriterProperties,
) -> Option<DeltaChunk> {
    let leaf = flat_leaf(leaves, field.name())?;
    DeltaChunk::new(leaf, leaves.column(leaf), field.data_type(), properties)
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
    columns: Vec<ColumnEncoder>,
    compressor: PageCompressor,
    rows: usize,
    bytes: usize,
}

/// What encodes a column of a table.
enum ColumnEncoder {
    /// By the Parquet writer, each of its leaves.
    Arrow(Vec<ArrowColumnWriter>),
    /// From codes, or by the Parquet writer where they do not suit a dictionary.
    Coded(CodedRows, Vec<ArrowColumnWriter>),
    Delta(Box<DeltaChunk>),
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
        let fields = self.encoder.schema.fields().iter();
        for ((field, array), column) in fields.zip(batch.columns()).zip(&mut self.columns) {
            match column {
                ColumnEncoder::Coded(rows, _) => rows.add(array.as_primitive()),
                ColumnEncoder::Delta(chunk) => chunk.write(array, &mut self.compressor)?,
                ColumnEncoder::Arrow(writers) => {
                    let leaves = compute_leaves(field, array).map_err(cannot_encode)?;
                    for (leaf, writer) in leaves.iter().zip(writers) {
                        writer.write(leaf).map_err(cannot_encode)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The row group, encoded. Codes are those of `dictionaries`.
    pub(crate) fn finish(self, dictionaries: &Dictionaries) -> Result<EncodedRowGroup> {
        let Self {
            encoder,
            columns,
            mut compressor,
            ..
        } = self;
        let mut chunks = Vec::with_capacity(columns.len());
        for (position, column) in columns.into_iter().enumerate() {
            match column {
                ColumnEncoder::Arrow(writers) => {
                    for writer in writers {
                        chunks.push(EncodedChunk::Arrow(writer.close().map_err(cannot_encode)?));
                    }
                }
                ColumnEncoder::Delta(chunk) => chunks.push(EncodedChunk::Own(chunk.finish(&mut compressor)?)),
                ColumnEncoder::Coded(rows, writers) => {
                    let dictionary = dictionaries
                        .get(position)
                        .ok_or_else(|| Error::internal("codes have no dictionary"))?;
                    chunks.push(encoder.finish_coded(
                        position,
                        rows,
                        dictionary,
                        writers,
                        &mut compressor,
                    )?);
                }
            }
        }
        encoder.lock_compressors().push(compressor);
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
