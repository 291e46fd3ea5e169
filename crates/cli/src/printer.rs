//! Reports as tables or JSON. Data goes to standard output, everything else to standard error.

use std::io::{ErrorKind, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use dormouse_core::{Error, Result};
use serde::Serialize;

use crate::args::Format;

/// Prints reports in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    format: Format,
}

/// How a table's column is aligned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

fn write_line(mut stream: impl Write, text: &str) -> Result<()> {
    match writeln!(stream, "{text}") {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::unavailable("cannot write the report").with_source(error)),
    }
}

/// Prints an error on standard error.
pub(crate) fn error(text: &str) {
    let _ = write_line(std::io::stderr(), &format!("error: {text}"));
}

/// Prints a note on standard error.
pub(crate) fn note(text: &str) {
    let _ = write_line(std::io::stderr(), text);
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format.
    pub(crate) fn format(self) -> Format {
        self.format
    }

    /// Prints one value: as JSON, or as the text that `text` makes of it.
    pub(crate) fn value<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self.format {
            Format::Table => write_line(std::io::stdout(), text(value).trim_end()),
            Format::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|error| Error::internal("the report cannot be encoded").with_source(error))?;
                write_line(std::io::stdout(), &json)
            }
        }
    }

    /// Prints a list: as a JSON array, or as a table with a row for each.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        columns: &[Column],
        row: impl Fn(&T) -> Vec<String>,
        empty: &str,
    ) -> Result<()> {
        if items.is_empty() && self.format == Format::Table {
            note(empty);
            return Ok(());
        }
        self.value(&items, |items| table(columns, items.iter().map(&row)))
    }
}

/// A table with a header, in the width of the terminal.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(name) | Column::Right(name) => name.to_uppercase(),
    }));
    table.add_rows(rows);
    for (i, column) in columns.iter().enumerate() {
        if let (Column::Right(_), Some(column)) = (column, table.column_mut(i)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Rows of a query as a table, each column with its name and whether it holds numbers.
pub(crate) fn rows<'a>(
    columns: impl Iterator<Item = (&'a str, bool)>,
    rows: impl IntoIterator<Item = Vec<Option<String>>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let (names, numbers): (Vec<_>, Vec<_>) = columns.unzip();
    table.set_header(names);
    for row in rows {
        table.add_row(row.into_iter().map(Option::unwrap_or_default));
    }
    for (i, _) in numbers.iter().enumerate().filter(|(_, is_number)| **is_number) {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// `pairs` as lines with the names aligned.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// A whole number with commas.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size for people.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = number as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{number} B")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
