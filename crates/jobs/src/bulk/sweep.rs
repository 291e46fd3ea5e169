//! Schedule: do for bulk jobs what nobody is left to do.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dormouse_core::{
    ErrorKind, Result,
    bulk::{BulkFailure, BulkJob, BulkState, FailureCode},
    ports::QueueName,
    tenants::TenantId,
    time::Timestamp,
};

use super::{
    after_end, pins, results,
    run::{MAX_RUNS, too_late},
    send,
};
use crate::{audit, schedule::each, services::Services};

/// How often one process goes over the jobs that have ended.
const LOOK_PERIOD: Duration = Duration::from_secs(600);

/// With more messages waiting, workers are behind, and none is taken for lost.
const BACKLOG: u64 = 100;

/// When this process went over the jobs that have ended.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<Option<Timestamp>>);

impl Looked {
    /// Whether it is time again; if so, it is now.
    fn again(&self, now: Timestamp) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.since(last) >= LOOK_PERIOD || now < last);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// What is to be done for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Nothing,
    /// It may have lost its message, or its worker.
    Send,
    /// It was not started in time.
    Expire,
    /// It ran for too long.
    TimeOut,
    /// Too many runs have died.
    GiveUp,
    /// It has ended, and somebody died before its pins were given back.
    Release,
    /// Its results are too old.
    RemoveResults,
    /// It is too old itself.
    Delete,
}

/// How long things take and stay.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// How long a message may be on its way, and a worker late.
    patience: Duration,
    results: Duration,
    jobs: Duration,
}

impl Times {
    fn of(services: &Services) -> Self {
        Self {
            patience: services.settings.bulk_sweep_period(),
            results: services.settings.bulk_result_retention(),
            jobs: services.settings.bulk_job_retention(),
        }
    }
}

fn care(job: &BulkJob, is_ready: bool, now: Timestamp, times: Times) -> Care {
    let is_late = now >= job.deadline;
    match job.state {
        BulkState::Open | BulkState::UploadComplete if is_late => Care::Expire,
        BulkState::UploadComplete if is_ready && now.since(job.updated) > times.patience => Care::Send,
        BulkState::Open | BulkState::UploadComplete => Care::Nothing,
        BulkState::InProgress if is_late => Care::TimeOut,
        BulkState::InProgress => {
            let is_lost = |end| now.since(end) > times.patience;
            match &job.run {
                Some(run) if !is_lost(run.lease) => Care::Nothing,
                _ if job.runs >= MAX_RUNS => Care::GiveUp,
                _ => Care::Send,
            }
        }
        BulkState::JobComplete | BulkState::Failed | BulkState::Aborted => {
            let age = now.since(job.completed.unwrap_or(job.updated));
            if age > times.jobs {
                Care::Delete
            } else if age > times.results && !job.removed {
                Care::RemoveResults
            } else if !job.pins.is_empty() {
                Care::Release
            } else {
                Care::Nothing
            }
        }
    }
}

/// Looks after every tenant's jobs, once.
///
/// # Errors
/// Errors of the stores; a job that failed does not keep others from their turn.
pub async fn sweep(services: &Services) -> Result<()> {
    let tenants = services.tenants.list().await?;
    let mut tenants: BTreeSet<_> = tenants.into_iter().map(|tenant| tenant.id).collect();
    tenants.insert(TenantId::instance());
    let over_too = services.looked.again(services.ports.clock.now());
    each(tenants, async |tenant| {
        let going = going(services, &tenant).await;
        let over = match over_too {
            true => over(services, &tenant).await,
            false => Ok(()),
        };
        going.and(over)
    })
    .await
}

/// Looks after the jobs that have not ended.
async fn going(services: &Services, tenant: &TenantId) -> Result<()> {
    let queue = services.bulk.queue(tenant).await?;
    let ready = queue.ready(services.settings.bulk_max_concurrent_jobs());
    let all: Vec<_> = queue.all().map(|id| (id.clone(), ready.contains(id))).collect();
    each(all, async |(id, is_ready)| {
        match services.bulk.get(tenant, &id).await? {
            Some(job) => tend(services, job, is_ready).await,
            None => Ok(()),
        }
    })
    .await
}

/// Looks after those that have.
async fn over(services: &Services, tenant: &TenantId) -> Result<()> {
    let now = services.ports.clock.now();
    let mut after = None;
    let mut first = Ok(());
    loop {
        let page = services.bulk.oldest(tenant, now, after).await?;
        let jobs: Vec<_> = page
            .jobs
            .into_iter()
            .filter(|job| job.state.is_terminal())
            .collect();
        let tended = each(jobs, async |job| tend(services, job, false).await).await;
        first = first.and(tended);
        match page.next {
            Some(next) => after = Some(next),
            None => return first,
        }
    }
}

async fn tend(services: &Services, job: BulkJob, is_ready: bool) -> Result<()> {
    let (tenant, id) = (&job.tenant, &job.id);
    let done = match care(&job, is_ready, services.ports.clock.now(), Times::of(services)) {
        Care::Nothing => return Ok(()),
        Care::Send => {
            let waiting = services.queue(QueueName::Query)?.depth().await?.visible;
            return match waiting > BACKLOG {
                true => Ok(()),
                false => send(services, tenant, id).await,
            };
        }
        Care::Release => pins::release(services, &job).await,
        Care::RemoveResults => remove_results(services, &job).await,
        Care::Delete => super::forget(services, &job).await,
        Care::Expire => {
            let text = format!("the job was not started in time: that was until {}", job.deadline);
            let why = BulkFailure::new(FailureCode::JobExpired, text);
            ended(services, services.bulk.abort(tenant, id, Some(why))).await
        }
        Care::TimeOut => {
            let why = too_late(job.deadline);
            ended(services, services.bulk.fail(tenant, id, why)).await
        }
        Care::GiveUp => {
            let text = format!("the job has lost its worker in each of {MAX_RUNS} runs");
            let why = BulkFailure::new(FailureCode::InternalError, text);
            ended(services, services.bulk.fail(tenant, id, why)).await
        }
    };
    match done {
        // It has changed since it was read.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Ok(()),
        done => done,
    }
}

/// What comes after a job was ended here.
async fn ended(services: &Services, job: impl Future<Output = Result<BulkJob>>) -> Result<()> {
    let job = job.await?;
    audit::of_job(services, &job);
    after_end(services, &job).await
}

async fn remove_results(services: &Services, job: &BulkJob) -> Result<()> {
    pins::release(services, job).await?;
    let job = services.bulk.withdraw(job).await?;
    results::remove(services, &job).await?;
    services.bulk.note_removed(&job).await
}
