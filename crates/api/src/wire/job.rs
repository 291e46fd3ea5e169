//! Bulk jobs as they are shown.

use std::collections::BTreeMap;

use dormouse_core::{
    bulk::{BulkJob, BulkState},
    ports::{Compression, FileFormat, PageCompression, ParameterValue},
    state::AsOf,
    time::Timestamp,
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A bulk job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub job_id: String,
    /// How far it is: `Open`, `UploadComplete`, `InProgress`, `JobComplete`, `Failed` or `Aborted`.
    #[schema(pattern = "^(Open|UploadComplete|InProgress|JobComplete|Failed|Aborted)$")]
    pub state: String,
    /// The same in other words: `PENDING`, `RUNNING`, `COMPLETED`, `FAILED` or `CANCELLED`.
    #[schema(pattern = "^(PENDING|RUNNING|COMPLETED|FAILED|CANCELLED)$")]
    pub status: String,
    /// What it does.
    pub operation: String,
    /// What it is about, in the client's words.
    pub object: Option<String>,
    /// What it asks.
    pub query: String,
    /// What stands for `$name` in the query.
    #[schema(value_type = Object)]
    pub params: BTreeMap<String, ParameterValue>,
    /// What its result is written as.
    pub content_type: String,
    /// How its result is compressed.
    pub compression: String,
    /// What the client wants to find again.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it changed last.
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// When it began to run.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it ended.
    #[schema(format = DateTime)]
    pub completed_at: Option<String>,
    /// Until when it may take; once it is complete, until when its result stays.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// How many rows its result has, once that is known.
    pub number_records_total: Option<u64>,
    /// How many rows are written.
    pub number_records_processed: u64,
    /// How many rows cannot be written: a query has none.
    pub number_records_failed: u64,
    /// How many rows are left out: a query leaves out none.
    pub number_records_unprocessed: u64,
    /// How far it is, from 0 to 100, and 100 only when it is complete. Null when nobody can tell.
    #[schema(minimum = 0, maximum = 100)]
    pub progress: Option<u8>,
    /// In how many seconds it may be complete, going by its progress.
    pub eta_seconds: Option<u64>,
    /// What it is at: `run` before the first rows are written, then `write`.
    pub stage: Option<String>,
    /// How many bytes are written.
    pub bytes_processed: u64,
    /// How long it ran, once it has ended.
    pub total_processing_time_ms: Option<u64>,
    /// The state of the tables that it asked for.
    pub as_of: Option<String>,
    /// The transaction that each of its tables is read at, by name.
    pub snapshot: BTreeMap<String, u64>,
    /// How many rows its result has.
    pub result_row_count: Option<u64>,
    /// A link to its result: the file, or the manifest when there are several files.
    pub download_url: Option<String>,
    /// Why it has no result.
    pub error: Option<JobError>,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// Where there is more.
    pub links: JobLinks,
}

/// Why a job has no result.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobError {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// Where there is more about a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobLinks {
    /// The job.
    #[serde(rename = "self")]
    pub this: String,
    /// Its result, once it is complete.
    pub results: String,
    /// The bytes of its result.
    pub content: String,
    /// What to change to cancel it; none when it has ended.
    pub cancel: Option<String>,
}

/// Some jobs of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobList {
    /// The jobs, the newest first.
    pub jobs: Vec<JobView>,
    /// Where the next page begins; null after the last one.
    pub next_offset: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Where a job is.
pub fn job_path(id: &str) -> String {
    format!("/v1/bulk/jobs/{id}")
}

/// The word of a format.
pub fn content_type(format: &FileFormat) -> &'static str {
    match format {
        FileFormat::Csv { .. } => "CSV",
        FileFormat::Json { .. } => "JSON",
        FileFormat::JsonLines { .. } => "NDJSON",
        FileFormat::Parquet { .. } => "PARQUET",
    }
}

/// The word of a format's compression.
pub fn compression(format: &FileFormat) -> &'static str {
    match format {
        FileFormat::Csv { compression, .. }
        | FileFormat::Json { compression }
        | FileFormat::JsonLines { compression } => match compression {
            Compression::None => "NONE",
            Compression::Gzip => "GZIP",
            Compression::Zstd => "ZSTD",
        },
        FileFormat::Parquet { compression, .. } => match compression {
            PageCompression::None => "NONE",
            PageCompression::Snappy => "SNAPPY",
            PageCompression::Zstd => "ZSTD",
        },
    }
}

/// The text of a state of tables.
fn as_of(as_of: AsOf) -> String {
    match as_of {
        AsOf::Transaction(number) => number.to_string(),
        AsOf::Time(at) => at.to_string(),
    }
}

fn progress(job: &BulkJob) -> Option<u8> {
    match job.state {
        BulkState::Open | BulkState::UploadComplete => Some(0),
        _ => job.progress.percent,
    }
}

fn eta_seconds(job: &BulkJob, now: Timestamp) -> Option<u64> {
    let started = job.started.filter(|_| job.state == BulkState::InProgress)?;
    let percent = u64::from(job.progress.percent?);
    let left = now
        .since(started)
        .as_secs()
        .saturating_mul(100 - percent.min(100));
    left.checked_div(percent)
}

impl JobView {
    /// A job as it is at `now`. Its result is kept until `kept`, if it has one.
    pub fn new(job: &BulkJob, now: Timestamp, kept: Option<Timestamp>, download_url: Option<String>) -> Self {
        let is_terminal = job.state.is_terminal();
        let total = job.result.as_ref().map(|result| result.rows);
        let path = job_path(job.id.as_str());
        let stage = match job.progress.bytes {
            0 => "run",
            _ => "write",
        };
        Self {
            job_id: job.id.to_string(),
            state: job.state.to_string(),
            status: job.state.status().to_owned(),
            operation: job.operation.as_str().to_owned(),
            object: job.object.clone(),
            query: job.query.sql.clone(),
            params: job.query.parameters.clone(),
            content_type: content_type(&job.format).to_owned(),
            compression: compression(&job.format).to_owned(),
            metadata: job.metadata.clone(),
            created_at: job.created.rfc3339_seconds(),
            updated_at: job.updated.rfc3339_seconds(),
            started_at: job.started.map(Timestamp::rfc3339_seconds),
            completed_at: job.completed.map(Timestamp::rfc3339_seconds),
            expires_at: match is_terminal {
                true => kept.map(Timestamp::rfc3339_seconds),
                false => Some(job.deadline.rfc3339_seconds()),
            },
            number_records_total: total,
            number_records_processed: job.progress.rows,
            number_records_failed: 0,
            number_records_unprocessed: 0,
            progress: progress(job),
            eta_seconds: eta_seconds(job, now),
            stage: (job.state == BulkState::InProgress).then(|| stage.to_owned()),
            bytes_processed: job.progress.bytes,
            total_processing_time_ms: job
                .completed
                .zip(job.started)
                .map(|(end, start)| u64::try_from(end.since(start).as_millis()).unwrap_or(u64::MAX)),
            as_of: job.query.as_of.map(as_of),
            snapshot: job.snapshot.clone(),
            result_row_count: total,
            download_url,
            error: job.failure.as_ref().map(|failure| JobError {
                code: failure.code.as_str().to_owned(),
                message: failure.message.clone(),
            }),
            warnings: Vec::new(),
            links: JobLinks {
                results: format!("{path}/results"),
                content: format!("{path}/results/content"),
                cancel: (!is_terminal).then(|| path.clone()),
                this: path,
            },
        }
    }
}
