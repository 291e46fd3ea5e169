//! CSV and JSON Lines.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use dormouse_core::{
    Result,
    ports::{Compression, CsvFormat, QueryOutput, WrittenFile},
};

use super::{compress::Compressed, next, single, written};
use crate::sql::{
    csv::CsvWriter,
    encode::{check_names, names, unwritable, write_json},
    pieces::{pieces, plain, plain_schema},
};

/// What a line is.
pub(super) enum Lines {
    Csv(Box<CsvWriter>),
    Json,
}

impl Lines {
    pub(super) fn csv(format: CsvFormat) -> Result<Self> {
        Ok(Self::Csv(Box::new(CsvWriter::new(format)?)))
    }

    /// What stands before the first row.
    fn begin(&self, schema: &SchemaRef) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Csv(csv) => csv.header(names(schema), &mut bytes),
            Self::Json => check_names(schema)?,
        }
        Ok(bytes)
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match self {
            Self::Csv(csv) => {
                let mut bytes = Vec::new();
                csv.rows(batch, &mut bytes)?;
                Ok(bytes)
            }
            Self::Json => write_json(batch),
        }
    }
}

/// Writes a line a row.
pub(super) async fn write(
    mut rows: SendableRecordBatchStream,
    output: &QueryOutput,
    lines: Lines,
    compression: Compression,
) -> Result<WrittenFile> {
    let schema = plain_schema(&rows.schema());
    let begin = lines.begin(&schema)?;
    let mut object = Compressed::new(single(output)?, compression)?;
    object.append(&begin).await?;
    let mut count = 0;
    while let Some(batch) = next(&mut rows).await? {
        for piece in pieces(batch) {
            let bytes = lines.encode(&plain(&piece, &schema).map_err(unwritable)?)?;
            object.append(&bytes).await?;
            count += piece.num_rows() as u64;
            output.progress.add_rows_written(piece.num_rows() as u64);
        }
    }
    Ok(written(count, object.finish().await?))
}
