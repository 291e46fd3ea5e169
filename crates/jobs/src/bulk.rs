//! Queue `query`: bulk jobs, whose rows are written as objects.
//!
//! A tenant's jobs are made, closed and aborted here, as their states in [`dormouse_core::bulk`] allow. A job that is
//! closed waits for its turn, and a message says so ([`wake`]). A worker ([`worker`]) claims the job, which is refused
//! when it is not its turn; it need not wait with the message: whoever frees a place sends messages for the next.
//!
//! A run ([`run`]) pins the state of each table that its query names ([`pins`]), writes objects under names that are
//! its own below the job's path ([`results`]), then the manifest, and ends the job, which only the run that the job
//! names can do. While it writes, it reports how far it is, and thereby prolongs its lease; when the job is no longer
//! its own, or too old, it drops the write. After the end come the pins and the next jobs, in that order; a run that dies
//! before is delivered again, finds the job ended, and does what is left.
//!
//! The schedule ([`mod@sweep`]) does all that nobody is left to do: it sends messages that were lost, ends jobs that are
//! too old, and removes results and jobs when their time is over. Runs remove no objects.

pub mod pins;
pub mod results;
mod run;
pub mod sweep;
pub mod worker;

use dormouse_core::{
    Error, Result,
    bulk::{Admission, BulkJob, NewBulkJob},
    ids::BulkJobId,
    message::QueryMessage,
    ports::{Message, QueueName},
    tenants::TenantId,
};

use self::run::LEASE;
use crate::{audit, services::Services};

pub use pins::pinned_tables;
pub use results::{Manifest, manifest, results_path};
pub(crate) use sweep::Looked;
pub use sweep::sweep;
pub use worker::QueryWorker;

/// Makes a job, unless the tenant has as many that have not ended as it may have. Where jobs do not wait, one that starts
/// is not made while as many run as may.
///
/// # Errors
/// As [`BulkJobs::create`](dormouse_core::bulk::BulkJobs::create).
pub async fn create(services: &Services, new: NewBulkJob) -> Result<Admission> {
    let (settings, starts, tenant) = (&services.settings, new.starts, new.tenant.clone());
    let admission = services
        .bulk
        .create(new, settings.bulk_max_open_jobs(), busy(services))
        .await?;
    if starts && matches!(admission, Admission::Admitted(_)) {
        leave_to_sweep(wake(services, &tenant).await);
    }
    Ok(admission)
}

/// How many of a tenant's jobs may run or wait, where they do not wait longer than that.
fn busy(services: &Services) -> Option<u64> {
    let settings = &services.settings;
    (!settings.bulk_jobs_wait()).then(|| settings.bulk_max_concurrent_jobs())
}

/// Starts a job: it waits for its turn. Where jobs do not wait, it is not started while as many run as may. A job that
/// is started stays as it is.
///
/// # Errors
/// As [`BulkJobs::close`](dormouse_core::bulk::BulkJobs::close).
pub async fn close(services: &Services, tenant: &TenantId, id: &BulkJobId) -> Result<Admission> {
    let admission = services.bulk.close(tenant, id, busy(services)).await?;
    if matches!(admission, Admission::Admitted(_)) {
        leave_to_sweep(wake(services, tenant).await);
    }
    Ok(admission)
}

/// Aborts a job, whose run stops soon. One that is aborted stays as it is.
///
/// # Errors
/// As [`BulkJobs::abort`](dormouse_core::bulk::BulkJobs::abort).
pub async fn abort(services: &Services, tenant: &TenantId, id: &BulkJobId) -> Result<BulkJob> {
    let job = services.bulk.abort(tenant, id, None).await?;
    audit::of_job(services, &job);
    leave_to_sweep(after_end(services, &job).await);
    Ok(job)
}

/// Forgets a job that has ended, and removes its objects.
///
/// # Errors
/// `NotFound`; `Conflict` when it has not ended, or somebody else ended it and its run may still write; errors of the
/// stores.
pub async fn delete(services: &Services, tenant: &TenantId, id: &BulkJobId) -> Result<()> {
    let job = services.bulk.get(tenant, id).await?;
    let job = job.ok_or_else(|| Error::not_found(format!("there is no job {id}")))?;
    forget(services, &job).await
}

/// As [`delete`], of a job that was read: one that has its id since stays.
async fn forget(services: &Services, job: &BulkJob) -> Result<()> {
    job.check_ended()?;
    // Its run hears of the end at its next report: what it writes until then would stay behind.
    let safe = job.completed.map(|completed| completed.plus(LEASE));
    if job.left_running && safe.is_some_and(|safe| services.ports.clock.now() < safe) {
        return Err(Error::conflict(format!(
            "job {} was ended while it ran, and can be deleted {} s later",
            job.id,
            LEASE.as_secs()
        )));
    }
    let job = services.bulk.withdraw(job).await?;
    results::remove(services, &job).await?;
    pins::release(services, &job).await?;
    services.bulk.delete(&job).await
}

/// Sends a message for each of the tenant's jobs whose turn it is. A message too many does no harm.
///
/// # Errors
/// Errors of the item store and the queue.
pub async fn wake(services: &Services, tenant: &TenantId) -> Result<()> {
    let queue = services.bulk.queue(tenant).await?;
    let ready = queue.ready(services.settings.bulk_max_concurrent_jobs());
    for id in ready {
        send(services, tenant, id).await?;
    }
    Ok(())
}

async fn send(services: &Services, tenant: &TenantId, id: &BulkJobId) -> Result<()> {
    let message = QueryMessage {
        tenant_id: tenant.clone(),
        job_id: id.clone(),
    };
    let message = Message::new(message.to_body()?);
    services.queue(QueueName::Query)?.send(vec![message]).await?;
    Ok(())
}

/// What comes after the end of a job: its pins go, and the next jobs have their turn.
async fn after_end(services: &Services, job: &BulkJob) -> Result<()> {
    let released = pins::release(services, job).await;
    wake(services, &job.tenant).await?;
    released
}

/// A client's request has had its effect when only this is left to do.
fn leave_to_sweep(rest: Result<()>) {
    if let Err(error) = rest {
        tracing::warn!(error = error.report(), "left to the sweep of bulk jobs");
    }
}
