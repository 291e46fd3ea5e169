//! One attempt at a job.

use std::{sync::Arc, time::Duration};

use dormouse_core::{
    Error, ErrorKind, Result,
    bulk::{BulkFailure, BulkJob, FailureCode, JobEnd, JobProgress, JobRun},
    ids::RunId,
    ports::{Delivery, QueryOutput, QueryProgress, QuerySpec, QueueName, WrittenQuery},
    time::Timestamp,
};
use object_store::ObjectStoreExt;

use super::{
    pins::pinned_tables,
    results::{Manifest, data_name, manifest_path, results_path},
};
use crate::{audit, services::Services};

/// How long a run has its job after it was last heard of.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How often a run reports how far it is.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// How many runs of a job are begun. The last one does not leave the job to another.
pub(super) const MAX_RUNS: u32 = 10;

/// A run of a job that it has claimed.
pub(super) struct Run<'a> {
    services: &'a Services,
    job: BulkJob,
    id: &'a RunId,
    delivery: &'a Delivery,
}

/// Why a run stops before its rows are written.
enum Stop {
    /// The job is another run's, or has ended.
    Lost,
    /// No report was heard for as long as the lease.
    Unheard,
    /// The job is too old.
    Late,
}

impl<'a> Run<'a> {
    pub(super) fn new(services: &'a Services, job: BulkJob, id: &'a RunId, delivery: &'a Delivery) -> Self {
        Self {
            services,
            job,
            id,
            delivery,
        }
    }

    /// Takes the job to its end, or leaves it to a later run with an error that lets the message come again. Ok too when
    /// the job is no longer the run's.
    pub(super) async fn work(&self) -> Result<()> {
        let progress = Arc::new(QueryProgress::default());
        let done = if self.job.runs > MAX_RUNS {
            Err(Error::internal(format!("{MAX_RUNS} runs have come to no end")))
        } else if self.services.ports.clock.now() >= self.job.deadline {
            return self.end(&self.late()).await;
        } else {
            tokio::select! {
                biased;
                stop = self.keep(&progress) => match stop {
                    Stop::Lost => return Ok(()),
                    Stop::Unheard => Err(Error::unavailable("no report of the run was heard until its lease ended")),
                    Stop::Late => return self.end(&self.late()).await,
                },
                written = self.write(&progress) => written,
            }
        };
        let done = match done {
            Ok(end) => self.end(&end).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.fail(error).await,
        }
    }

    /// Reports how far the run is, again and again, until it has to stop.
    async fn keep(&self, progress: &QueryProgress) -> Stop {
        let (bulk, clock) = (&self.services.bulk, &self.services.ports.clock);
        let (tenant, id) = (&self.job.tenant, &self.job.id);
        let mut lease = clock.now().plus(LEASE);
        loop {
            clock.sleep(REPORT_PERIOD).await;
            let asked = clock.now();
            if asked >= self.job.deadline {
                return Stop::Late;
            }
            let report = bulk.report(tenant, id, self.id, so_far(progress), LEASE);
            let reported = tokio::select! {
                biased;
                reported = report => reported,
                () = clock.sleep(lease.since(asked)) => return Stop::Unheard,
            };
            match reported {
                Ok(_) => lease = asked.plus(LEASE),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                    return Stop::Lost;
                }
                Err(error) => {
                    tracing::warn!(job = %id, error = error.report(), "not reported");
                    if clock.now() >= lease {
                        return Stop::Unheard;
                    }
                }
            }
        }
    }

    /// Writes the rows and the manifest.
    async fn write(&self, progress: &Arc<QueryProgress>) -> Result<JobEnd> {
        let Some(run) = &self.job.run else {
            return Err(Error::internal(format!("job {} has no run", self.job.id)));
        };
        let written = self.query(run, progress).await?;
        // The transactions of the tables were noted since the job was claimed.
        let job = self.services.bulk.get(&self.job.tenant, &self.job.id).await?;
        let job = job.ok_or_else(|| Error::conflict(format!("job {} was deleted", self.job.id)))?;
        let manifest = Manifest::new(&job, written);
        let body = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| Error::internal("a manifest cannot be encoded").with_source(error))?;
        let path = manifest_path(self.services, &job, run);
        let stored = self.services.exports.put(&path, body.into()).await;
        stored.map_err(|error| Error::unavailable("the manifest cannot be written").with_source(error))?;
        Ok(JobEnd::Complete(manifest.result(&path)))
    }

    async fn query(&self, run: &JobRun, progress: &Arc<QueryProgress>) -> Result<WrittenQuery> {
        let services = self.services;
        let query = &self.job.query;
        let spec = QuerySpec {
            sql: query.sql.clone(),
            parameters: query.parameters.clone(),
            tables: Arc::new(pinned_tables(services, &self.job, self.id).await?),
            limits: services.settings.query_limits(),
        };
        let output = QueryOutput {
            store: services.exports.clone(),
            prefix: results_path(services, &self.job),
            name: data_name(run),
            format: self.job.format.clone(),
            generated_at: services.ports.clock.now(),
            progress: progress.clone(),
        };
        services.ports.queries.write(spec, output).await
    }

    /// Ends the job for what the error says, or leaves it to a later run.
    async fn fail(&self, error: Error) -> Result<()> {
        let last = self.delivery.attempt >= self.services.queue(QueueName::Query)?.settings().max_attempts
            || self.job.runs >= MAX_RUNS;
        let Some(failure) = failure(&error, last) else {
            match self
                .services
                .bulk
                .release(&self.job.tenant, &self.job.id, self.id)
                .await
            {
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
                Err(error) => tracing::warn!(job = %self.job.id, error = error.report(), "not released"),
                Ok(()) => {}
            }
            return Err(match error.kind() {
                // Bytes may have been damaged on their way.
                ErrorKind::Corrupt => Error::unavailable("the query is tried again").with_source(error),
                _ => error,
            });
        };
        self.end(&JobEnd::Failed(failure)).await
    }

    /// Ends the job, if it is still the run's.
    async fn end(&self, end: &JobEnd) -> Result<()> {
        let ended = self
            .services
            .bulk
            .finish(&self.job.tenant, &self.job.id, self.id, end);
        match ended.await {
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                tracing::info!(job = %self.job.id, run = %self.id, "run superseded");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(job) => {
                audit::of_job(self.services, &job);
                Ok(())
            }
        }
    }

    fn late(&self) -> JobEnd {
        JobEnd::Failed(too_late(self.job.deadline))
    }
}

/// The failure of a job that ran until its deadline.
pub(super) fn too_late(deadline: Timestamp) -> BulkFailure {
    let text = format!("the job was not complete at {deadline}, when its time was over");
    BulkFailure::new(FailureCode::JobTimeout, text)
}

/// How an error ends a job; none when a later run may do better.
fn failure(error: &Error, last: bool) -> Option<BulkFailure> {
    let (code, text) = match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::AlreadyExists => {
            return Some(BulkFailure::new(FailureCode::QueryError, error.report()));
        }
        _ if !last => return None,
        ErrorKind::Unavailable | ErrorKind::Corrupt => (FailureCode::StorageError, "the store has failed"),
        ErrorKind::Internal => (FailureCode::InternalError, "the server has failed"),
    };
    // Paths and addresses are for operators.
    tracing::error!(error = error.report(), "a bulk job has failed");
    Some(BulkFailure::new(
        code,
        format!("{text}, again and again; its log tells more"),
    ))
}

fn so_far(progress: &QueryProgress) -> JobProgress {
    let percent = (progress.rows_read().saturating_mul(100))
        .checked_div(progress.rows_to_read())
        .map(|percent| u8::try_from(percent.min(99)).unwrap_or(99));
    JobProgress {
        rows: progress.rows_written(),
        bytes: progress.bytes_written(),
        percent,
    }
}
