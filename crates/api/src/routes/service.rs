//! The service itself: limits, health, metrics, the OpenAPI document, and pages for people.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    response::IntoResponse,
};
use dormouse_core::ports::MAX_SQL_BYTES;
use serde_json::{Value, json};

use crate::{
    access::Caller,
    app::App,
    error::{ApiError, ApiResult, Code},
    wire::service::{HealthView, Limits, LimitsView, Rates, Usage},
};

/// How long the item store has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows what a tenant may do, and what it has.
#[utoipa::path(
    get,
    path = "/limits",
    operation_id = "getLimits",
    tag = "Service",
    responses((status = 200, description = "The limits.", body = LimitsView)),
)]
pub async fn limits(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> ApiResult<Json<LimitsView>> {
    let settings = &app.services.settings;
    let queries = settings.query_limits();
    let queue = app.services.bulk.queue(&caller.tenant).await?;
    Ok(Json(LimitsView {
        tenant_id: caller.tenant.to_string(),
        limits: Limits {
            query_max_rows: settings.result_rows(),
            query_max_bytes: settings.result_bytes(),
            query_default_timeout_seconds: settings.query_timeout().as_secs(),
            query_max_timeout_seconds: settings.query_max_timeout().as_secs(),
            query_max_sql_bytes: MAX_SQL_BYTES as u64,
            query_max_joins: queries.joins as u64,
            query_max_subqueries: queries.subqueries as u64,
            bulk_job_timeout_seconds: settings.bulk_job_timeout().as_secs(),
            bulk_max_concurrent_jobs: settings.bulk_max_concurrent_jobs(),
            bulk_max_open_jobs: settings.bulk_max_open_jobs(),
            bulk_result_retention_seconds: settings.bulk_result_retention().as_secs(),
            bulk_job_retention_seconds: settings.bulk_job_retention().as_secs(),
            link_life_seconds: settings.link_life().as_secs(),
            request_max_body_bytes: settings.api_body_bytes(),
            idempotency_ttl_seconds: settings.idempotency_ttl().as_secs(),
            rates_per_minute: settings.rate_limits().then(|| Rates {
                queries: settings.rate_queries(),
                bulk_create: settings.rate_bulk_create(),
                bulk: settings.rate_bulk(),
                jobs: settings.rate_jobs(),
            }),
        },
        usage: Usage {
            jobs_open: queue.open.len() as u64,
            jobs_waiting: queue.waiting.len() as u64,
            jobs_running: queue.running.len() as u64,
        },
    }))
}

fn ok() -> Json<HealthView> {
    Json(HealthView {
        status: "ok".to_owned(),
    })
}

/// Tells that the server runs.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "getHealth",
    tag = "Service",
    responses((status = 200, description = "The server runs.", body = HealthView)),
)]
pub async fn health() -> Json<HealthView> {
    ok()
}

/// Tells whether the server can answer requests.
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "getReady",
    tag = "Service",
    responses(
        (status = 200, description = "It can.", body = HealthView),
        (status = 503, description = "It cannot: its store does not answer."),
    ),
)]
pub async fn ready(State(app): State<Arc<App>>) -> ApiResult<Json<HealthView>> {
    let answered = tokio::select! {
        biased;
        answered = app.services.tenants.is_closed() => answered.is_ok(),
        () = app.services.ports.clock.sleep(PATIENCE) => false,
    };
    match answered {
        true => Ok(ok()),
        false => Err(ApiError::later(
            Code::Unavailable,
            "The store does not answer",
            PATIENCE.as_secs(),
        )),
    }
}

/// Where to look.
pub async fn root() -> Json<Value> {
    Json(json!({
        "name": "Dormouse",
        "docs": "/docs",
        "openapi": "/openapi.json",
        "queries": "/v1/queries",
        "bulk_jobs": "/v1/bulk/jobs",
        "limits": "/limits",
        "health": "/health",
    }))
}

/// What is measured, for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse + use<> {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], app.metrics.render())
}

/// The OpenAPI document.
pub async fn openapi(State(app): State<Arc<App>>) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json")], app.document.clone())
}

/// The document for people. The page loads nothing from elsewhere.
pub async fn docs() -> impl IntoResponse {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    (
        [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, policy),
            (CACHE_CONTROL, "no-cache"),
        ],
        include_str!("docs.html"),
    )
}
