//! CSV (RFC 4180) that tells null and empty text apart: a null is an empty field or a marker, and text that would read
//! as one is quoted.

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    datatypes::{DataType as ArrowType, FieldRef, Int32Type, Int64Type},
    error::ArrowError,
    json::writer::{EncoderOptions, NullableEncoder, make_encoder},
    util::display::{ArrayFormatter, FormatOptions},
};
use dormouse_core::{Error, Result, ports::CsvFormat};

use super::encode::unwritable;

/// Writes rows as lines.
#[derive(Debug)]
pub(super) struct CsvWriter {
    format: CsvFormat,
    /// Which bytes a field cannot have without quotes.
    special: [bool; 256],
}

/// The values of a column, as text.
enum Values<'a> {
    Text(&'a StringArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Shown(ArrayFormatter<'a>),
    Json(NullableEncoder<'a>),
}

struct Column<'a> {
    array: &'a dyn Array,
    values: Values<'a>,
}

impl CsvWriter {
    /// # Errors
    /// `Invalid` when readers could not tell fields or lines apart.
    pub(super) fn new(format: CsvFormat) -> Result<Self> {
        let delimiter = format.delimiter;
        if !delimiter.is_ascii() || matches!(delimiter, '"' | '\r' | '\n') {
            return Err(Error::invalid(format!(
                "the delimiter {delimiter:?} is no character of ASCII that is no quote and no line end"
            )));
        }
        let mut special = [false; 256];
        for byte in [delimiter as u8, b'"', b'\r', b'\n'] {
            special[usize::from(byte)] = true;
        }
        let marker = &format.null_marker;
        if marker.bytes().any(|byte| special[usize::from(byte)]) {
            return Err(Error::invalid(format!(
                "the null marker {marker:?} may have no delimiter, quote or line end"
            )));
        }
        Ok(Self { format, special })
    }

    fn line_end(&self) -> &'static [u8] {
        if self.format.crlf { b"\r\n" } else { b"\n" }
    }

    /// The line with the names of columns, if there is to be one.
    pub(super) fn header<'a>(&self, names: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
        if !self.format.header {
            return;
        }
        for (number, name) in names.enumerate() {
            self.delimit(number, out);
            self.text(name.as_bytes(), out);
        }
        out.extend_from_slice(self.line_end());
    }

    /// A line a row.
    pub(super) fn rows(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let options = FormatOptions::default();
        let json = EncoderOptions::default().with_explicit_nulls(true);
        let schema = batch.schema_ref();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (array, field) in batch.columns().iter().zip(schema.fields()) {
            columns.push(column(array.as_ref(), field, &options, &json).map_err(unwritable)?);
        }
        for row in 0..batch.num_rows() {
            for (number, column) in columns.iter_mut().enumerate() {
                self.delimit(number, out);
                self.value(column, row, out)?;
            }
            out.extend_from_slice(self.line_end());
        }
        Ok(())
    }

    fn delimit(&self, number: usize, out: &mut Vec<u8>) {
        if number > 0 {
            out.push(self.format.delimiter as u8);
        }
    }

    fn value(&self, column: &mut Column<'_>, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if column.array.is_null(row) {
            out.extend_from_slice(self.format.null_marker.as_bytes());
            return Ok(());
        }
        let start = out.len();
        match &mut column.values {
            Values::Text(values) => {
                self.text(values.value(row).as_bytes(), out);
                return Ok(());
            }
            Values::Int32(values) => {
                out.extend_from_slice(itoa::Buffer::new().format(values[row]).as_bytes());
            }
            Values::Int64(values) => {
                out.extend_from_slice(itoa::Buffer::new().format(values[row]).as_bytes());
            }
            Values::Shown(values) => {
                values.value(row).write(&mut Utf8(out)).map_err(unwritable)?;
            }
            Values::Json(values) => values.encode(row, out),
        }
        if self.needs_quotes(&out[start..]) {
            let shown = out.split_off(start);
            self.text(&shown, out);
        }
        Ok(())
    }

    fn needs_quotes(&self, text: &[u8]) -> bool {
        text.is_empty()
            || text == self.format.null_marker.as_bytes()
            || text.iter().any(|byte| self.special[usize::from(*byte)])
    }

    fn text(&self, text: &[u8], out: &mut Vec<u8>) {
        if !self.needs_quotes(text) {
            out.extend_from_slice(text);
            return;
        }
        out.push(b'"');
        for (number, part) in text.split(|byte| *byte == b'"').enumerate() {
            if number > 0 {
                out.extend_from_slice(b"\"\"");
            }
            out.extend_from_slice(part);
        }
        out.push(b'"');
    }
}

fn column<'a>(
    array: &'a dyn Array,
    field: &'a FieldRef,
    options: &'a FormatOptions<'a>,
    json: &'a EncoderOptions,
) -> Result<Column<'a>, ArrowError> {
    let values = match array.data_type() {
        ArrowType::Utf8 => Values::Text(array.as_string()),
        ArrowType::Int32 => Values::Int32(array.as_primitive::<Int32Type>().values()),
        ArrowType::Int64 => Values::Int64(array.as_primitive::<Int64Type>().values()),
        found if found.is_nested() => Values::Json(make_encoder(field, array, json)?),
        _ => Values::Shown(ArrayFormatter::try_new(array, options)?),
    };
    Ok(Column { array, values })
}

/// Text that is appended to bytes.
struct Utf8<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
