//! Limits, health, and errors.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What a tenant may do, and has done.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsView {
    /// The tenant.
    pub tenant_id: String,
    /// What it may do.
    pub limits: Limits,
    /// What it has.
    pub usage: Usage,
}

/// What a tenant may do.
#[derive(Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Limits {
    pub query_max_rows: u64,
    pub query_max_bytes: u64,
    pub query_default_timeout_seconds: u64,
    pub query_max_timeout_seconds: u64,
    pub query_max_sql_bytes: u64,
    pub query_max_joins: u64,
    pub query_max_subqueries: u64,
    pub bulk_job_timeout_seconds: u64,
    pub bulk_max_concurrent_jobs: u64,
    pub bulk_max_open_jobs: u64,
    pub bulk_result_retention_seconds: u64,
    pub bulk_job_retention_seconds: u64,
    pub link_life_seconds: u64,
    pub request_max_body_bytes: u64,
    pub idempotency_ttl_seconds: u64,
    /// Requests a minute; null when rates are not limited.
    pub rates_per_minute: Option<Rates>,
}

/// How many requests a tenant may make in a minute.
#[derive(Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Rates {
    pub queries: u64,
    pub bulk_create: u64,
    pub bulk: u64,
    pub jobs: u64,
}

/// How many jobs of a tenant have not ended.
#[derive(Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Usage {
    pub jobs_open: u64,
    pub jobs_waiting: u64,
    pub jobs_running: u64,
}

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// `ok`.
    pub status: String,
}

/// Why a request is refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorPart,
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means in general.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// The same as `error.message`.
    pub detail: String,
    /// The path of the request.
    pub instance: String,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorPart {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// More, by code.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
}
