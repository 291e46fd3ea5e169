//! Rows of simulated tables as Parquet.

use std::{num::NonZeroUsize, sync::Arc};

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use dormouse_core::{
    Error, Result,
    ports::{Ids, RowEngine},
    schema::{Column, DataType, Schema},
    testing::rows::{Row, Rows},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

use crate::{EngineOptions, FileLayout, ParquetRowEngine, arrow_schema::arrow_schema};

/// Files of few rows have several row groups, and are merged in several pieces.
const LAYOUT: FileLayout = FileLayout {
    row_group_rows: 8,
    page_rows: 4,
    piece_bytes: 600,
    copied_rows: 4,
};

/// How many bytes of rows an engine holds: few, so that jobs of some hundred rows spill.
const MEMORY_BYTES: u64 = 1 << 20;

/// Rows as Parquet, kept by [`ParquetRowEngine`].
#[derive(Debug)]
pub struct ParquetRows {
    spill: tempfile::TempDir,
}

impl ParquetRows {
    /// Rows whose engines spill into a directory of their own.
    ///
    /// # Errors
    /// `Internal` when there is no place for it.
    pub fn new() -> Result<Self> {
        let spill = tempfile::tempdir()
            .map_err(|error| Error::internal("no temporary directory").with_source(error))?;
        Ok(Self { spill })
    }

    fn batch(&self, rows: &[Row]) -> Result<RecordBatch> {
        let keys = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
        let texts = StringArray::from_iter_values(rows.iter().map(|row| &row.1));
        RecordBatch::try_new(
            arrow_schema(&*self.schema()?),
            vec![Arc::new(keys), Arc::new(texts)],
        )
        .map_err(|error| Error::internal("rows that do not fit their schema").with_source(error))
    }

    fn written(&self, rows: &[Row]) -> Result<Vec<u8>> {
        let failed = |error| Error::internal("rows cannot be written").with_source(error);
        let batch = self.batch(rows)?;
        let mut body = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut body, batch.schema(), None).map_err(failed)?;
        writer.write(&batch).map_err(failed)?;
        writer.close().map_err(failed)?;
        Ok(body)
    }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("an object is not a file of rows").with_source(error)
}

impl Rows for ParquetRows {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn schema(&self) -> Result<Arc<Schema>> {
        let key = vec![Column::required("key", DataType::Int64)];
        let payload = vec![Column::required("payload", DataType::Utf8)];
        Schema::new(key, Vec::new(), payload).map(Arc::new)
    }

    fn encode(&self, rows: &[Row]) -> Bytes {
        self.written(rows).unwrap_or_default().into()
    }

    fn decode(&self, object: Bytes) -> Result<Vec<Row>> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(object)
            .and_then(ParquetRecordBatchReaderBuilder::build)
            .map_err(unreadable)?;
        let mut rows = Vec::new();
        for batch in reader {
            let batch = batch.map_err(unreadable)?;
            let of_kind = || Error::corrupt("a file of rows has other columns");
            let keys: &Int64Array = batch.column(0).as_any().downcast_ref().ok_or_else(of_kind)?;
            let texts: &StringArray = batch.column(1).as_any().downcast_ref().ok_or_else(of_kind)?;
            for at in 0..batch.num_rows() {
                rows.push((keys.value(at), texts.value(at).to_owned()));
            }
        }
        Ok(rows)
    }

    fn engine(&self, ids: Arc<dyn Ids>) -> Arc<dyn RowEngine> {
        let options = EngineOptions {
            memory_bytes: MEMORY_BYTES,
            threads: NonZeroUsize::MIN,
            spill_directory: self.spill.path().to_owned(),
            layout: LAYOUT,
        };
        Arc::new(ParquetRowEngine::new(options, ids))
    }
}
