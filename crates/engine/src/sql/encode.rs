//! Rows as they are answered.

use arrow::{
    array::{Array, RecordBatch},
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
    json::{LineDelimitedWriter, WriterBuilder},
    util::display::{ArrayFormatter, FormatOptions},
};
use dormouse_core::{
    Error, Result,
    ports::{CsvFormat, RowFormat},
};

use super::{
    csv::CsvWriter,
    pieces::{plain, plain_schema},
};

/// Writes batches in a format.
pub(super) struct RowEncoder {
    /// The columns as they are written.
    schema: SchemaRef,
    writer: Writer,
}

enum Writer {
    Json,
    Text,
    Csv { csv: Box<CsvWriter>, header: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl RowEncoder {
    pub(super) fn new(format: RowFormat, schema: &SchemaRef) -> Result<Self> {
        let schema = plain_schema(schema);
        let writer = match format {
            RowFormat::JsonLines => {
                check_names(&schema)?;
                Writer::Json
            }
            RowFormat::TextLines => Writer::Text,
            RowFormat::Csv => Writer::Csv {
                csv: Box::new(CsvWriter::new(CsvFormat::default())?),
                header: true,
            },
            RowFormat::ArrowStream => Writer::Arrow(Box::new(
                StreamWriter::try_new(Vec::new(), &schema).map_err(unwritable)?,
            )),
        };
        Ok(Self { schema, writer })
    }

    /// The rows, with what stands before the first: all, or the first of them that take no more than `most` bytes.
    /// Answers how many there are.
    pub(super) fn encode(&mut self, batch: &RecordBatch, most: u64) -> Result<(usize, Vec<u8>)> {
        let batch = plain(batch, &self.schema).map_err(unwritable)?;
        let bytes = match &mut self.writer {
            Writer::Arrow(writer) => {
                // Rows cannot be taken back from a stream, so it has no limit.
                writer.write(&batch).map_err(unwritable)?;
                return Ok((batch.num_rows(), std::mem::take(writer.get_mut())));
            }
            Writer::Json | Writer::Text | Writer::Csv { .. } => self.lines(&batch)?,
        };
        let (mut fits, mut fitting) = (batch.num_rows(), bytes);
        if fitting.len() as u64 > most {
            let mut beyond = fits;
            (fits, fitting) = (0, Vec::new());
            while fits + 1 < beyond {
                let middle = usize::midpoint(fits, beyond);
                let bytes = self.lines(&batch.slice(0, middle))?;
                if bytes.len() as u64 <= most {
                    (fits, fitting) = (middle, bytes);
                } else {
                    beyond = middle;
                }
            }
        }
        if let Writer::Csv { header, .. } = &mut self.writer {
            *header &= fits == 0;
        }
        Ok((fits, fitting))
    }

    /// Rows in a format that has a line for each.
    fn lines(&self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match &self.writer {
            Writer::Json => write_json(batch),
            Writer::Text => write_text(batch),
            Writer::Csv { csv, header } => {
                let mut bytes = Vec::new();
                if *header {
                    csv.header(names(&self.schema), &mut bytes);
                }
                csv.rows(batch, &mut bytes)?;
                Ok(bytes)
            }
            Writer::Arrow(_) => Err(Error::internal("an Arrow stream has no lines")),
        }
    }

    /// What stands after the last row; without rows also what stands before the first.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>> {
        match &mut self.writer {
            Writer::Json | Writer::Text | Writer::Csv { header: false, .. } => Ok(Vec::new()),
            Writer::Csv { header: true, csv } => {
                let mut bytes = Vec::new();
                csv.header(names(&self.schema), &mut bytes);
                Ok(bytes)
            }
            Writer::Arrow(writer) => {
                writer.finish().map_err(unwritable)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }
}

/// The names of columns, in their order.
pub(super) fn names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.fields().iter().map(|field| field.name().as_str())
}

/// That no two columns have one name, where readers find values by it.
pub(super) fn check_names(schema: &Schema) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for name in names(schema) {
        if !seen.insert(name) {
            return Err(Error::invalid(format!(
                "two columns are named \"{name}\"; give one of them another name with AS"
            )));
        }
    }
    Ok(())
}

pub(super) fn unwritable(error: ArrowError) -> Error {
    Error::invalid(format!("a row cannot be written: {error}"))
}

/// An object a row, each on a line of its own.
pub(super) fn write_json(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer: LineDelimitedWriter<_> = builder.build(&mut bytes);
    writer.write(batch).map_err(unwritable)?;
    writer.finish().map_err(unwritable)?;
    drop(writer);
    Ok(bytes)
}

fn write_text(batch: &RecordBatch) -> Result<Vec<u8>> {
    let options = FormatOptions::default();
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).map(|text| (column, text)))
        .collect::<Result<_, _>>()
        .map_err(unwritable)?;
    let mut bytes = Vec::new();
    for row in 0..batch.num_rows() {
        let values: Vec<Option<String>> = columns
            .iter()
            .map(|(column, text)| column.is_valid(row).then(|| text.value(row).to_string()))
            .collect();
        serde_json::to_writer(&mut bytes, &values)
            .map_err(|error| Error::internal("a row cannot be written").with_source(error))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
