//! The audit: one log line for each query that was asked over HTTP, with target `audit`.
//!
//! It says whose the query is, its job, the query with what it holds left out, how it ended, how long it took and how
//! many rows it has.

use std::time::Duration;

use dormouse_core::{bulk::BulkJob, ports::QueryEngine, tenants::TenantId};

use crate::services::Services;

/// A query that has ended.
#[derive(Debug)]
pub struct Audit<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Its job; of a query that is answered at once, the id in the answer.
    pub job: &'a str,
    /// The query.
    pub sql: &'a str,
    /// How it ended: a status of HTTP, or the state of its job.
    pub status: &'a str,
    /// How long it took.
    pub took: Duration,
    /// How many rows it has; none when it has failed.
    pub rows: Option<u64>,
}

/// Writes the line of a bulk job that has ended.
pub(crate) fn of_job(services: &Services, job: &BulkJob) {
    Audit {
        tenant: &job.tenant,
        job: job.id.as_str(),
        sql: &job.query.sql,
        status: job.state.as_str(),
        took: job.updated.since(job.started.unwrap_or(job.updated)),
        rows: job.result.as_ref().map(|result| result.rows),
    }
    .log(services.ports.queries.as_ref());
}

impl Audit<'_> {
    /// Writes the line.
    pub fn log(&self, queries: &dyn QueryEngine) {
        tracing::info!(
            target: "audit",
            tenant = self.tenant.as_str(),
            job = self.job,
            sql = queries.masked(self.sql),
            status = self.status,
            ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            rows = self.rows,
            "query"
        );
    }
}
