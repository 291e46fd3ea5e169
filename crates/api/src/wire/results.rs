//! What jobs have written.

use serde::Serialize;
use utoipa::ToSchema;

use super::query::ColumnView;

/// What a job has written.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultsView {
    /// The job.
    pub job_id: String,
    /// A link to the file, or to the manifest when there are several files. It needs no key.
    pub download_url: String,
    /// Until when the links are good.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// What the files are: `csv`, `json`, `ndjson` or `parquet`.
    pub format: String,
    /// How they are compressed: `none`, `gzip`, `zstd` or `snappy`.
    pub compression: String,
    /// How many bytes all files have.
    pub size_bytes: u64,
    /// How many rows all files have.
    pub row_count: u64,
    /// The SHA-256 of the file, in hexadecimal; null when there are several files.
    pub sha256: Option<String>,
    /// The columns of the rows.
    pub columns: Vec<ColumnView>,
    /// How many files there are.
    pub file_count: u64,
    /// The files, in the order of the rows; the first 1000 of them.
    pub files: Vec<FileView>,
    /// A link to the manifest, which lists all files.
    pub manifest_url: Option<String>,
}

/// A file that a job has written.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileView {
    /// Its name, below the job's path.
    pub name: String,
    /// A link to it. It needs no key.
    pub url: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// How many rows it has.
    pub row_count: u64,
    /// The SHA-256 of it, in hexadecimal, where that is known.
    pub sha256: Option<String>,
}
