//! Bulk jobs to make or change.

use std::{collections::BTreeMap, time::Duration};

use dormouse_core::{
    bulk::{NewBulkJob, Operation, QueryRequest},
    config::InstanceSettings,
    ids::BulkJobId,
    ports::{Compression, CsvFormat, FileFormat, PageCompression},
    tenants::TenantId,
    time::Timestamp,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    query::{as_of, check_metadata, check_sql, parameters},
    words::{text_or_number, whole, words},
};
use crate::error::{ApiError, ApiResult};

/// The longest text that says what a job is about, in characters.
const MAX_OBJECT_CHARS: usize = 200;

/// The longest id that a client may choose.
const MAX_JOB_ID_BYTES: usize = 64;

/// The longest marker of nulls.
const MAX_NULL_MARKER: usize = 32;

/// The most columns that rows are partitioned by.
const MAX_PARTITION_COLUMNS: usize = 16;

words! {
    /// What a job does.
    OperationWord { Query = "query" }

    /// What a result is written as.
    ContentType { Csv = "CSV", Json = "JSON", Ndjson = "NDJSON", Parquet = "PARQUET" }

    /// How a result is compressed.
    CompressionWord { None = "NONE", Gzip = "GZIP", Zstd = "ZSTD", Snappy = "SNAPPY" }

    /// How the pages of Parquet are compressed.
    ParquetCompression { Snappy = "SNAPPY", Zstd = "ZSTD", None = "NONE" }
}

/// A bulk job to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "operation": "query",
    "object": "orders",
    "query": "SELECT * FROM orders WHERE day >= $day",
    "params": {"day": "2026-11-01"},
    "content_type": "CSV",
    "compression": "GZIP",
    "auto_start": true,
}))]
pub struct CreateBody {
    /// What the job does.
    #[schema(value_type = OperationWord)]
    pub operation: String,
    /// What the job is about, in the client's words.
    #[schema(max_length = 200)]
    pub object: Option<String>,
    /// One `SELECT`, with or without `WITH`; at most 100000 bytes.
    #[schema(value_type = String, min_length = 1, max_length = 100000)]
    pub query: Option<String>,
    /// What stands for `$name` in the query.
    #[schema(value_type = Option<Object>)]
    pub params: Option<BTreeMap<String, Value>>,
    /// What the result is written as; `CSV` without it.
    pub content_type: Option<ContentType>,
    /// How the result is compressed; `NONE` without it, and `SNAPPY` for Parquet.
    pub compression: Option<CompressionWord>,
    /// Which CSV.
    pub csv: Option<CsvBody>,
    /// Which Parquet.
    pub parquet: Option<ParquetBody>,
    /// The state of the tables: the number of a transaction, or a time. Without it, the newest when the job starts.
    #[serde(default, alias = "snapshot_id", deserialize_with = "text_or_number")]
    #[schema(value_type = Option<Object>)]
    pub as_of: Option<String>,
    /// Whether the job starts at once, or waits until it is changed to `UploadComplete`. Without it, jobs made at
    /// `/bulk/jobs` wait, and those made at `/bulk` start.
    pub auto_start: Option<bool>,
    /// The id of the job; one is made without it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    pub job_id: Option<String>,
    /// What the client wants to find again in the job; at most 4096 bytes.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// After how many seconds the job is too old.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub timeout_seconds: Option<u64>,
    /// As the header `Idempotency-Key`.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    pub idempotency_key: Option<String>,
}

/// Which CSV.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvBody {
    /// What is between values: a character, or the name of one (`COMMA`, `PIPE`, `TAB`, `SEMICOLON`, `CARET`,
    /// `BACKQUOTE`). A comma without it.
    #[schema(pattern = "^(COMMA|PIPE|TAB|SEMICOLON|CARET|BACKQUOTE|[\\t !#-/:-@\\[-`{-~])$")]
    pub delimiter: Option<String>,
    /// What is around values that need it: always `"`.
    #[schema(pattern = "^\"$")]
    pub quote: Option<String>,
    /// How lines end: `LF` or `CRLF`, or the characters themselves. `LF` without it.
    #[schema(pattern = "^(LF|CRLF|\\n|\\r\\n)$")]
    pub line_ending: Option<String>,
    /// Whether the first line has the columns' names; it has without this.
    pub header: Option<bool>,
    /// What stands for a null; nothing without it. It may not hold the delimiter.
    #[schema(max_length = 32, pattern = "^[^\"\\r\\n]*$")]
    pub null_marker: Option<String>,
}

/// Which Parquet.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetBody {
    /// How its pages are compressed; stands over the job's `compression`.
    pub compression: Option<ParquetCompression>,
    /// The columns whose values become directories. One file without it.
    #[schema(max_items = 16)]
    pub partition_by: Option<Vec<String>>,
}

/// A change of a bulk job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"state": "UploadComplete"}))]
pub struct PatchBody {
    /// `UploadComplete` starts the job, `Aborted` cancels it.
    pub state: TargetState,
}

words! {
    /// The state that a job is to come into.
    TargetState { UploadComplete = "UploadComplete", Aborted = "Aborted" }
}

/// A request to make a job, beside its body.
#[derive(Clone, Copy, Debug)]
pub struct JobRequest {
    /// The same whenever a request with an idempotency key comes.
    pub id: Uuid,
    /// Whether its job starts at once, unless the body says.
    pub starts: bool,
}

impl JobRequest {
    /// The id of a job that has none of its own.
    ///
    /// # Errors
    /// As [`BulkJobId::new`].
    pub fn job_id(&self) -> ApiResult<BulkJobId> {
        Ok(BulkJobId::new(format!("bulk-job-{}", self.id.simple()))?)
    }
}

impl CreateBody {
    /// The job that is to be made, with an id where the client has chosen none.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, with the field that is wrong.
    pub fn job(
        self,
        tenant: &TenantId,
        request: &JobRequest,
        settings: &InstanceSettings,
        now: Timestamp,
    ) -> ApiResult<NewBulkJob> {
        let operation = operation(&self.operation)?;
        let sql = self.query.as_deref();
        let sql = sql.ok_or_else(|| ApiError::invalid("query", "A query job needs a query"))?;
        check_sql("query", sql)?;
        let object = self.object.as_deref();
        if object.is_some_and(|object| object.chars().count() > MAX_OBJECT_CHARS) {
            let message = format!("object may have {MAX_OBJECT_CHARS} characters");
            return Err(ApiError::invalid("object", message));
        }
        check_metadata(&self.metadata.clone().unwrap_or_default())?;
        let longest = settings.bulk_job_timeout();
        let life = match self.timeout_seconds {
            None => longest,
            Some(seconds) if (1..=longest.as_secs().max(1)).contains(&seconds) => {
                Duration::from_secs(seconds)
            }
            Some(_) => {
                let message = format!("timeout_seconds must be from 1 to {}", longest.as_secs().max(1));
                return Err(ApiError::invalid("timeout_seconds", message));
            }
        };
        Ok(NewBulkJob {
            tenant: tenant.clone(),
            operation,
            format: self.format()?,
            query: QueryRequest {
                sql: sql.to_owned(),
                parameters: parameters(&self.params.unwrap_or_default())?,
                as_of: as_of(self.as_of.as_deref())?,
            },
            id: match &self.job_id {
                Some(id) => chosen_id(id)?,
                None => request.job_id()?,
            },
            object: self.object,
            metadata: self.metadata.unwrap_or_default(),
            deadline: now.plus(life),
            request: request.id.to_string(),
            starts: self.auto_start.unwrap_or(request.starts),
        })
    }

    fn format(&self) -> ApiResult<FileFormat> {
        let content_type = self.content_type.unwrap_or(ContentType::Csv);
        let only = |field: &str, kind: ContentType| {
            let message = format!("{field} is for content_type {} only", kind.as_str());
            Err(ApiError::invalid(field, message))
        };
        if self.csv.is_some() && content_type != ContentType::Csv {
            return only("csv", ContentType::Csv);
        }
        if self.parquet.is_some() && content_type != ContentType::Parquet {
            return only("parquet", ContentType::Parquet);
        }
        let compression = || match self.compression.unwrap_or(CompressionWord::None) {
            CompressionWord::None => Ok(Compression::None),
            CompressionWord::Gzip => Ok(Compression::Gzip),
            CompressionWord::Zstd => Ok(Compression::Zstd),
            CompressionWord::Snappy => Err(ApiError::invalid(
                "compression",
                "compression SNAPPY is for content_type PARQUET only",
            )),
        };
        Ok(match content_type {
            ContentType::Csv => FileFormat::Csv {
                csv: csv(self.csv.as_ref())?,
                compression: compression()?,
            },
            ContentType::Json => FileFormat::Json {
                compression: compression()?,
            },
            ContentType::Ndjson => FileFormat::JsonLines {
                compression: compression()?,
            },
            ContentType::Parquet => parquet(self.parquet.as_ref(), self.compression)?,
        })
    }
}

fn operation(word: &str) -> ApiResult<Operation> {
    if OperationWord::parse(word).is_some() {
        return Ok(Operation::Query);
    }
    let imports = ["insert", "update", "upsert", "delete"];
    let message = match imports.iter().find(|import| word.eq_ignore_ascii_case(import)) {
        Some(import) => {
            format!("operation {import} is not supported yet; the one that is supported is query")
        }
        None => {
            let shown: String = word.chars().take(40).collect();
            format!("operation must be query, not \"{}\"", shown.escape_debug())
        }
    };
    Err(ApiError::invalid("operation", message))
}

fn chosen_id(id: &str) -> ApiResult<BulkJobId> {
    let wrong = |message: String| ApiError::invalid("job_id", message);
    if id.len() > MAX_JOB_ID_BYTES {
        return Err(wrong(format!("job_id may have {MAX_JOB_ID_BYTES} characters")));
    }
    // Nobody could read it below `/bulk`.
    if id == "jobs" {
        return Err(wrong("no job can have the id \"jobs\"".to_owned()));
    }
    BulkJobId::new(id).map_err(|error| wrong(error.to_string()))
}

fn csv(body: Option<&CsvBody>) -> ApiResult<CsvFormat> {
    let mut csv = CsvFormat::default();
    let Some(body) = body else { return Ok(csv) };
    if let Some(text) = &body.delimiter {
        csv.delimiter = delimiter(text)?;
    }
    if body.quote.as_ref().is_some_and(|quote| quote != "\"") {
        return Err(ApiError::invalid("csv.quote", "csv.quote can be \" only"));
    }
    csv.crlf = match body.line_ending.as_deref() {
        None => false,
        Some("\n") => false,
        Some("\r\n") => true,
        Some(word) if word.eq_ignore_ascii_case("LF") => false,
        Some(word) if word.eq_ignore_ascii_case("CRLF") => true,
        Some(_) => {
            return Err(ApiError::invalid(
                "csv.line_ending",
                "csv.line_ending must be LF or CRLF",
            ));
        }
    };
    csv.header = body.header.unwrap_or(true);
    if let Some(marker) = &body.null_marker {
        let wrong = |c: char| matches!(c, '"' | '\r' | '\n') || c == csv.delimiter;
        if marker.chars().count() > MAX_NULL_MARKER || marker.contains(wrong) {
            let message = format!(
                "csv.null_marker may have {MAX_NULL_MARKER} characters, and no quote, line end or delimiter"
            );
            return Err(ApiError::invalid("csv.null_marker", message));
        }
        csv.null_marker.clone_from(marker);
    }
    Ok(csv)
}

fn delimiter(text: &str) -> ApiResult<char> {
    let names = [
        ("COMMA", ','),
        ("PIPE", '|'),
        ("TAB", '\t'),
        ("SEMICOLON", ';'),
        ("CARET", '^'),
        ("BACKQUOTE", '`'),
    ];
    if let Some((_, delimiter)) = names.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)) {
        return Ok(*delimiter);
    }
    let mut chars = text.chars();
    let one = chars.next().filter(|_| chars.next().is_none());
    let fits = |c: &char| *c == '\t' || *c == ' ' || (c.is_ascii_punctuation() && *c != '"');
    one.filter(fits).ok_or_else(|| {
        let names = names.map(|(name, _)| name).join(", ");
        let message =
            format!("csv.delimiter must be one of {names}, or one punctuation mark that is no quote");
        ApiError::invalid("csv.delimiter", message)
    })
}

fn parquet(body: Option<&ParquetBody>, compression: Option<CompressionWord>) -> ApiResult<FileFormat> {
    let pages = match body.and_then(|body| body.compression) {
        Some(ParquetCompression::Snappy) => PageCompression::Snappy,
        Some(ParquetCompression::Zstd) => PageCompression::Zstd,
        Some(ParquetCompression::None) => PageCompression::None,
        None => match compression.unwrap_or(CompressionWord::Snappy) {
            CompressionWord::None => PageCompression::None,
            CompressionWord::Snappy => PageCompression::Snappy,
            CompressionWord::Zstd => PageCompression::Zstd,
            CompressionWord::Gzip => {
                let message = "the pages of Parquet are compressed with SNAPPY, ZSTD or NONE, not GZIP";
                return Err(ApiError::invalid("compression", message));
            }
        },
    };
    let partition_by = body
        .and_then(|body| body.partition_by.clone())
        .unwrap_or_default();
    let mut names = partition_by.clone();
    names.sort();
    names.dedup();
    if names.len() != partition_by.len()
        || names.len() > MAX_PARTITION_COLUMNS
        || names.contains(&String::new())
    {
        let message = format!(
            "parquet.partition_by must have at most {MAX_PARTITION_COLUMNS} names of columns, each once"
        );
        return Err(ApiError::invalid("parquet.partition_by", message));
    }
    Ok(FileFormat::Parquet {
        compression: pages,
        partition_by,
    })
}
