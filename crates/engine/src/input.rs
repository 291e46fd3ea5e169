//! Opens Parquet objects as rows of a table: schema and footer are checked before a row is read, and every batch
//! comes out with the table's columns in the table's order.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::{Fields, Schema as ArrowSchema},
};
use dormouse_core::{Error, Result, schema::Schema};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowSelection, RowSelector,
        },
        parquet_to_arrow_field_levels,
    },
    errors::ParquetError,
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};

use crate::{
    arrow_schema::{core_type, describe, same_type, schema_from_arrow, view_type},
    cancel::contain,
    columns::{Misfit, conform},
    delta_reader::DeltaReader,
    dictionary::read_type,
    footer::read_footer,
    object_reader::{Origin, RemoteObject, RowGroupBytes},
    pages::CheckedRowGroup,
    parquet_file::flat_leaf,
    table::TableSchema,
};

/// A batch holds about so many bytes, by what the footer says of the row group.
const BATCH_BYTES: u64 = 4 << 20;
/// And at most so many rows: of an input, where each batch is cut at all leaves.
const INPUT_BATCH_ROWS: u64 = 16 << 10;
/// Of a file of the table, where the batches of all files that are merged had better fit in a cache.
const TABLE_BATCH_ROWS: u64 = 4 << 10;

/// A Parquet object whose columns are those of the table.
#[derive(Debug)]
pub(crate) struct Input {
    object: Arc<RemoteObject>,
    metadata: ArrowReaderMetadata,
    /// The file's columns, in the types in which they are read.
    fields: Fields,
    /// For each table column that is read its position in the file.
    columns: Vec<usize>,
    /// The number of the first row of each row group.
    first_rows: Vec<u64>,
}

impl Input {
    /// Opens `object` and checks its schema.
    ///
    /// Inputs are read with text as views; files of a table as they were written, with their page index.
    ///
    /// # Errors
    /// `Invalid` or `Corrupt`, by the object's origin, when it is not a Parquet file of the table's columns.
    pub(crate) fn open(object: RemoteObject, table: &TableSchema) -> Result<Self> {
        let object = Arc::new(object);
        contain(
            |panic| object.damaged(format!("the decoder gave up: {panic}")),
            || Self::open_unguarded(object.clone(), table),
        )
    }

    fn open_unguarded(object: Arc<RemoteObject>, table: &TableSchema) -> Result<Self> {
        let footer = read_footer(&object, object.origin == Origin::Table)?;
        let damaged = |error: ParquetError| object.damaged(error);
        let written =
            ArrowReaderMetadata::try_new(footer.clone(), ArrowReaderOptions::new()).map_err(damaged)?;
        let columns = map_columns(written.schema(), &table.core).map_err(|reason| match object.origin {
            Origin::Input => Error::invalid(format!("input \"{}\" {reason}", object.name)),
            Origin::Table => object.damaged(reason),
        })?;
        let metadata = match object.origin {
            Origin::Table => written,
            Origin::Input => {
                let fields: Vec<_> = written
                    .schema()
                    .fields()
                    .iter()
                    .map(|field| {
                        field
                            .as_ref()
                            .clone()
                            .with_data_type(view_type(field.data_type()))
                    })
                    .collect();
                let options = ArrowReaderOptions::new().with_schema(Arc::new(ArrowSchema::new(fields)));
                ArrowReaderMetadata::try_new(footer.clone(), options).map_err(damaged)?
            }
        };
        let first_rows = footer
            .row_groups()
            .iter()
            .scan(0, |next, group| {
                let first = *next;
                *next += row_count(group);
                Some(first)
            })
            .collect();
        Ok(Self {
            object,
            fields: metadata.schema().fields().clone(),
            metadata,
            columns,
            first_rows,
        })
    }

    /// The same input, of which only the row key columns are read from now on.
    pub(crate) fn with_row_keys_only(mut self, table: &TableSchema) -> Self {
        self.columns.truncate(table.row_key_columns());
        self
    }

    /// The same input, of which some of the table's columns are read as [`read_type`] has them.
    pub(crate) fn with_dictionaries(&self, columns: &[usize]) -> Self {
        let mut fields: Vec<_> = self.fields.iter().cloned().collect();
        for column in columns {
            let field = &mut fields[self.columns[*column]];
            let coded = field
                .as_ref()
                .clone()
                .with_data_type(read_type(field.data_type()));
            *field = Arc::new(coded);
        }
        Self {
            object: self.object.clone(),
            metadata: self.metadata.clone(),
            fields: fields.into(),
            columns: self.columns.clone(),
            first_rows: self.first_rows.clone(),
        }
    }

    pub(crate) fn object(&self) -> &Arc<RemoteObject> {
        &self.object
    }

    pub(crate) fn footer(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    /// The file's own columns.
    pub(crate) fn schema(&self) -> &ArrowSchema {
        self.metadata.schema()
    }

    /// Where the first key column is in the file.
    pub(crate) fn first_key_column(&self) -> usize {
        self.columns.first().copied().unwrap_or(0)
    }

    pub(crate) fn row_groups(&self) -> usize {
        self.first_rows.len()
    }

    /// Reads a row group, or the rows of it that `selection` selects.
    pub(crate) fn read(
        &self,
        row_group: usize,
        selection: Option<RowSelection>,
        table: &TableSchema,
    ) -> Result<RowGroupReader> {
        let group = self.footer().row_group(row_group);
        let expected = match &selection {
            Some(selection) => selection.row_count() as u64,
            None => row_count(group),
        };
        let object = self.object.clone();
        contain(
            |panic| object.damaged(format!("the decoder gave up: {panic}")),
            || {
                let wanted = self.wanted(row_group, selection.as_ref());
                let by_index = self.footer().offset_index().is_some();
                let bytes = RowGroupBytes::new(self.object.clone(), &wanted, by_index);
                let pages = CheckedRowGroup {
                    bytes: bytes.clone(),
                    metadata: self.metadata.metadata().clone(),
                    row_group,
                };
                let reader = RowGroupReader {
                    object: self.object.clone(),
                    bytes: bytes.clone(),
                    others: None,
                    columns: Vec::new(),
                    table: table.clone(),
                    batch_rows: batch_rows(group, self.object.origin),
                    is_whole: selection.is_none(),
                    selection: selection.clone().map_or_else(
                        || VecDeque::from([RowSelector::select(expected as usize)]),
                        VecDeque::from,
                    ),
                    next_row: self.first_rows[row_group],
                    left: expected,
                };
                self.with_columns(reader, &pages, selection)
                    .map_err(|error| bytes.take_failure().unwrap_or_else(|| object.damaged(error)))
            },
        )
    }

    /// Has a reader of a row group read its columns: each by itself where values are told by their neighbours, the others
    /// by Parquet's reader.
    fn with_columns(
        &self,
        mut reader: RowGroupReader,
        pages: &CheckedRowGroup,
        selection: Option<RowSelection>,
    ) -> Result<RowGroupReader, ParquetError> {
        let leaves = self.footer().file_metadata().schema_descr();
        let mut others = Vec::new();
        for &position in &self.columns {
            let data_type = self.fields[position].data_type();
            let leaf = match self.object.origin {
                Origin::Table => flat_leaf(leaves, self.fields[position].name()),
                Origin::Input => None,
            };
            let delta = leaf.map(|leaf| DeltaReader::new(pages.chunk(leaf), data_type, || pages.pages(leaf)));
            reader.columns.push(match delta.transpose()?.flatten() {
                Some(delta) => ColumnReader::Delta(Box::new(delta)),
                None => {
                    others.push(position);
                    ColumnReader::Other(position)
                }
            });
        }
        if !others.is_empty() {
            let mask = ProjectionMask::roots(leaves, others.iter().copied());
            let levels = parquet_to_arrow_field_levels(leaves, mask, Some(&self.fields))?;
            reader.others = Some(ParquetRecordBatchReader::try_new_with_row_groups(
                &levels,
                pages,
                reader.batch_rows,
                selection,
            )?);
            for column in &mut reader.columns {
                if let ColumnReader::Other(place) = column {
                    *place = others.iter().filter(|other| *other < place).count();
                }
            }
        }
        Ok(reader)
    }

    /// The bytes of each column chunk that reading some rows of a row group takes: all of it, or its dictionary and
    /// the pages of those rows.
    fn wanted(&self, row_group: usize, selection: Option<&RowSelection>) -> Vec<Vec<Range<u64>>> {
        let chunks = self.footer().row_group(row_group).columns().iter().enumerate();
        let index = self
            .footer()
            .offset_index()
            .and_then(|index| index.get(row_group));
        chunks
            .map(|(column, chunk)| {
                let (start, length) = chunk.byte_range();
                let all = start..start + length;
                let pages = index.and_then(|index| Some(index.get(column)?.page_locations()));
                let first = pages
                    .and_then(|pages| pages.first())
                    .and_then(|first| u64::try_from(first.offset).ok());
                let (Some(selection), Some(pages), Some(first)) = (selection, pages, first) else {
                    return vec![all];
                };
                let ranges = std::iter::once(start..first).chain(hull(selection).scan_ranges(pages));
                let wanted = consecutive(ranges.filter(|range| !range.is_empty()));
                // The decoder will find out what is wrong with an index that points elsewhere.
                let is_inside = |range: &Range<u64>| all.start <= range.start && range.end <= all.end;
                match wanted.iter().all(is_inside) {
                    true => wanted,
                    false => vec![all],
                }
            })
            .collect()
    }
}

/// All rows from the first that is selected to the last: where few follow each other, the decoder reads across the gaps.
fn hull(selection: &RowSelection) -> RowSelection {
    let (mut at, mut first, mut end) = (0, None, 0);
    for run in selection.iter() {
        if !run.skip && run.row_count > 0 {
            first.get_or_insert(at);
            end = at + run.row_count;
        }
        at += run.row_count;
    }
    let selected = first.map(|first| first..end);
    RowSelection::from_consecutive_ranges(selected.into_iter(), at)
}

/// The ranges, those in one that touch each other.
fn consecutive(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// The rows of a row group, whose count was checked not to be negative.
pub(crate) fn row_count(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

/// How many rows of a row group make a batch.
fn batch_rows(group: &RowGroupMetaData, origin: Origin) -> usize {
    let most = match origin {
        Origin::Input => INPUT_BATCH_ROWS,
        Origin::Table => TABLE_BATCH_ROWS,
    };
    let bytes: u64 = group
        .columns()
        .iter()
        .map(|column| {
            let encoded = column.uncompressed_size().max(0);
            let plain = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            encoded
                .max(plain)
                .max(column.num_values().saturating_mul(8))
                .cast_unsigned()
        })
        .fold(0, u64::saturating_add);
    let row_bytes = (bytes / row_count(group).max(1)).max(1);
    (BATCH_BYTES / row_bytes).clamp(1, most) as usize
}

/// Where each table column is in the file, or what is wrong with the file's columns.
fn map_columns(found: &ArrowSchema, table: &Schema) -> Result<Vec<usize>, String> {
    let quoted = |names: Vec<&str>| {
        names
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let names: Vec<&str> = table.columns().map(|column| column.name.as_str()).collect();
    let extra: Vec<&str> = found
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !names.contains(name))
        .collect();
    if !extra.is_empty() {
        return Err(format!(
            "has columns that the table does not have: {}; the table has {}",
            quoted(extra),
            quoted(names)
        ));
    }
    let mut positions = Vec::with_capacity(names.len());
    let mut missing = Vec::new();
    for column in table.columns() {
        let mut matches = found
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| *field.name() == column.name);
        let Some((position, field)) = matches.next() else {
            missing.push(column.name.as_str());
            continue;
        };
        if matches.next().is_some() {
            return Err(format!("has two columns named \"{}\"", column.name));
        }
        let expected = &column.data_type;
        let found_type = core_type(field.data_type()).map_err(|found| {
            format!(
                "has column \"{}\" of type {found}; the table expects {}",
                column.name,
                describe(expected)
            )
        })?;
        if !same_type(&found_type, expected) {
            return Err(format!(
                "has column \"{}\" of type {}; the table expects {}",
                column.name,
                describe(&found_type),
                describe(expected)
            ));
        }
        positions.push(position);
    }
    if !missing.is_empty() {
        return Err(format!("lacks columns of the table: {}", quoted(missing)));
    }
    Ok(positions)
}

/// The table schema that a Parquet object stands for, with these key columns; every other column is a value
/// column, in file order. Call it where blocking is allowed.
///
/// # Errors
/// `Invalid`, with the column, when a key column is missing, a type has no place in a table, or the object is not
/// Parquet.
pub(crate) fn read_schema(object: &RemoteObject, row_key: &[&str], sort_key: &[&str]) -> Result<Schema> {
    contain(
        |panic| object.damaged(format!("the decoder gave up: {panic}")),
        || {
            let footer = read_footer(object, false)?;
            let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())
                .map_err(|error| object.damaged(error))?;
            schema_from_arrow(metadata.schema(), row_key, sort_key)
                .map_err(|error| error.context(format!("cannot take a schema from \"{}\"", object.name)))
        },
    )
}

/// The batches of one row group.
pub(crate) struct RowGroupReader {
    object: Arc<RemoteObject>,
    bytes: RowGroupBytes,
    /// In table order.
    columns: Vec<ColumnReader>,
    /// What reads the columns that do not read themselves.
    others: Option<ParquetRecordBatchReader>,
    table: TableSchema,
    batch_rows: usize,
    /// Whether all rows are read.
    is_whole: bool,
    /// The rows from the next one on.
    selection: VecDeque<RowSelector>,
    next_row: u64,
    left: u64,
}

enum ColumnReader {
    Delta(Box<DeltaReader>),
    /// The place of the column among the others.
    Other(usize),
}

/// Columns of some rows, in table order; text may be in views.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) rows: usize,
    /// The number in the file of the first row; rows that a selection leaves out are not counted.
    pub(crate) first_row: u64,
}

impl RowGroupReader {
    /// The next rows; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Rows>> {
        let (object, bytes) = (self.object.clone(), self.bytes.clone());
        let read = contain(
            |panic| object.damaged(format!("the decoder gave up: {panic}")),
            || {
                self.read()
                    .map_err(|error| bytes.take_failure().unwrap_or_else(|| object.damaged(error)))
            },
        )?;
        let Some((columns, rows)) = read else {
            if self.left > 0 {
                return Err(self
                    .object
                    .damaged(format!("a row group ends {} rows early", self.left)));
            }
            return Ok(None);
        };
        self.left = self.left.checked_sub(rows as u64).ok_or_else(|| {
            self.object
                .damaged("a row group has more rows than its footer says")
        })?;
        let first_row = self.next_row;
        self.next_row += rows as u64;
        for (column, array) in self.table.core.columns().zip(&columns) {
            if !column.nullable
                && array.null_count() > 0
                && let Some(at) = (0..rows).find(|row| array.is_null(*row))
            {
                return Err(null_refused(&self.object, &column.name, first_row + at as u64));
            }
        }
        Ok(Some(Rows {
            columns,
            rows,
            first_row,
        }))
    }

    /// Checks that no column has more rows, where all are read.
    fn check_end(&mut self) -> Result<(), ParquetError> {
        if !self.is_whole || self.left > 0 {
            return Ok(());
        }
        for column in &mut self.columns {
            if let ColumnReader::Delta(delta) = column
                && !delta.is_at_end()?
            {
                return Err(ParquetError::General(
                    "a column has more rows than its row group".into(),
                ));
            }
        }
        Ok(())
    }

    /// The next columns, and how many rows they have.
    fn read(&mut self) -> Result<Option<(Vec<ArrayRef>, usize)>, ParquetError> {
        let others = match &mut self.others {
            Some(others) => match others.next().transpose()? {
                Some(batch) => Some(batch),
                None => return self.check_end().map(|()| None),
            },
            None => None,
        };
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let rows = others
            .as_ref()
            .map_or(left.min(self.batch_rows), RecordBatch::num_rows);
        if rows == 0 {
            return self.check_end().map(|()| None);
        }
        let selectors = take_rows(&mut self.selection, rows);
        let columns = self.columns.iter_mut().map(|column| match (column, &others) {
            (ColumnReader::Delta(delta), _) => delta.read(&selectors),
            (ColumnReader::Other(place), Some(others)) => Ok(others.column(*place).clone()),
            (ColumnReader::Other(_), None) => Err(ParquetError::General("a column is not read".into())),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, ParquetError>>()?;
        match columns.iter().all(|column| column.len() == rows) {
            true => Ok(Some((columns, rows))),
            false => Err(ParquetError::General(
                "columns have different numbers of rows".into(),
            )),
        }
    }
}

/// Takes selectors of the next `rows` rows that are selected off the front.
fn take_rows(selection: &mut VecDeque<RowSelector>, mut rows: usize) -> Vec<RowSelector> {
    let mut taken = Vec::new();
    while rows > 0
        && let Some(next) = selection.front_mut()
    {
        let count = match next.skip {
            true => next.row_count,
            false => next.row_count.min(rows),
        };
        taken.push(RowSelector {
            row_count: count,
            skip: next.skip,
        });
        if !next.skip {
            rows -= count;
        }
        next.row_count -= count;
        if next.row_count == 0 {
            selection.pop_front();
        }
    }
    taken
}

fn null_refused(object: &RemoteObject, column: &str, row: u64) -> Error {
    let reason = format!("has a null in column \"{column}\", row {row}, where the table allows none");
    match object.origin {
        Origin::Input => Error::invalid(format!("input \"{}\" {reason}", object.name)),
        Origin::Table => object.damaged(reason),
    }
}

impl Rows {
    /// The columns in the table's own types.
    ///
    /// # Errors
    /// The misfit, with the row, by the object's origin.
    pub(crate) fn conformed(&self, object: &RemoteObject, table: &TableSchema) -> Result<Vec<ArrayRef>> {
        let columns = 0..self.columns.len();
        columns
            .map(|column| self.conformed_column(object, table, column))
            .collect()
    }

    /// One of the columns in the table's own type.
    ///
    /// # Errors
    /// The misfit, with the row, by the object's origin.
    pub(crate) fn conformed_column(
        &self,
        object: &RemoteObject,
        table: &TableSchema,
        column: usize,
    ) -> Result<ArrayRef> {
        conform(&self.columns[column], table.column_type(column))
            .map_err(|misfit| self.misfit(object, table, column, misfit))
    }

    /// The error for a column that could not take the table's form; finds the row.
    pub(crate) fn misfit(
        &self,
        object: &RemoteObject,
        table: &TableSchema,
        column: usize,
        misfit: Misfit,
    ) -> Error {
        let name = table.arrow.field(column).name();
        match misfit {
            Misfit::Other(error) => object.damaged(format!("column \"{name}\": {error}")),
            Misfit::Null => {
                let fits =
                    |row| conform(&self.columns[column].slice(row, 1), table.column_type(column)).is_ok();
                let row = (0..self.rows).find(|row| !fits(*row)).unwrap_or(0) as u64;
                null_refused(object, name, self.first_row + row)
            }
        }
    }

    /// Some of the rows.
    pub(crate) fn slice(&self, from: usize, rows: usize) -> Self {
        Self {
            columns: self
                .columns
                .iter()
                .map(|column| column.slice(from, rows))
                .collect(),
            rows,
            first_row: self.first_row + from as u64,
        }
    }
}
