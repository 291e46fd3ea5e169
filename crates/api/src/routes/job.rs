//! `/bulk/jobs/{job_id}`: one bulk job.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{ETAG, IF_NONE_MATCH, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use dormouse_core::{
    ErrorKind,
    bulk::{Admission, BulkJob},
    ids::BulkJobId,
    tenants::Scope,
};
use dormouse_jobs::bulk;

use super::{
    bulk::{LOOK_AGAIN_SECONDS, all_run},
    results,
};
use crate::{
    access::Caller,
    app::App,
    body::{BulkJobPath, JsonBody, Parameters},
    error::{ApiError, ApiResult},
    wire::{
        create::{PatchBody, TargetState},
        job::JobView,
    },
};

/// How often a job is looked at for a client that waits for a change.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Shows a bulk job.
#[utoipa::path(
    get,
    path = "/bulk/jobs/{job_id}",
    operation_id = "getBulkJob",
    tag = "Bulk jobs",
    params(
        ("job_id" = String, Path, description = "The job."),
        ("wait" = Option<String>, Query,
            description = "Answer when the job has come further, by a state or a percent, or after so many seconds, at most 60."),
        ("If-None-Match" = Option<String>, Header,
            description = "The `ETag` of an answer: 304 when the job is as it was then."),
    ),
    responses(
        (status = 200, description = "The job.", body = JobView, headers(
            ("ETag" = String, description = "Changes with the job."),
            ("Retry-After" = u64, description = "When to look again, unless the job has ended."),
        )),
        (status = 304, description = "The job has not changed."),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
    ),
)]
pub async fn read(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult {
    caller.require(Scope::BulkRead)?;
    let asked = Parameters::read(&uri, &["wait"])?;
    let wait = wait(&asked)?;
    let clock = &app.services.ports.clock;
    let until = app.now().plus(wait);
    let mut job = found(&app, &caller, &id).await?;
    let first = (job.state, job.progress.percent);
    let knows = !headers.contains_key(IF_NONE_MATCH) || is_known(&headers, &tag(&job));
    loop {
        let is_as_before = knows && (job.state, job.progress.percent) == first;
        let left = until.since(app.now());
        if job.state.is_terminal() || !is_as_before || left.is_zero() {
            break;
        }
        clock.sleep(left.min(LOOK_PERIOD)).await;
        job = found(&app, &caller, &id).await?;
    }
    let tag = tag(&job);
    let mut response = match is_known(&headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Json(view(&app, &job).await?).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    look_again(&mut response, job.state.is_terminal());
    Ok(response)
}

/// Tells when to look again at a job that has not ended.
pub(super) fn look_again(response: &mut Response, is_terminal: bool) {
    if !is_terminal {
        let seconds = HeaderValue::from(LOOK_AGAIN_SECONDS);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
}

fn wait(asked: &Parameters) -> ApiResult<Duration> {
    let Some(text) = asked.get("wait") else {
        return Ok(Duration::ZERO);
    };
    let digits = text.strip_suffix('s').unwrap_or(text);
    let is_number =
        !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.parse().ok().filter(|seconds| is_number && *seconds <= 60);
    let seconds = seconds
        .ok_or_else(|| ApiError::invalid("wait", "wait must be a time from 0s to 60s, such as 30s"))?;
    Ok(Duration::from_secs(seconds))
}

/// Changes with what a job shows. It is weak, as links are signed anew.
fn tag(job: &BulkJob) -> String {
    let (created, updated) = (job.created.as_millis(), job.updated.as_millis());
    format!("W/\"{created}-{updated}-{}\"", job.state)
}

/// Whether a client has the answer with this tag.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let given = headers.get_all(IF_NONE_MATCH).iter();
    let mut given = given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    given.any(|other| other.trim() == "*" || strong(other) == strong(tag))
}

/// Starts or cancels a bulk job.
///
/// A job that is started already, and one that is cancelled already, stay as they are.
#[utoipa::path(
    patch,
    path = "/bulk/jobs/{job_id}",
    operation_id = "changeBulkJob",
    tag = "Bulk jobs",
    params(("job_id" = String, Path, description = "The job.")),
    request_body = PatchBody,
    responses(
        (status = 200, description = "The job.", body = JobView),
        (status = 400, description = "The request is not valid."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The state of the job does not allow it."),
    ),
)]
pub async fn change(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
    request: Request,
) -> ApiResult<Json<JobView>> {
    let (parts, body) = request.into_parts();
    Parameters::none(&parts.uri)?;
    let limit = app.services.settings.api_body_bytes();
    let body = JsonBody::read(&parts.headers, body, limit).await?;
    let PatchBody { state } = body.parse()?;
    let job = match state {
        TargetState::UploadComplete => {
            caller.require(Scope::BulkCreate)?;
            let closed = bulk::close(&app.services, &caller.tenant, &id).await;
            match unless_refused(&app, &caller, &id, closed).await? {
                Admission::Admitted(job) => *job,
                Admission::Full { limit } | Admission::Busy { limit } => return Err(all_run(limit)),
            }
        }
        TargetState::Aborted => abort(&app, &caller, &id).await?,
    };
    Ok(Json(view(&app, &job).await?))
}

/// Cancels a job.
pub(super) async fn abort(app: &App, caller: &Caller, id: &BulkJobId) -> ApiResult<BulkJob> {
    caller.require(Scope::BulkCancel)?;
    let aborted = bulk::abort(&app.services, &caller.tenant, id).await;
    unless_refused(app, caller, id, aborted).await
}

/// Deletes a bulk job that has ended, and its result.
#[utoipa::path(
    delete,
    path = "/bulk/jobs/{job_id}",
    operation_id = "deleteBulkJob",
    tag = "Bulk jobs",
    params(("job_id" = String, Path, description = "The job.")),
    responses(
        (status = 204, description = "The job is deleted."),
        (status = 400, description = "A parameter is not valid."),
        (status = 404, description = "There is no such job."),
        (status = 409, description = "The job has not ended."),
    ),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    BulkJobPath(id): BulkJobPath,
    uri: Uri,
) -> ApiResult<StatusCode> {
    caller.require(Scope::BulkCancel)?;
    Parameters::none(&uri)?;
    let deleted = bulk::delete(&app.services, &caller.tenant, &id).await;
    unless_refused(&app, &caller, &id, deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a change of a job came to; with the job's state, when that does not allow it.
async fn unless_refused<T>(
    app: &App,
    caller: &Caller,
    id: &BulkJobId,
    changed: dormouse_core::Result<T>,
) -> ApiResult<T> {
    match changed {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ApiError::no_job(id.as_str())),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let job = found(app, caller, id).await?;
            Err(ApiError::conflict("illegal_transition", error.to_string())
                .detail("state", job.state.as_str()))
        }
        changed => Ok(changed?),
    }
}

/// The caller's job.
///
/// # Errors
/// `NOT_FOUND`, whether there is none or it is another tenant's.
pub(super) async fn found(app: &App, caller: &Caller, id: &BulkJobId) -> ApiResult<BulkJob> {
    let job = app.services.bulk.get(&caller.tenant, id).await?;
    job.ok_or_else(|| ApiError::no_job(id.as_str()))
}

/// A job as it is shown, with a link to its result.
pub(super) async fn view(app: &App, job: &BulkJob) -> ApiResult<JobView> {
    let kept = results::kept_until(app, job);
    let link = match results::main_object(app, job) {
        Some(path) => Some(results::link(app, &path, results::life(app, job)).await?),
        None => None,
    };
    Ok(JobView::new(job, app.now(), kept, link))
}
