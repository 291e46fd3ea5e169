//! What a job has written: where it is, the manifest that lists it, and its removal.

use std::collections::BTreeMap;

use dormouse_core::{
    Error, Result,
    bulk::{BulkJob, BulkResult, JobRun, job::LISTED_FILES},
    ids::BulkJobId,
    ports::{ResultColumn, WrittenFile, WrittenQuery},
    tenants::TenantId,
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};

use crate::services::Services;

/// All that a job has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job.
    pub job_id: BulkJobId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// How many rows.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The columns of the rows.
    pub columns: Vec<ResultColumn>,
    /// Every file, in the order of the rows.
    pub files: Vec<WrittenFile>,
    /// The transaction that each table was read at, by name.
    pub snapshot: BTreeMap<String, u64>,
}

impl Manifest {
    pub(super) fn new(job: &BulkJob, written: WrittenQuery) -> Self {
        Self {
            job_id: job.id.clone(),
            tenant_id: job.tenant.clone(),
            rows: written.rows,
            bytes: written.files.iter().map(|file| file.bytes).sum(),
            columns: written.columns,
            files: written.files,
            snapshot: job.snapshot.clone(),
        }
    }

    /// What the job itself tells of its result.
    pub(super) fn result(&self, path: &Path) -> BulkResult {
        BulkResult {
            columns: self.columns.clone(),
            rows: self.rows,
            bytes: self.bytes,
            file_count: self.files.len() as u64,
            files: self.files.iter().take(LISTED_FILES).cloned().collect(),
            manifest: path.to_string(),
        }
    }
}

/// What all objects of a job are below, in the bucket of exports.
pub fn results_path(services: &Services, job: &BulkJob) -> Path {
    Path::from(job.results_path(services.settings.bulk_results_prefix()))
}

/// The name of the objects of a run, without their ending.
pub(super) fn data_name(run: &JobRun) -> String {
    of_run("data", run)
}

/// The manifest of a run.
pub(super) fn manifest_path(services: &Services, job: &BulkJob, run: &JobRun) -> Path {
    results_path(services, job).join(of_run("manifest", run) + ".json")
}

fn of_run(name: &str, run: &JobRun) -> String {
    match run.number {
        1 => name.to_owned(),
        number => format!("{name}-{number}"),
    }
}

/// The manifest of a job that is complete.
///
/// # Errors
/// `NotFound` when the job has no result, or it was removed; `Corrupt` when it cannot be read.
pub async fn manifest(services: &Services, job: &BulkJob) -> Result<Manifest> {
    let result = job.result.as_ref();
    let result = result.ok_or_else(|| Error::not_found(format!("job {} has no result", job.id)))?;
    let stored = services
        .exports
        .get(&Path::from(result.manifest.as_str()))
        .await?;
    serde_json::from_slice(&stored.bytes().await?).map_err(|error| {
        Error::corrupt(format!("the manifest of job {} is damaged", job.id)).with_source(error)
    })
}

/// Removes every object of a job.
pub(super) async fn remove(services: &Services, job: &BulkJob) -> Result<()> {
    let exports = &services.exports;
    let found = exports.list(Some(&results_path(services, job)));
    let found = found.map_ok(|meta| meta.location).boxed();
    let removed = exports.delete_stream(found).filter(|removed| {
        let gone = matches!(removed, Err(object_store::Error::NotFound { .. }));
        std::future::ready(!gone)
    });
    removed.try_for_each(|_| std::future::ready(Ok(()))).await?;
    Ok(())
}
