//! Jobs of every kind, in one shape.

use dormouse_core::{
    bulk::BulkJob,
    time::Timestamp,
    tracker::{JobReport, JobStatus},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::job::{JobError, job_path};

/// A job of any kind.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnyJobView {
    /// Its id.
    pub job_id: String,
    /// What it does: `query` writes the rows of a query, `export` those of a table, `ingest` adds rows to a table.
    #[schema(pattern = "^(query|export|ingest)$")]
    pub kind: String,
    /// How far it is: `PENDING`, `RUNNING`, `COMPLETED`, `FAILED` or `CANCELLED`.
    #[schema(pattern = "^(PENDING|RUNNING|COMPLETED|FAILED|CANCELLED)$")]
    pub status: String,
    /// The same in the words of its kind.
    pub state: String,
    /// The table that it is about.
    pub table: Option<String>,
    /// When it was first heard of.
    #[schema(format = DateTime)]
    pub submitted_at: String,
    /// When it was last heard of.
    #[schema(format = DateTime)]
    pub updated_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    pub completed_at: Option<String>,
    /// How many rows it has read.
    pub rows_read: Option<u64>,
    /// How many rows it has written.
    pub rows_written: u64,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Where its result is.
    pub results: Option<String>,
}

impl From<&BulkJob> for AnyJobView {
    fn from(job: &BulkJob) -> Self {
        Self {
            job_id: job.id.to_string(),
            kind: job.operation.as_str().to_owned(),
            status: job.state.status().to_owned(),
            state: job.state.to_string(),
            table: None,
            submitted_at: job.created.rfc3339_seconds(),
            updated_at: job.updated.rfc3339_seconds(),
            completed_at: job.completed.map(Timestamp::rfc3339_seconds),
            rows_read: None,
            rows_written: job.progress.rows,
            error: job.failure.as_ref().map(|failure| JobError {
                code: failure.code.as_str().to_owned(),
                message: failure.message.clone(),
            }),
            results: job
                .result
                .as_ref()
                .map(|_| format!("{}/results", job_path(job.id.as_str()))),
        }
    }
}

fn status(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Created | JobStatus::Accepted => "PENDING",
        JobStatus::Split | JobStatus::InProgress | JobStatus::Uncommitted => "RUNNING",
        JobStatus::Rejected | JobStatus::Failed => "FAILED",
        JobStatus::Cancelled => "CANCELLED",
        JobStatus::Finished => "COMPLETED",
    }
}

impl From<&JobReport> for AnyJobView {
    fn from(report: &JobReport) -> Self {
        let reasons = report.reasons();
        let location = report.export.as_ref().and_then(|export| export.location.as_ref());
        let run = report.deciding_run();
        Self {
            job_id: report.key.job.to_string(),
            kind: report.key.kind.to_string(),
            status: status(report.status).to_owned(),
            state: report.status.to_string(),
            table: report.table_name.clone(),
            submitted_at: report.created.rfc3339_seconds(),
            updated_at: report.updated.rfc3339_seconds(),
            completed_at: run
                .filter(|_| report.status.is_final())
                .and_then(|run| run.ended)
                .map(Timestamp::rfc3339_seconds),
            rows_read: Some(report.rows_read()),
            rows_written: report.rows_written(),
            error: (!reasons.is_empty()).then(|| JobError {
                code: report.status.to_string(),
                message: reasons.join("; "),
            }),
            results: location.map(|_| format!("/v1/jobs/{}/results", report.key.job)),
        }
    }
}
