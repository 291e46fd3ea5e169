use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::{ObjectStoreExt, path::Path};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::row_engine::{MemoryRow, read_file};
use crate::{
    error::{Error, Result},
    ports::{
        Compression, CsvFormat, EncodedRows, FileFormat, MergeInput, QueryEngine, QueryOutput, QueryProgress,
        QueryRefusal, QueryRows, QuerySpec, ResultColumn, RowFormat, TableSnapshot, Truncated, WrittenFile,
        WrittenQuery,
    },
    predicate::Predicate,
    schema::Schema,
    state::Reference,
    time::Timestamp,
};

/// Where in a call a [`MemoryQueryEngine`] is when it asks its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryStep {
    /// A query is about to be planned.
    Plan(String),
    /// All its tables were looked up.
    Named(String),
    /// Of its rows, so many were read.
    Read(u64),
    /// This object is about to be written.
    Write(Path),
    /// This object was written.
    Written(Path),
}

/// What a test does at a step: nothing, wait, fail or panic.
pub type QueryHook = Arc<dyn Fn(QueryStep) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A [`QueryEngine`] over tables whose files a [`MemoryRowEngine`](super::MemoryRowEngine) has written.
///
/// Of SQL it knows `SELECT * FROM table`, and several of these with ` UNION ALL ` between them. It writes CSV and JSON
/// that are not compressed.
#[derive(Default)]
pub struct MemoryQueryEngine {
    hook: Mutex<Option<QueryHook>>,
}

impl fmt::Debug for MemoryQueryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryQueryEngine").finish_non_exhaustive()
    }
}

impl MemoryQueryEngine {
    /// From now on, every call asks `hook` at each step.
    pub fn set_hook<F, Wait>(&self, hook: F)
    where
        F: Fn(QueryStep) -> Wait + Send + Sync + 'static,
        Wait: Future<Output = Result<()>> + Send + 'static,
    {
        *self.hook.lock() = Some(Arc::new(move |step| Box::pin(hook(step))));
    }

    /// From now on, calls run through.
    pub fn clear_hook(&self) {
        *self.hook.lock() = None;
    }

    async fn at(&self, step: QueryStep) -> Result<()> {
        let hook = self.hook.lock().clone();
        match hook {
            Some(hook) => hook(step).await,
            None => Ok(()),
        }
    }

    async fn rows(&self, spec: &QuerySpec, progress: &QueryProgress) -> Result<Vec<MemoryRow>> {
        self.at(QueryStep::Plan(spec.sql.clone())).await?;
        let mut tables = Vec::new();
        for name in table_names(&spec.sql)? {
            let table = spec.tables.table(name).await?;
            let table = table.ok_or_else(|| QueryRefusal::AbsentTable(name.to_owned()))?;
            if table.policy.is_some() {
                return Err(Error::internal("rows in memory are read without row policies"));
            }
            tables.push(table);
        }
        self.at(QueryStep::Named(spec.sql.clone())).await?;
        let mut inputs = Vec::new();
        for table in &tables {
            inputs.extend(table.state.leaves().flat_map(|leaf| {
                let references = table.state.references(&leaf.id);
                let inputs: Vec<_> = references.map(|reference| input(table, reference)).collect();
                (!inputs.is_empty()).then_some((leaf, inputs))
            }));
            progress.add_rows_to_read(table.state.rows());
        }
        let mut rows = Vec::new();
        for (leaf, inputs) in inputs {
            let first = rows.len();
            for input in &inputs {
                rows.extend(read_file(input, &leaf).await?);
            }
            rows[first..].sort();
            progress.add_rows_read((rows.len() - first) as u64);
            self.at(QueryStep::Read(rows.len() as u64)).await?;
        }
        Ok(rows)
    }
}

/// The table of `SELECT * FROM table`.
fn table_name(select: &str) -> Option<&str> {
    let name = select.trim().strip_prefix("SELECT * FROM ")?;
    (!name.is_empty() && !name.contains(char::is_whitespace)).then_some(name)
}

fn table_names(sql: &str) -> Result<Vec<&str>> {
    let names: Option<Vec<_>> = sql.split(" UNION ALL ").map(table_name).collect();
    names.ok_or_else(|| Error::invalid(format!("\"{sql}\" is no query over rows in memory")))
}

fn input(table: &TableSnapshot, reference: &Reference) -> MergeInput {
    MergeInput {
        store: table.store.clone(),
        path: reference.file.name.object_path(&table.table),
        bytes: reference.file.bytes,
        checksum: reference.file.checksum,
        exact: reference.exact(),
    }
}

fn columns() -> Vec<ResultColumn> {
    [("key", "Int64"), ("payload", "Utf8")]
        .map(|(name, type_name)| ResultColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            nullable: false,
        })
        .into()
}

fn csv_field(csv: &CsvFormat, text: &str) -> String {
    let special = |c: char| c == csv.delimiter || matches!(c, '"' | '\n' | '\r');
    match text.is_empty() || text.contains(special) || text == csv.null_marker {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn csv_line(csv: &CsvFormat, key: &str, payload: &str) -> String {
    let end = if csv.crlf { "\r\n" } else { "\n" };
    format!("{key}{}{}{end}", csv.delimiter, csv_field(csv, payload))
}

fn csv_header(csv: &CsvFormat) -> String {
    match csv.header {
        true => csv_line(csv, "key", "payload"),
        false => String::new(),
    }
}

fn object_of(row: &MemoryRow) -> serde_json::Value {
    serde_json::json!({ "key": row.0, "payload": row.1 })
}

/// What stands before the rows, and each of them.
fn encode(format: RowFormat, rows: &[MemoryRow]) -> Result<(String, Vec<String>)> {
    let csv = CsvFormat::default();
    let header = match format {
        RowFormat::Csv => csv_header(&csv),
        _ => String::new(),
    };
    let line = |row: &MemoryRow| match format {
        RowFormat::JsonLines => Ok(format!("{}\n", object_of(row))),
        RowFormat::TextLines => Ok(format!("{}\n", serde_json::json!([row.0.to_string(), row.1]))),
        RowFormat::Csv => Ok(csv_line(&csv, &row.0.to_string(), &row.1)),
        RowFormat::ArrowStream => Err(Error::invalid("rows in memory make no Arrow stream")),
    };
    Ok((header, rows.iter().map(line).collect::<Result<_>>()?))
}

fn object(format: &FileFormat, generated_at: Timestamp, rows: &[MemoryRow]) -> Result<String> {
    match format {
        FileFormat::Csv {
            csv,
            compression: Compression::None,
        } => {
            let lines = rows.iter().map(|row| csv_line(csv, &row.0.to_string(), &row.1));
            Ok(csv_header(csv) + &lines.collect::<String>())
        }
        FileFormat::JsonLines {
            compression: Compression::None,
        } => Ok(encode(RowFormat::JsonLines, rows)?.1.concat()),
        FileFormat::Json {
            compression: Compression::None,
        } => {
            let metadata = serde_json::json!({
                "columns": columns(), "row_count": rows.len(), "generated_at": generated_at.to_string(),
            });
            let data: Vec<_> = rows.iter().map(object_of).collect();
            let data = serde_json::Value::Array(data);
            Ok(format!("{{\"metadata\":{metadata},\"data\":{data}}}"))
        }
        _ => Err(Error::invalid("rows in memory are not written in this format")),
    }
}

#[derive(Debug)]
struct Answer {
    columns: Vec<ResultColumn>,
    pieces: std::vec::IntoIter<EncodedRows>,
    truncated: Option<Truncated>,
}

#[async_trait]
impl QueryRows for Answer {
    fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    async fn next(&mut self) -> Result<Option<EncodedRows>> {
        Ok(self.pieces.next())
    }

    fn truncated(&self) -> Option<Truncated> {
        self.truncated
    }
}

#[async_trait]
impl QueryEngine for MemoryQueryEngine {
    /// Every policy fits; none can be applied.
    fn check_row_policy(&self, _schema: &Arc<Schema>, _predicate: &Predicate) -> Result<()> {
        Ok(())
    }

    fn masked(&self, sql: &str) -> String {
        let is_known = |byte: char| byte.is_ascii_digit();
        sql.replace(is_known, "?")
    }

    async fn query(&self, spec: QuerySpec, format: RowFormat) -> Result<Box<dyn QueryRows>> {
        let rows = self.rows(&spec, &QueryProgress::default()).await?;
        let (header, lines) = encode(format, &rows)?;
        let mut truncated = None;
        let mut body = String::new();
        let mut count = 0;
        for line in lines {
            let bytes = (header.len() + body.len() + line.len()) as u64;
            if spec.limits.rows.is_some_and(|most| count >= most) {
                truncated = Some(Truncated::Rows);
            } else if spec.limits.bytes.is_some_and(|most| bytes > most) {
                truncated = Some(Truncated::Bytes);
            }
            if truncated.is_some() {
                break;
            }
            body += &line;
            count += 1;
        }
        let pieces = [(0, header), (count, body)].map(|(rows, text)| EncodedRows {
            rows,
            bytes: Bytes::from(text),
        });
        let pieces: Vec<_> = pieces
            .into_iter()
            .filter(|piece| !piece.bytes.is_empty())
            .collect();
        Ok(Box::new(Answer {
            columns: columns(),
            pieces: pieces.into_iter(),
            truncated,
        }))
    }

    async fn write(&self, spec: QuerySpec, output: QueryOutput) -> Result<WrittenQuery> {
        let rows = self.rows(&spec, &output.progress).await?;
        let body = object(&output.format, output.generated_at, &rows)?;
        let path = output
            .prefix
            .clone()
            .join(format!("{}.{}", output.name, output.format.ending()));
        self.at(QueryStep::Write(path.clone())).await?;
        let file = WrittenFile {
            path: path.to_string(),
            rows: rows.len() as u64,
            bytes: body.len() as u64,
            sha256: hex::encode(Sha256::digest(&body)),
        };
        output.store.put(&path, body.into()).await?;
        output.progress.add_rows_written(file.rows);
        output.progress.add_bytes_written(file.bytes);
        self.at(QueryStep::Written(path)).await?;
        Ok(WrittenQuery {
            columns: columns(),
            rows: file.rows,
            files: vec![file],
        })
    }
}
