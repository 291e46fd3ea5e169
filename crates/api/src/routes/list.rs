//! `/bulk/jobs`: listing bulk jobs.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::Uri};
use dormouse_core::{
    Error,
    bulk::{BulkFilter, BulkPage, BulkState},
    tenants::Scope,
};

use super::job::view;
use crate::{
    access::Caller,
    app::App,
    body::Parameters,
    cursor::List,
    error::{ApiError, ApiResult},
    wire::{create::OperationWord, job::JobList},
};

const DEFAULT_PAGE: u64 = 25;
const MAX_PAGE: u64 = 100;

/// Lists bulk jobs, the newest first.
///
/// Jobs that are made while pages are read are not in later pages; no job is in two.
#[utoipa::path(
    get,
    path = "/bulk/jobs",
    operation_id = "listBulkJobs",
    tag = "Bulk jobs",
    params(
        ("state" = Option<String>, Query, description = "Jobs in this state."),
        ("status" = Option<String>, Query, description = "Jobs with this status."),
        ("operation" = Option<String>, Query, description = "Jobs that do this."),
        ("object" = Option<String>, Query, description = "Jobs that are about this."),
        ("created_after" = Option<String>, Query, description = "Jobs that were made after this time."),
        ("limit" = Option<u64>, Query, description = "The most jobs of a page; 25 without it."),
        ("offset" = Option<String>, Query,
            description = "Where the page begins: `next_offset` of the one before. May be called `cursor` or \
                           `page_token` too."),
    ),
    responses(
        (status = 200, description = "The jobs.", body = JobList),
        (status = 400, description = "A parameter is not valid."),
    ),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> ApiResult<Json<JobList>> {
    caller.require(Scope::BulkRead)?;
    let asked = Parameters::read(
        &uri,
        &[
            "state",
            "status",
            "operation",
            "object",
            "created_after",
            "limit",
            "offset",
            "cursor",
            "page_token",
        ],
    )?;
    let limit = asked.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let filter = filter(&asked)?;
    let told = ["state", "status", "operation", "object", "created_after"];
    let mut list = vec![caller.tenant.as_str()];
    list.extend(told.map(|name| asked.get(name).unwrap_or_default()));
    let list = List::new(&app.secret, list);
    let given = ["offset", "cursor", "page_token"].map(|name| (name, asked.get(name)));
    let mut given = given.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let after = match (given.next(), given.next()) {
        (Some((name, text)), None) => Some(list.decode(text).ok_or_else(|| {
            ApiError::invalid(name, format!("{name} is no place in the list of these jobs"))
        })?),
        (None, _) => None,
        (Some(_), Some((name, _))) => {
            let message = "offset, cursor and page_token are one and the same: give one of them";
            return Err(ApiError::invalid(name, message));
        }
    };
    let page = match &filter {
        Some(filter) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let bulk = &app.services.bulk;
            bulk.list(&caller.tenant, filter, after, limit).await?
        }
        None => BulkPage {
            jobs: Vec::new(),
            next: None,
        },
    };
    let mut jobs = Vec::with_capacity(page.jobs.len());
    for job in &page.jobs {
        jobs.push(view(&app, job).await?);
    }
    Ok(Json(JobList {
        jobs,
        has_more: page.next.is_some(),
        next_offset: page.next.map(|place| list.encode(&place)),
    }))
}

/// What to list; none when no job can pass.
fn filter(asked: &Parameters) -> ApiResult<Option<BulkFilter>> {
    let mut states: Vec<BulkState> = BulkState::ALL.to_vec();
    if let Some(text) = asked.get("state") {
        let known = states
            .iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text));
        let state = match known {
            Some(state) => *state,
            None => text
                .parse()
                .map_err(|error: Error| ApiError::invalid("state", error.to_string()))?,
        };
        states.retain(|other| *other == state);
    }
    if let Some(text) = asked.get("status") {
        let known: Vec<_> = BulkState::ALL.iter().map(|state| state.status()).collect();
        let status = known.iter().find(|status| status.eq_ignore_ascii_case(text));
        let status = status.ok_or_else(|| {
            let message = "status must be PENDING, RUNNING, COMPLETED, FAILED or CANCELLED";
            ApiError::invalid("status", message)
        })?;
        states.retain(|state| state.status() == *status);
    }
    if let Some(text) = asked.get("operation")
        && OperationWord::parse(text).is_none()
    {
        return Err(ApiError::invalid("operation", "operation must be query"));
    }
    let created_after = asked.get("created_after").map(str::parse).transpose();
    let created_after =
        created_after.map_err(|error: Error| ApiError::invalid("created_after", error.to_string()))?;
    if states.is_empty() {
        return Ok(None);
    }
    Ok(Some(BulkFilter {
        states: if states.len() == BulkState::ALL.len() {
            Vec::new()
        } else {
            states
        },
        object: asked.get("object").map(str::to_owned),
        created_after,
    }))
}
