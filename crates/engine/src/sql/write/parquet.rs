//! Parquet, in one file or in a directory for each value of some columns.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, RecordBatch, new_null_array},
    compute::partition,
    datatypes::{DataType as ArrowType, Field, Schema, SchemaRef},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{
    common::Column,
    execution::SendableRecordBatchStream,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, SortExpr},
};
use dormouse_core::{
    Error, Result,
    ports::{PageCompression, QueryOutput, WrittenFile},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as Codec, ZstdLevel},
    file::properties::WriterProperties,
};

use super::{next, path, single, upload::Upload, written};
use crate::sql::{
    encode::{check_names, names, unwritable},
    failure::refused,
    pieces::{pieces, plain, plain_schema},
};

/// Rows of a row group, at most.
const GROUP_ROWS: usize = 1 << 20;
/// How much memory a row group takes before it is written, whatever its rows.
const GROUP_BYTES: usize = 64 << 20;
const ZSTD_LEVEL: i32 = 3;
/// How many directories a query may write.
const MAX_PARTITIONS: usize = 10_000;
/// How long the name of a directory may be: file systems take no more.
const MAX_NAME_BYTES: usize = 255;
/// What stands for a null in the name of a directory, as Hive has it.
const NULL_NAME: &str = "__HIVE_DEFAULT_PARTITION__";

/// A query whose rows come with those of each partition together; in each, in the order that the query asks for at its
/// end, if it does.
pub(in crate::sql) fn partitioned(plan: LogicalPlan, partition_by: &[String]) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    check_columns(schema.as_arrow(), partition_by)?;
    if partition_by.is_empty() {
        return Ok(plan);
    }
    let columns = partition_by.iter().filter_map(|name| {
        let (qualifier, field) = schema.iter().find(|(_, field)| field.name() == name)?;
        let column = Expr::Column(Column::from((qualifier, field)));
        Some(SortExpr::new(column, true, true))
    });
    let mut order: Vec<SortExpr> = columns.collect();
    let input = match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            order.extend(sort.expr);
            sort.input.as_ref().clone()
        }
        plan => plan,
    };
    LogicalPlanBuilder::from(input)
        .sort(order)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| refused(&error))
}

/// That rows can be partitioned so.
fn check_columns(schema: &Schema, partition_by: &[String]) -> Result<()> {
    check_names(schema)?;
    for (number, name) in partition_by.iter().enumerate() {
        let Ok(field) = schema.field_with_name(name) else {
            let known: Vec<&str> = names(schema).collect();
            return Err(Error::invalid(format!(
                "rows cannot be partitioned by \"{name}\": the query has the columns {}",
                known.join(", ")
            )));
        };
        if partition_by[..number].contains(name) {
            return Err(Error::invalid(format!(
                "rows cannot be partitioned by \"{name}\" twice"
            )));
        }
        if field.data_type().is_nested() {
            return Err(Error::invalid(format!(
                "rows cannot be partitioned by \"{name}\": its values have parts"
            )));
        }
    }
    if !partition_by.is_empty() && partition_by.len() == schema.fields().len() {
        return Err(Error::invalid(format!(
            "rows cannot be partitioned by all their columns: nothing is left for the files beside \"{}\"",
            partition_by.join("\", \"")
        )));
    }
    Ok(())
}

/// That Parquet has a form for a column, which shows when a value is written.
fn check_type(field: &Field) -> Result<()> {
    let schema = Arc::new(Schema::new(vec![Field::new(
        field.name(),
        field.data_type().clone(),
        true,
    )]));
    let null = new_null_array(field.data_type(), 1);
    let row = RecordBatch::try_new(schema.clone(), vec![null]).map_err(unwritable)?;
    let written = ArrowWriter::try_new(std::io::sink(), schema, None).and_then(|mut writer| {
        writer.write(&row)?;
        writer.close()
    });
    written.map(drop).map_err(|error| {
        Error::invalid(format!(
            "column \"{}\" of type {} cannot be written as Parquet: {error}",
            field.name(),
            field.data_type()
        ))
    })
}

/// Writes all rows, which come with those of a partition together.
pub(super) async fn write(
    mut rows: SendableRecordBatchStream,
    output: &QueryOutput,
    compression: PageCompression,
    partition_by: &[String],
) -> Result<Vec<WrittenFile>> {
    let schema = plain_schema(&rows.schema());
    check_columns(&schema, partition_by)?;
    let mut files = Files::new(output, &schema, compression, partition_by)?;
    while let Some(batch) = next(&mut rows).await? {
        for piece in pieces(batch).filter(|piece| piece.num_rows() > 0) {
            let piece = plain(&piece, &schema).map_err(unwritable)?;
            files.append(&piece).await?;
            output.progress.add_rows_written(piece.num_rows() as u64);
        }
    }
    files.finish().await
}

/// The files of a query, of which one is written at a time.
struct Files<'a> {
    output: &'a QueryOutput,
    /// Of the files.
    schema: SchemaRef,
    properties: WriterProperties,
    /// The columns that make directories, and those that are in the files.
    directories: Vec<(usize, &'a str)>,
    kept: Vec<usize>,
    open: Option<(String, OpenFile)>,
    /// How many files each directory has.
    files: HashMap<String, usize>,
    done: Vec<WrittenFile>,
}

impl<'a> Files<'a> {
    fn new(
        output: &'a QueryOutput,
        schema: &SchemaRef,
        compression: PageCompression,
        partition_by: &'a [String],
    ) -> Result<Self> {
        let directories: Vec<(usize, &str)> = partition_by
            .iter()
            .filter_map(|name| Some((schema.index_of(name).ok()?, name.as_str())))
            .collect();
        let kept: Vec<usize> = (0..schema.fields().len())
            .filter(|column| directories.iter().all(|(number, _)| number != column))
            .collect();
        let schema: SchemaRef = schema.project(&kept).map_err(unwritable)?.into();
        for field in schema.fields() {
            check_type(field)?;
        }
        let codec = match compression {
            PageCompression::None => Codec::UNCOMPRESSED,
            PageCompression::Snappy => Codec::SNAPPY,
            PageCompression::Zstd => {
                let level = ZstdLevel::try_new(ZSTD_LEVEL);
                Codec::ZSTD(
                    level
                        .map_err(|error| Error::internal("Zstandard has no such level").with_source(error))?,
                )
            }
        };
        Ok(Self {
            output,
            schema,
            properties: WriterProperties::builder()
                .set_compression(codec)
                .set_max_row_group_row_count(Some(GROUP_ROWS))
                .build(),
            directories,
            kept,
            open: None,
            files: HashMap::new(),
            done: Vec::new(),
        })
    }

    async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.directories.is_empty() {
            return self.append_to(String::new(), batch.clone()).await;
        }
        let columns = self
            .directories
            .iter()
            .map(|(number, _)| batch.column(*number).clone());
        let columns: Vec<_> = columns.collect();
        let parts = partition(&columns).map_err(unwritable)?;
        for range in parts.ranges() {
            let part = batch.slice(range.start, range.len());
            let directory = self.directory(&part)?;
            let part = part.project(&self.kept).map_err(unwritable)?;
            self.append_to(directory, part).await?;
        }
        Ok(())
    }

    /// Where rows of one partition go.
    fn directory(&self, rows: &RecordBatch) -> Result<String> {
        let mut directory = String::new();
        for (number, name) in &self.directories {
            let column = rows.column(*number);
            let value = if column.is_null(0) {
                NULL_NAME.to_owned()
            } else {
                escaped_value(&shown(column)?)
            };
            let part = format!("{}={value}", escaped(name));
            if part.len() > MAX_NAME_BYTES {
                return Err(Error::invalid(format!(
                    "rows cannot be partitioned by \"{name}\": a value is too long for the name of a directory"
                )));
            }
            directory.push('/');
            directory.push_str(&part);
        }
        Ok(directory)
    }

    async fn append_to(&mut self, directory: String, rows: RecordBatch) -> Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != directory) {
            self.close().await?;
            if self.done.len() == MAX_PARTITIONS {
                return Err(Error::invalid(format!(
                    "the rows make over {MAX_PARTITIONS} partitions, and may make no more"
                )));
            }
            let file = self.file(&directory)?;
            self.open = Some((directory, file));
        }
        match &mut self.open {
            Some((_, file)) => file.append(&rows).await,
            None => Ok(()),
        }
    }

    fn file(&mut self, directory: &str) -> Result<OpenFile> {
        let upload = if self.directories.is_empty() {
            single(self.output)?
        } else {
            // Values that are told alike need not be next to each other: there are two kinds of NaN.
            let number = self.files.entry(directory.to_owned()).or_default();
            let below = format!("{}{directory}/{number}.parquet", self.output.name);
            *number += 1;
            Upload::new(self.output, path(self.output, &below)?)
        };
        let writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(self.properties.clone()));
        Ok(OpenFile {
            writer: writer.map_err(unencoded)?,
            upload,
            rows: 0,
        })
    }

    async fn close(&mut self) -> Result<()> {
        if let Some((_, file)) = self.open.take() {
            self.done.push(file.finish().await?);
        }
        Ok(())
    }

    /// All files; an empty one where there are no rows.
    async fn finish(mut self) -> Result<Vec<WrittenFile>> {
        if self.open.is_none() && self.done.is_empty() {
            self.open = Some((String::new(), self.file("")?));
        }
        self.close().await?;
        Ok(self.done)
    }
}

/// A file that is being written.
struct OpenFile {
    writer: ArrowWriter<Vec<u8>>,
    upload: Upload,
    rows: u64,
}

impl OpenFile {
    async fn append(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(unencoded)?;
        self.rows += rows.num_rows() as u64;
        if self.writer.memory_size() > GROUP_BYTES {
            self.writer.flush().map_err(unencoded)?;
        }
        let bytes = std::mem::take(self.writer.inner_mut());
        self.upload.append(&bytes).await
    }

    async fn finish(mut self) -> Result<WrittenFile> {
        self.writer.finish().map_err(unencoded)?;
        let bytes = std::mem::take(self.writer.inner_mut());
        self.upload.append(&bytes).await?;
        Ok(written(self.rows, self.upload.finish().await?))
    }
}

fn unencoded(error: parquet::errors::ParquetError) -> Error {
    Error::invalid(format!("the rows cannot be written as Parquet: {error}"))
}

/// The first value of a column that has no null there, as text.
fn shown(column: &dyn Array) -> Result<String> {
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(column, &options).map_err(unwritable)?;
    let text = text.value(0).try_to_string().map_err(unwritable)?;
    // Readers take a space for what is between a day and a time of it.
    Ok(match column.data_type() {
        ArrowType::Timestamp(..) => text.replace('T', " "),
        _ => text,
    })
}

/// A name with what Hive escapes in names of directories escaped.
fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        let is_special = character.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(character);
        if is_special {
            escaped.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// A value as a name, unlike what stands for a null.
fn escaped_value(value: &str) -> String {
    match escaped(value) {
        same if same == NULL_NAME => same.replacen('_', "%5F", 1),
        other => other,
    }
}
