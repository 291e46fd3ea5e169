//! `/bulk/jobs/{job_id}/results`: what a job has written.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, Uri, header::RETRY_AFTER},
    response::Response,
};
use dormouse_core::{
    ErrorKind,
    bulk::{BulkJob, BulkResult, BulkState, job::LISTED_FILES},
    ports::{LinkMethod, WrittenFile, url_signer::MAX_LINK_LIFE},
    tenants::Scope,
    time::Timestamp,
};
use dormouse_jobs::bulk;
use object_store::path::Path;

use super::{bulk::LOOK_AGAIN_SECONDS, job::found};
use crate::{
    access::Caller,
    app::App,
    body::{BulkJobPath, Parameters},
    error::{ApiError, ApiResult, Code},
    gateway,
    wire::{
        job::{compression, content_type},
        query::ColumnView,
        results::{FileView, ResultsView},
    },
};

/// The most files that an answer lists. The manifest lists all.
pub(super) const MAX_FILES: usize = 1000;

/// Which links are asked for.
pub(super) struct LinkTerms {
    life: Duration,
    single_use: bool,
}

impl LinkTerms {
    /// Reads `expires_in` and `single_use`.
    pub(super) fn read(app: &App, uri: &Uri) -> ApiResult<Self> {
        let asked = Parameters::read(uri, &["single_use", "expires_in"])?;
        let seconds = asked.number("expires_in", 1..=MAX_LINK_LIFE.as_secs())?;
        let single_use = asked.flag("single_use")?.unwrap_or(false);
        if single_use && app.gateway.is_none() {
            let message = "Links of this object store cannot be for a single use";
            return Err(ApiError::invalid("single_use", message));
        }
        Ok(Self {
            life: seconds.map_or(app.services.settings.link_life(), Duration::from_secs),
            single_use,
        })
    }

    /// When links end that are signed now and are good until `kept` at most.
    pub(super) fn until(&self, app: &App, kept: Option<Timestamp>) -> Timestamp {
        let end = app.now().plus(self.life);
        kept.map_or(end, |kept| kept.min(end))
    }

    /// A link to an object in the bucket of exports.
    async fn link(&self, app: &App, path: &str, until: Timestamp) -> ApiResult<String> {
        let life = until.since(app.now());
        match (&app.gateway, self.single_use) {
            (Some(gateway), true) => {
                let path = stored_path(path)?;
                Ok(gateway.sign_single_use(&app.services.export_bucket(), &path, at_least_a_second(life))?)
            }
            _ => link(app, path, life).await,
        }
    }
}

fn at_least_a_second(life: Duration) -> Duration {
    life.clamp(Duration::from_secs(1), MAX_LINK_LIFE)
}

/// The path of an object as it is stored, which is not to be encoded again.
fn stored_path(path: &str) -> ApiResult<Path> {
    let wrong = |error| dormouse_core::Error::internal(format!("\"{path}\" is no path")).with_source(error);
    Ok(Path::parse(path).map_err(wrong)?)
}

/// A link to an object in the bucket of exports.
pub(super) async fn link(app: &App, path: &str, life: Duration) -> ApiResult<String> {
    let bucket = app.services.export_bucket();
    let path = stored_path(path)?;
    let life = at_least_a_second(life);
    Ok(app.signer.sign(LinkMethod::Get, &bucket, &path, life).await?)
}

/// Until when a job's result is kept; none when it has none.
pub(super) fn kept_until(app: &App, job: &BulkJob) -> Option<Timestamp> {
    let completed = job.result.as_ref().and(job.completed)?;
    Some(completed.plus(app.services.settings.bulk_result_retention()))
}

/// How long a link to a job's result is good for, unless somebody asks otherwise.
pub(super) fn life(app: &App, job: &BulkJob) -> Duration {
    let life = app.services.settings.link_life();
    kept_until(app, job).map_or(life, |kept| life.min(kept.since(app.now())))
}

/// The object that stands for a job's result: its file, or the manifest when there are several. None when it has no
/// result, or it is not kept any more.
pub(super) fn main_object(app: &App, job: &BulkJob) -> Option<String> {
    let is_kept = job.withdrawn.is_none() && kept_until(app, job).is_some_and(|kept| app.now() < kept);
    let result = job.result.as_ref().filter(|_| is_kept)?;
    Some(match result.files.as_slice() {
        [file] if result.file_count == 1 => file.path.clone(),
        _ => result.manifest.clone(),
    })
}

/// A job's result.
///
/// # Errors
/// `CONFLICT` when there is none yet, or none at all; `GONE` when it is not kept any more.
fn result<'a>(app: &App, job: &'a BulkJob) -> ApiResult<&'a BulkResult> {
    let Some(result) = job
        .result
        .as_ref()
        .filter(|_| job.state == BulkState::JobComplete)
    else {
        let message = format!("Job {} is {} and has no result", job.id, job.state);
        let reason = if job.state.is_terminal() {
            "no_result"
        } else {
            "not_complete"
        };
        let error = ApiError::conflict(reason, message).detail("state", job.state.as_str());
        let error = match job.state.is_terminal() {
            true => error,
            false => error.header(RETRY_AFTER, HeaderValue::from(LOOK_AGAIN_SECONDS)),
        };
        return Err(match &job.failure {
            Some(failure) => error.detail("job_error", failure.message.as_str()),
            None => error,
        });
    };
    match main_object(app, job) {
        Some(_) => Ok(result),
        None => Err(gone(job.id.as_str())),
    }
}

/// The result of a job is not kept any more.
pub(super) fn gone(id: &str) -> ApiError {
    ApiError::new(Code::Gone, format!("The result of job {id} is not kept any more"))
}

/// Shows the result of a bulk job.
#[utoipa::path(
    get,
    path = "/bulk/jobs/{job_id}/results",
    operation_id = "getBulkResults",
    tag = "Bulk jobs",
    params(
        ("job_id" = String, Path, description = "The job."),
        ("single_use" = Option<bool>, Query,
            description = "Whether links end when all bytes were read once. Not with S3, whose links cannot."),
        ("expires_in" = Option<u64>, Query, description = "After how many seconds links end."),
    ),
    responses(
        (status = 200, description = "Where the result is.", body = ResultsView),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The job is not complete."),
        (status = 410, description = "The result is not kept any more."),
    ),
)]
pub async fn read(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
    uri: Uri,
) -> ApiResult<Json<ResultsView>> {
    caller.require(Scope::BulkRead)?;
    let terms = LinkTerms::read(&app, &uri)?;
    let job = found(&app, &caller, &id).await?;
    view(&app, &job, &terms).await.map(Json)
}

/// The result of a bulk job as it is shown.
pub(super) async fn view(app: &App, job: &BulkJob, terms: &LinkTerms) -> ApiResult<ResultsView> {
    let result = result(app, job)?;
    let until = terms.until(app, kept_until(app, job));
    let listed = match result.file_count > LISTED_FILES as u64 {
        true => match bulk::manifest(&app.services, job).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone(job.id.as_str())),
            manifest => manifest?.files,
        },
        false => result.files.clone(),
    };
    let mut files = Vec::with_capacity(listed.len().min(MAX_FILES));
    for file in listed.iter().take(MAX_FILES) {
        files.push(file_view(app, job, file, terms, until).await?);
    }
    // The manifest is read again and again; the link to it stays for its time.
    let manifest_url = link(app, &result.manifest, until.since(app.now())).await?;
    let (download_url, sha256) = match files.as_slice() {
        [file] if result.file_count == 1 => (file.url.clone(), file.sha256.clone()),
        _ => (manifest_url.clone(), None),
    };
    Ok(ResultsView {
        job_id: job.id.to_string(),
        download_url,
        expires_at: until.rfc3339_seconds(),
        format: content_type(&job.format).to_lowercase(),
        compression: compression(&job.format).to_lowercase(),
        size_bytes: result.bytes,
        row_count: result.rows,
        sha256,
        columns: result.columns.iter().map(ColumnView::from).collect(),
        file_count: result.file_count,
        files,
        manifest_url: Some(manifest_url),
    })
}

async fn file_view(
    app: &App,
    job: &BulkJob,
    file: &WrittenFile,
    terms: &LinkTerms,
    until: Timestamp,
) -> ApiResult<FileView> {
    let below = format!("{}/", bulk::results_path(&app.services, job));
    Ok(FileView {
        name: file.path.strip_prefix(&below).unwrap_or(&file.path).to_owned(),
        url: terms.link(app, &file.path, until).await?,
        size_bytes: file.bytes,
        row_count: file.rows,
        sha256: Some(file.sha256.clone()),
    })
}

/// A file of an export of a table as it is shown.
pub(super) async fn exported_file(
    app: &App,
    terms: &LinkTerms,
    path: &Path,
    (rows, bytes): (u64, u64),
    until: Timestamp,
) -> ApiResult<FileView> {
    Ok(FileView {
        name: path.filename().unwrap_or_default().to_owned(),
        url: terms.link(app, path.as_ref(), until).await?,
        size_bytes: bytes,
        row_count: rows,
        sha256: None,
    })
}

/// Reads the result of a bulk job that has one file.
///
/// Ranges are answered with 206, as `Range` and `If-Range` have it.
#[utoipa::path(
    get,
    path = "/bulk/jobs/{job_id}/results/content",
    operation_id = "getBulkResultsContent",
    tag = "Bulk jobs",
    params(("job_id" = String, Path, description = "The job.")),
    responses(
        (status = 200, description = "The file.", content_type = "application/octet-stream"),
        (status = 206, description = "The bytes that were asked for.", content_type = "application/octet-stream"),
        (status = 304, description = "The client has the file."),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The job is not complete, or has several files."),
        (status = 410, description = "The result is not kept any more."),
        (status = 412, description = "The file is another version than the one that was asked for."),
        (status = 416, description = "The file has none of the bytes that were asked for."),
    ),
)]
pub async fn content(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
    request: Request,
) -> ApiResult<Response> {
    caller.require(Scope::BulkRead)?;
    Parameters::none(request.uri())?;
    let job = found(&app, &caller, &id).await?;
    let result = result(&app, &job)?;
    let [file] = result.files.as_slice() else {
        let message = format!(
            "Job {id} has {} files; its results have a link to each",
            result.file_count
        );
        return Err(ApiError::conflict("several_files", message));
    };
    let store = app.services.exports.clone();
    let path = stored_path(&file.path)?;
    let served = gateway::serve_object(store, path, request.method(), request.headers()).await;
    served.map_err(|error| match error.code() {
        Code::NotFound => gone(id.as_str()),
        _ => error,
    })
}

/// Answers for what only jobs have that bring rows.
pub async fn of_imports(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
) -> ApiResult<()> {
    caller.require(Scope::BulkRead)?;
    let job = found(&app, &caller, &id).await?;
    let message = format!(
        "Job {id} is a {} job: only jobs that bring rows have uploads and outcomes of single rows",
        job.operation.as_str()
    );
    Err(ApiError::invalid("job_id", message))
}
