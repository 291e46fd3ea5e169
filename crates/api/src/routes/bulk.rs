//! `/bulk/jobs`: making bulk jobs.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::LOCATION},
    response::IntoResponse,
};
use dormouse_core::{
    ErrorKind,
    bulk::{Admission, BulkJob, NewBulkJob},
    tenants::Scope,
};
use dormouse_jobs::bulk;
use uuid::Uuid;

use super::{
    again::{Repeatable, Seed},
    job::view,
};
use crate::{
    access::Caller,
    app::App,
    body::{JsonBody, Parameters},
    error::{ApiError, ApiResult, Code},
    wire::{
        create::{CreateBody, JobRequest},
        job::{JobView, job_path},
    },
};

/// When a client looks again at a job that has not ended.
pub(super) const LOOK_AGAIN_SECONDS: u64 = 5;

/// Makes a bulk job.
///
/// The rows of its query are written to the object store, however many they are. The job waits until it is changed to
/// `UploadComplete`, unless `auto_start` is true. A query that cannot be answered makes a job all the same, which fails.
#[utoipa::path(
    post,
    path = "/bulk/jobs",
    operation_id = "createBulkJob",
    tag = "Bulk jobs",
    request_body = CreateBody,
    responses(
        (status = 201, description = "The job.", body = JobView,
            headers(("Location" = String, description = "Where the job is."))),
        (status = 400, description = "The request is not valid."),
        (status = 409, description = "There is a job with this id, or a request with the same idempotency key is \
                                      being answered."),
        (status = 422, description = "The idempotency key was used with another body."),
    ),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> ApiResult {
    make(&app, &caller, request, "POST /bulk/jobs", false).await
}

/// As [`create`], and the job starts unless the request says otherwise.
pub async fn create_started(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> ApiResult {
    make(&app, &caller, request, "POST /bulk", true).await
}

async fn make(app: &App, caller: &Caller, request: Request, route: &'static str, starts: bool) -> ApiResult {
    caller.require(Scope::BulkCreate)?;
    let (parts, body) = request.into_parts();
    Parameters::none(&parts.uri)?;
    let limit = app.services.settings.api_body_bytes();
    let body = JsonBody::read(&parts.headers, body, limit).await?;
    let repeatable = Repeatable {
        route,
        path: parts.uri.path(),
        headers: &parts.headers,
    };
    let answer = async |body: JsonBody, seed| {
        let job = made(app, caller, body.parse()?, seed, starts).await?;
        let location = job_path(job.id.as_str());
        let mut response = (StatusCode::CREATED, Json(view(app, &job).await?)).into_response();
        let location = HeaderValue::from_str(&location)
            .map_err(|_| ApiError::new(Code::InternalError, "The server has failed"))?;
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    };
    repeatable.answer(app, caller, body, answer).await
}

async fn made(app: &App, caller: &Caller, body: CreateBody, seed: Seed, starts: bool) -> ApiResult<BulkJob> {
    let services = &app.services;
    let mut request = JobRequest {
        id: seed.unwrap_or_else(|| services.ports.ids.uuid()),
        starts,
    };
    let has_own_id = body.job_id.is_some();
    let mut new = body.job(&caller.tenant, &request, &services.settings, app.now())?;
    while seed.is_some()
        && let Some(job) = services.bulk.get(&caller.tenant, &new.id).await?
    {
        if is_of(app, &job, &new) {
            return Ok(job);
        }
        if has_own_id {
            break;
        }
        // The key is used anew, as it is old enough. When this request comes again, it comes to the same id.
        request.id = Uuid::new_v5(&request.id, job.created.to_string().as_bytes());
        new.id = request.job_id()?;
        new.request = request.id.to_string();
    }
    match bulk::create(services, new.clone()).await {
        Ok(Admission::Admitted(job)) => Ok(*job),
        Ok(Admission::Full { limit }) => Err(full(
            "open_jobs",
            limit,
            format!("There are {limit} jobs that have not ended, and there may be no more"),
        )),
        Ok(Admission::Busy { limit }) => Err(all_run(limit)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let job = services.bulk.get(&caller.tenant, &new.id).await?;
            job.filter(|job| is_of(app, job, &new))
                .ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a job was made by the same request before it could be answered: the server died, or the client went away.
fn is_of(app: &App, job: &BulkJob, new: &NewBulkJob) -> bool {
    job.request == new.request && app.now().since(job.created) < app.services.settings.idempotency_ttl()
}

fn full(reason: &str, limit: u64, message: String) -> ApiError {
    let error = ApiError::later(Code::RateLimited, message, LOOK_AGAIN_SECONDS);
    error.detail("reason", reason).detail("limit", limit)
}

pub(super) fn all_run(limit: u64) -> ApiError {
    full(
        "concurrent_jobs",
        limit,
        format!("{limit} jobs run, and there may be no more at a time"),
    )
}
