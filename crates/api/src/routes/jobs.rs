//! `/jobs/{job_id}`: jobs of every kind.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::Uri,
    response::{IntoResponse, Response},
};
use dormouse_core::{
    bulk::BulkJob,
    ids::{BulkJobId, ExportId, JobId, JobKind},
    plan::export::{ExportPlan, Manifest},
    tenants::{Scope, TenantId},
    tracker::{JobReport, JobStatus},
};
use object_store::ObjectStoreExt;

use super::{
    job::{abort, look_again},
    results::{self, LinkTerms, MAX_FILES},
};
use crate::{
    access::Caller,
    app::App,
    body::JobPath,
    error::{ApiError, ApiResult},
    wire::{any_job::AnyJobView, query::ColumnView, results::ResultsView},
};

/// A job of either kind.
enum Found {
    Bulk(Box<BulkJob>),
    Tracked(Box<JobReport>),
}

/// The job with this id that the caller may see: a bulk job of its own, or the latest export or ingest of a table that
/// it may read.
///
/// # Errors
/// `NOT_FOUND`, whether there is none or the caller may not see it.
async fn found(app: &App, caller: &Caller, id: &JobId) -> ApiResult<Found> {
    if let Ok(id) = BulkJobId::new(id.as_str())
        && let Some(job) = app.services.bulk.get(&caller.tenant, &id).await?
    {
        return Ok(Found::Bulk(Box::new(job)));
    }
    let reader = app.services.reader(&caller.tenant).await?;
    let mut newest: Option<JobReport> = None;
    for report in app.services.tracker.reports(id).await? {
        if report.key.kind == JobKind::Compaction || !may_see(app, reader.as_ref(), &report).await? {
            continue;
        }
        if newest
            .as_ref()
            .is_none_or(|newest| newest.updated < report.updated)
        {
            newest = Some(report);
        }
    }
    newest
        .map(|report| Found::Tracked(Box::new(report)))
        .ok_or_else(|| ApiError::no_job(id.as_str()))
}

async fn may_see(app: &App, reader: Option<&TenantId>, report: &JobReport) -> ApiResult<bool> {
    if reader.is_none() {
        return Ok(true);
    }
    let Some(table) = &report.key.table else {
        return Ok(false);
    };
    let Some(info) = app.services.tables.by_id(table).await? else {
        return Ok(false);
    };
    // Who may read a shared table need not know where its rows come from.
    let settings = app.services.table_settings(&info)?;
    Ok(reader.is_some_and(|reader| reader.as_str() == settings.tenant()))
}

/// Shows a job of any kind.
#[utoipa::path(
    get,
    path = "/jobs/{job_id}",
    operation_id = "getJob",
    tag = "Jobs",
    params(("job_id" = String, Path, description = "The job.")),
    responses(
        (status = 200, description = "The job.", body = AnyJobView, headers(
            ("Retry-After" = u64, description = "When to look again, unless the job has ended."),
        )),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
    ),
)]
pub async fn read(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
) -> ApiResult<Response> {
    caller.require(Scope::BulkRead)?;
    let (view, is_terminal) = match found(&app, &caller, &id).await? {
        Found::Bulk(job) => (AnyJobView::from(&*job), job.state.is_terminal()),
        Found::Tracked(report) => (AnyJobView::from(&*report), report.status.is_final()),
    };
    let mut response = Json(view).into_response();
    look_again(&mut response, is_terminal);
    Ok(response)
}

/// Cancels a bulk job.
#[utoipa::path(
    delete,
    path = "/jobs/{job_id}",
    operation_id = "cancelJob",
    tag = "Jobs",
    params(("job_id" = String, Path, description = "The job.")),
    responses(
        (status = 200, description = "The job, which is cancelled.", body = AnyJobView),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The job has ended, or is of a kind that cannot be cancelled."),
    ),
)]
pub async fn cancel(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
) -> ApiResult<Json<AnyJobView>> {
    caller.require(Scope::BulkCancel)?;
    match found(&app, &caller, &id).await? {
        Found::Bulk(job) => {
            let job = abort(&app, &caller, &job.id).await?;
            Ok(Json(AnyJobView::from(&job)))
        }
        Found::Tracked(report) => {
            let message = format!(
                "Job {id} is an {} job, which cannot be cancelled",
                report.key.kind
            );
            Err(ApiError::conflict("not_cancellable", message))
        }
    }
}

/// Shows the result of a query or export.
#[utoipa::path(
    get,
    path = "/jobs/{job_id}/results",
    operation_id = "getJobResults",
    tag = "Jobs",
    params(
        ("job_id" = String, Path, description = "The job."),
        ("single_use" = Option<bool>, Query,
            description = "Whether links end when all bytes were read once. Not with S3, whose links cannot."),
        ("expires_in" = Option<u64>, Query, description = "After how many seconds links end."),
    ),
    responses(
        (status = 200, description = "Where the result is.", body = ResultsView),
        (status = 400, description = "A parameter is not valid, or the job is of a kind without results."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The job is not complete."),
        (status = 410, description = "The result is not kept any more."),
    ),
)]
pub async fn results(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
    uri: Uri,
) -> ApiResult<Json<ResultsView>> {
    caller.require(Scope::BulkRead)?;
    let terms = LinkTerms::read(&app, &uri)?;
    match found(&app, &caller, &id).await? {
        Found::Bulk(job) => results::view(&app, &job, &terms).await.map(Json),
        Found::Tracked(report) => exported(&app, &report, &terms).await.map(Json),
    }
}

async fn exported(app: &App, report: &JobReport, terms: &LinkTerms) -> ApiResult<ResultsView> {
    let id = &report.key.job;
    let (JobKind::Export, Some(table)) = (report.key.kind, &report.key.table) else {
        let message = format!("Job {id} is an {} job, which has no results", report.key.kind);
        return Err(ApiError::invalid("job_id", message));
    };
    if report.status != JobStatus::Finished {
        let message = format!("Job {id} is {} and has no result", report.status);
        let reason = if report.status.is_final() {
            "no_result"
        } else {
            "not_complete"
        };
        return Err(ApiError::conflict(reason, message).detail("state", report.status.as_str()));
    }
    let export = ExportId::new(id.as_str())?;
    let path = ExportPlan::manifest_path(table, &export);
    let stored = match app.services.exports.get(&path).await {
        Err(object_store::Error::NotFound { .. }) => return Err(results::gone(id.as_str())),
        stored => stored.map_err(dormouse_core::Error::from)?,
    };
    let bytes = stored.bytes().await.map_err(dormouse_core::Error::from)?;
    let manifest = Manifest::decode(&bytes)?;
    let until = terms.until(app, None);
    let prefix = path.as_ref().trim_end_matches("_manifest.json");
    let mut files = Vec::with_capacity(manifest.files.len().min(MAX_FILES));
    for file in manifest.files.iter().take(MAX_FILES) {
        let path = object_store::path::Path::from(format!("{prefix}{}", file.file));
        files.push(results::exported_file(app, terms, &path, (file.rows, file.bytes), until).await?);
    }
    let manifest_url = results::link(app, path.as_ref(), until.since(app.now())).await?;
    let download_url = match files.as_slice() {
        [file] => file.url.clone(),
        _ => manifest_url.clone(),
    };
    Ok(ResultsView {
        job_id: id.to_string(),
        download_url,
        expires_at: until.rfc3339_seconds(),
        format: "parquet".to_owned(),
        compression: "zstd".to_owned(),
        size_bytes: manifest.bytes,
        row_count: manifest.rows,
        sha256: None,
        columns: manifest.schema.columns().map(column).collect(),
        file_count: manifest.files.len() as u64,
        files,
        manifest_url: Some(manifest_url),
    })
}

fn column(column: &dormouse_core::schema::Column) -> ColumnView {
    ColumnView {
        name: column.name.clone(),
        type_name: format!("{:?}", column.data_type),
        nullable: column.nullable,
    }
}
