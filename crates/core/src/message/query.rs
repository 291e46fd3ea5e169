//! `query`: a bulk job that can be worked on.

use serde::{Deserialize, Serialize};

use super::parse_json;
use crate::{
    error::{Error, Result},
    ids::BulkJobId,
    tenants::TenantId,
};

/// A bulk job to run, if it still waits, or has lost its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryMessage {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The job.
    pub job_id: BulkJobId,
}

impl QueryMessage {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid`, with the field that is wrong.
    pub fn parse(body: &str) -> Result<Self> {
        parse_json(body)
    }

    /// The body.
    ///
    /// # Errors
    /// `Internal` when it cannot be written as JSON.
    pub fn to_body(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("a query message cannot be encoded").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_job_of_a_tenant() {
        let message = QueryMessage {
            tenant_id: TenantId::new("acme").unwrap(),
            job_id: BulkJobId::new("bulk-job-1").unwrap(),
        };
        let body = message.to_body().unwrap();
        assert_eq!(body, r#"{"tenantId":"acme","jobId":"bulk-job-1"}"#);
        assert_eq!(QueryMessage::parse(&body).unwrap(), message);
        let error = QueryMessage::parse(r#"{"tenantId":"acme"}"#).unwrap_err();
        assert!(error.report().contains("jobId"), "{}", error.report());
    }
}
