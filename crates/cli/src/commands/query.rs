//! `dormouse query` and `dormouse get`.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, IsTerminal, Read, Write},
    sync::Arc,
};

use dormouse_core::{
    Error, Result,
    key::{Key, KeyValue},
    message::export::parse_as_of,
    ports::{
        MAX_JOINS, MAX_SUBQUERIES, ParameterValue, QueryLimits, QueryRows, QuerySpec, QueryTables,
        ResultColumn, RowFormat, Truncated,
    },
    schema::{Column as SchemaColumn, Schema, TimeUnit},
};
use dormouse_jobs::query::AllTables;

use super::Context;
use crate::{
    args::{Format, GetArgs, QueryArgs, QueryOutput, RowsArgs},
    key_text::parse_key,
    printer,
};

/// How many rows a table shows: it is as wide as its widest row, so all of them are held.
const TABLE_ROWS: u64 = 10_000;

/// How much disk a query may take beyond its memory.
const DISK_BYTES: u64 = 100 << 30;

pub(super) async fn query(context: &Context, args: &QueryArgs) -> Result<()> {
    let sql = match (&args.sql, &args.file) {
        (Some(sql), None) if sql == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Error::invalid("cannot read the query").with_source(error))?;
            text
        }
        (Some(sql), None) => sql.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format!("cannot read {}", path.display())).with_source(error))?,
        _ => {
            return Err(Error::invalid(
                "a query is the text of a SELECT, or --file with one",
            ));
        }
    };
    let parameters = args
        .parameters
        .iter()
        .map(|pair| parameter(pair))
        .collect::<Result<_>>()?;
    run(context, sql, parameters, &args.rows).await
}

pub(super) async fn get(context: &Context, args: &GetArgs) -> Result<()> {
    let services = &context.instance.services;
    let table = services.tables.named(&args.table).await?;
    let state = services.states.live_state(&table.id).await?;
    let schema = state
        .schema()
        .ok_or_else(|| Error::corrupt(format!("table {} has no schema", table.name)))?;
    let key = |text: &String| parse_key(schema, text);
    let conditions: Vec<String> = match args.range.as_slice() {
        [from, to] => {
            let (from, to) = (key(from)?, key(to)?);
            vec![format!("NOT {} AND {}", below(schema, &from), below(schema, &to))]
        }
        _ => args
            .keys
            .iter()
            .map(|text| Ok(equal(schema, &key(text)?)))
            .collect::<Result<_>>()?,
    };
    let columns: Vec<String> = schema
        .row_key()
        .iter()
        .chain(schema.sort_key())
        .map(name)
        .collect();
    let sql = format!(
        "SELECT * FROM {} WHERE {} ORDER BY {}",
        quoted(table.name.as_str()),
        conditions.join(" OR "),
        columns.join(", ")
    );
    run(context, sql, BTreeMap::new(), &args.rows).await
}

/// Answers a query on standard output.
pub(super) async fn run(
    context: &Context,
    sql: String,
    parameters: BTreeMap<String, ParameterValue>,
    args: &RowsArgs,
) -> Result<()> {
    let services = &context.instance.services;
    let as_of = args.as_of.as_deref().map(parse_as_of).transpose()?;
    let output = args.output.unwrap_or(match context.printer.format() {
        Format::Table => QueryOutput::Table,
        Format::Json => QueryOutput::Json,
    });
    if output == QueryOutput::Arrow && std::io::stdout().is_terminal() {
        return Err(Error::invalid(
            "an Arrow stream is no text; send it to a file or a program",
        ));
    }
    let rows = match output {
        QueryOutput::Table => Some(args.limit.unwrap_or(TABLE_ROWS)),
        _ => args.limit,
    };
    let tables: Arc<dyn QueryTables> = Arc::new(AllTables::new(services.clone(), as_of));
    let spec = QuerySpec {
        sql,
        parameters,
        tables,
        limits: QueryLimits {
            rows,
            bytes: None,
            memory_bytes: services.settings.memory_bytes(),
            disk_bytes: DISK_BYTES,
            joins: MAX_JOINS,
            subqueries: MAX_SUBQUERIES,
        },
    };
    let format = match output {
        QueryOutput::Table => RowFormat::TextLines,
        QueryOutput::Csv => RowFormat::Csv,
        QueryOutput::Json | QueryOutput::Ndjson => RowFormat::JsonLines,
        QueryOutput::Arrow => RowFormat::ArrowStream,
    };
    let mut answer = services.ports.queries.query(spec, format).await?;
    match output {
        QueryOutput::Table => print_table(&mut *answer).await?,
        QueryOutput::Json => print_json(&mut *answer).await?,
        QueryOutput::Csv | QueryOutput::Ndjson | QueryOutput::Arrow => {
            while let Some(rows) = answer.next().await? {
                if !write(&rows.bytes)? {
                    return Ok(());
                }
            }
        }
    }
    if let (Some(Truncated::Rows), Some(rows)) = (answer.truncated(), rows) {
        printer::note(&format!(
            "there are more rows than {}; --limit asks for more, and --output csv for all",
            printer::count(rows)
        ));
    }
    Ok(())
}

async fn print_table(answer: &mut dyn QueryRows) -> Result<()> {
    let mut rows: Vec<Vec<Option<String>>> = Vec::new();
    while let Some(some) = answer.next().await? {
        for line in serde_json::Deserializer::from_slice(&some.bytes).into_iter() {
            rows.push(line.map_err(|error| Error::internal("a row cannot be read back").with_source(error))?);
        }
    }
    let text = printer::rows(answer.columns().iter().map(heading), rows);
    write(text.as_bytes())?;
    Ok(())
}

/// A column's name, and whether its values are numbers.
fn heading(column: &ResultColumn) -> (&str, bool) {
    let numbers = ["Int", "UInt", "Float", "Decimal"];
    let is_number = numbers.iter().any(|number| column.type_name.starts_with(number));
    (&column.name, is_number)
}

/// Prints the rows as a JSON array.
async fn print_json(answer: &mut dyn QueryRows) -> Result<()> {
    let mut before: &[u8] = b"[\n";
    while let Some(rows) = answer.next().await? {
        let mut text = Vec::with_capacity(rows.bytes.len() + rows.rows as usize + 2);
        for line in rows.bytes.split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(before);
            text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            before = b",\n";
        }
        if !write(&text)? {
            return Ok(());
        }
    }
    let end: &[u8] = if before == b",\n" { b"\n]\n" } else { b"[]\n" };
    write(end)?;
    Ok(())
}

/// Writes to standard output; false when nobody reads it any more.
fn write(bytes: &[u8]) -> Result<bool> {
    match std::io::stdout().lock().write_all(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::unavailable("cannot write the rows").with_source(error)),
    }
}

/// What stands for a name: a number, true, false, null, or else text.
fn parameter(pair: &str) -> Result<(String, ParameterValue)> {
    let (name, value) = pair
        .split_once('=')
        .ok_or_else(|| Error::invalid(format!("--param {pair} must be NAME=VALUE")))?;
    let value = match serde_json::from_str(value) {
        Ok(serde_json::Value::Null) => ParameterValue::Null,
        Ok(serde_json::Value::Bool(value)) => ParameterValue::Boolean(value),
        Ok(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => ParameterValue::Integer(whole),
            (None, Some(fraction)) => ParameterValue::Float(fraction),
            (None, None) => ParameterValue::Text(value.to_owned()),
        },
        Ok(serde_json::Value::String(text)) => ParameterValue::Text(text),
        _ => ParameterValue::Text(value.to_owned()),
    };
    Ok((name.to_owned(), value))
}

/// A name in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn name(column: &SchemaColumn) -> String {
    quoted(&column.name)
}

/// That a row's key is this one, or begins with it.
fn equal(schema: &Schema, key: &Key) -> String {
    let parts: Vec<String> = key
        .0
        .iter()
        .zip(schema.row_key())
        .map(|(value, column)| format!("{} = {}", name(column), literal(column, value)))
        .collect();
    format!("({})", parts.join(" AND "))
}

/// That a row's key comes before this one.
fn below(schema: &Schema, key: &Key) -> String {
    let columns: Vec<_> = key.0.iter().zip(schema.row_key()).collect();
    columns.iter().rev().fold(String::new(), |rest, (value, column)| {
        let (name, value) = (name(column), literal(column, value));
        match rest.as_str() {
            "" => format!("({name} < {value})"),
            rest => format!("({name} < {value} OR ({name} = {value} AND {rest}))"),
        }
    })
}

/// A key's value in SQL.
fn literal(column: &SchemaColumn, value: &KeyValue) -> String {
    use dormouse_core::schema::DataType;
    match value {
        KeyValue::Int32(value) => format!("arrow_cast({value}, 'Int32')"),
        KeyValue::Int64(value) => format!("arrow_cast({value}, 'Int64')"),
        KeyValue::Utf8(text) => format!("'{}'", text.replace('\'', "''")),
        KeyValue::Binary(bytes) => {
            let hexadecimal: String = bytes.0.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("X'{hexadecimal}'")
        }
        KeyValue::Date32(days) => format!("arrow_cast(arrow_cast({days}, 'Int32'), 'Date32')"),
        KeyValue::Timestamp(count) => {
            let (unit, timezone) = match &column.data_type {
                DataType::Timestamp { unit, timezone } => (*unit, timezone.as_deref()),
                _ => (TimeUnit::Millisecond, None),
            };
            let unit = match unit {
                TimeUnit::Second => "Second",
                TimeUnit::Millisecond => "Millisecond",
                TimeUnit::Microsecond => "Microsecond",
                TimeUnit::Nanosecond => "Nanosecond",
            };
            let timezone = timezone.map_or("None".to_owned(), |zone| format!("Some(\"{zone}\")"));
            format!("arrow_cast({count}, 'Timestamp({unit}, {timezone})')")
        }
    }
}
