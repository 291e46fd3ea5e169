//! Compares column chunks that are put together here with those of the Parquet writer.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::{Field, Schema, SchemaRef},
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData},
        properties::WriterProperties,
    },
};

/// The schema of a file with this column.
pub(crate) fn schema(array: &ArrayRef) -> SchemaRef {
    let field = Field::new("v", array.data_type().clone(), array.null_count() > 0);
    Arc::new(Schema::new(vec![field]))
}

/// A file with this column, as the Parquet writer has it.
pub(crate) fn by_arrow(array: &ArrayRef, properties: WriterProperties) -> Vec<u8> {
    let batch = RecordBatch::try_new(schema(array), vec![array.clone()]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(array), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// What is in a file with one column.
pub(crate) fn read(bytes: Vec<u8>) -> (ParquetMetaData, Vec<ArrayRef>) {
    let bytes = Bytes::from(bytes);
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(&bytes, options).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata.clone());
    let batches = reader.with_batch_size(1 << 20).build().unwrap();
    let arrays = batches.map(|batch| batch.unwrap().column(0).clone());
    (metadata.metadata().as_ref().clone(), arrays.collect())
}

/// What a file says of its one chunk, but where it is and how large.
fn said(file: &ParquetMetaData) -> String {
    let chunk = file.row_group(0).column(0);
    let pages = &file.offset_index().unwrap()[0][0];
    let rows: Vec<i64> = pages
        .page_locations()
        .iter()
        .map(|page| page.first_row_index)
        .collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {rows:?} {:?}",
        chunk.page_encoding_stats_mask(),
        chunk.statistics(),
        chunk.num_values(),
        chunk.encodings().collect::<Vec<_>>(),
        chunk.unencoded_byte_array_data_bytes(),
        chunk.definition_level_histogram(),
        pages.unencoded_byte_array_data_bytes(),
        file.column_index().unwrap()[0][0],
    )
}

/// Checks that a file has this column, and says of it what another does.
pub(crate) fn check_same(array: &ArrayRef, found: Vec<u8>, expected: Vec<u8>) {
    let (found, arrays) = read(found);
    assert_eq!(arrays, std::slice::from_ref(array));
    assert_eq!(said(&found), said(&read(expected).0));
}
