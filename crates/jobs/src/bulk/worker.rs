//! Works on the queue `query`.

use async_trait::async_trait;
use dormouse_core::{
    Result,
    bulk::{Claim, ClaimedBy},
    ids::RunId,
    message::QueryMessage,
    ports::{Delivery, QueueName},
};

use super::{
    after_end,
    run::{LEASE, Run},
};
use crate::{
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// Runs bulk jobs.
#[derive(Debug)]
pub struct QueryWorker {
    services: Services,
}

impl QueryWorker {
    /// A worker.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    async fn work(&self, delivery: &Delivery, run: &RunId) -> Result<()> {
        let services = &self.services;
        let QueryMessage { tenant_id, job_id } = QueryMessage::parse(&delivery.body)?;
        let by = ClaimedBy {
            run: run.clone(),
            message: delivery.message_id.clone(),
            attempt: delivery.attempt,
        };
        let most = services.settings.bulk_max_concurrent_jobs();
        match services.bulk.claim(&tenant_id, &job_id, &by, most, LEASE).await? {
            Claim::Begun(job) => Run::new(services, *job, run, delivery).work().await?,
            // Whoever frees a place, or finds the lease at its end, sends another message.
            Claim::Waits | Claim::Taken { .. } => return Ok(()),
            Claim::Nothing => {}
        }
        match services.bulk.get(&tenant_id, &job_id).await? {
            Some(job) if job.state.is_terminal() => after_end(services, &job).await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Handler for QueryWorker {
    fn queue(&self) -> QueueName {
        QueueName::Query
    }

    fn concurrency(&self) -> usize {
        self.services.settings.bulk_concurrency()
    }

    /// Bulk jobs are not in the tracker.
    async fn subject(&self, _body: &str, _message_id: &str) -> Result<Option<Subject>> {
        Ok(None)
    }

    async fn handle(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        self.work(delivery, run).await.map_err(JobFailure::from)
    }
}
