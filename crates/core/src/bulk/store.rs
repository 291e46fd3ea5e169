//! Finding and changing bulk jobs.

use std::{sync::Arc, time::Duration};

use super::{
    job::{BulkFailure, BulkJob, BulkResult, JobProgress, JobRun, NewBulkJob, at_place},
    queue::TenantQueue,
    state::BulkState,
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    ids::{BulkJobId, PinId, RunId, TableId},
    ports::{Clock, Condition, Ids, Item, ItemStore, Order, Range, Write},
    tenants::TenantId,
    time::Timestamp,
};

/// How often a change is tried again that met another one.
const MAX_ATTEMPTS: u32 = 20;

/// How many places of a list of jobs one query asks for.
const LIST_PAGE: usize = 100;

/// How many jobs are looked at for one page of a list.
const MAX_LOOKED_AT: usize = 1000;

/// Whether there was room for a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// There was.
    Admitted(Box<BulkJob>),
    /// The tenant has as many jobs that have not ended as it may have.
    Full {
        /// So many.
        limit: u64,
    },
    /// As many of the tenant's jobs wait or run as may.
    Busy {
        /// So many.
        limit: u64,
    },
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct BulkFilter {
    /// In one of these states; empty for all.
    pub states: Vec<BulkState>,
    /// About this, in the client's words.
    pub object: Option<String>,
    /// Made after this time.
    pub created_after: Option<Timestamp>,
}

/// Some jobs of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkPage {
    /// The jobs, the newest first.
    pub jobs: Vec<BulkJob>,
    /// The place after which the next page begins; none after the last job. A page may have fewer jobs than were asked
    /// for, or none, when many had to be passed over.
    pub next: Option<(Timestamp, BulkJobId)>,
}

/// What came of asking for a job to work on.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// The run has the job.
    Begun(Box<BulkJob>),
    /// It is not its turn.
    Waits,
    /// Another run has it, and may have it until then.
    Taken {
        /// The end of its lease.
        until: Timestamp,
    },
    /// There is nothing to do: the job has ended, is not started, or is not there.
    Nothing,
}

/// How a run ends its job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEnd {
    /// The result is there.
    Complete(BulkResult),
    /// There will be none.
    Failed(BulkFailure),
}

/// Which delivery of a message a run works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedBy {
    /// The run.
    pub run: RunId,
    /// The message.
    pub message: String,
    /// Which delivery of it.
    pub attempt: u32,
}

/// Finds and changes bulk jobs.
#[derive(Clone, Debug)]
pub struct BulkJobs {
    items: Arc<dyn ItemStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// What a change makes of a job.
enum Change<T> {
    /// Nothing.
    None(T),
    /// It is stored, and the tenant's queue with it when its state is another one.
    Write(T),
}

impl BulkJobs {
    /// The jobs in these items.
    pub fn new(items: Arc<dyn ItemStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { items, clock, ids }
    }

    /// Makes a job, unless the tenant has `limit` that have not ended. With `most_active`, one that starts is not made
    /// when as many wait or run.
    ///
    /// # Errors
    /// `AlreadyExists` when the tenant has a job with this id; `Invalid` when it is too large to be stored; errors of
    /// the item store.
    pub async fn create(&self, new: NewBulkJob, limit: u64, most_active: Option<u64>) -> Result<Admission> {
        let most_active = most_active.filter(|_| new.starts);
        let job = BulkJob::new(new, self.clock.now())?;
        for attempt in 0..MAX_ATTEMPTS {
            self.pause(attempt).await;
            let mut queue = self.queue(&job.tenant).await?;
            if queue.len() as u64 >= limit {
                return Ok(Admission::Full { limit });
            }
            if let Some(limit) = most_active.filter(|limit| queue.active() >= *limit) {
                return Ok(Admission::Busy { limit });
            }
            queue.place(&job.id, job.state);
            let writes = vec![
                Write::Put {
                    item: job.item()?,
                    condition: Condition::NotExists,
                },
                Write::Put {
                    item: Item::new(job.time_key()),
                    condition: Condition::None,
                },
                queue.write(&job.tenant)?,
            ];
            let Err(error) = self.items.transact(writes).await else {
                return Ok(Admission::Admitted(Box::new(job)));
            };
            match self.get(&job.tenant, &job.id).await? {
                // The answer was lost, and not the job.
                Some(stored) if stored.is_same(&job) => return Ok(Admission::Admitted(Box::new(stored))),
                Some(_) => {
                    return Err(Error::already_exists(format!(
                        "there is a job {} already",
                        job.id
                    )));
                }
                None if error.kind() == ErrorKind::Conflict => {}
                None => return Err(error),
            }
        }
        Err(busy(&job.tenant))
    }

    /// The tenant's job with this id.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn get(&self, tenant: &TenantId, id: &BulkJobId) -> Result<Option<BulkJob>> {
        let item = self.items.get(&BulkJob::key(tenant, id)).await?;
        item.as_ref().map(BulkJob::from_item).transpose()
    }

    /// The tenant's jobs that have not ended.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn queue(&self, tenant: &TenantId) -> Result<TenantQueue> {
        let item = self.items.get(&TenantQueue::key(tenant)).await?;
        TenantQueue::from_item(item.as_ref())
    }

    /// Starts a job: it waits for its turn. With `limit`, it is not started when as many wait or run. A job that is
    /// started stays as it is.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the job has ended; errors of the item store.
    pub async fn close(&self, tenant: &TenantId, id: &BulkJobId, limit: Option<u64>) -> Result<Admission> {
        let closed = self.change(tenant, id, |job, queue, now| {
            if matches!(job.state, BulkState::UploadComplete | BulkState::InProgress) {
                return Ok(Change::None(None));
            }
            if let Some(limit) = limit.filter(|limit| queue.active() >= *limit) {
                return Ok(Change::None(Some(limit)));
            }
            job.become_state(BulkState::UploadComplete, now)?;
            Ok(Change::Write(None))
        });
        Ok(match closed.await? {
            (_, Some(limit)) => Admission::Busy { limit },
            (job, None) => Admission::Admitted(Box::new(job)),
        })
    }

    /// Aborts a job. One that is aborted stays as it is.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the job has ended otherwise; errors of the item store.
    pub async fn abort(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        why: Option<BulkFailure>,
    ) -> Result<BulkJob> {
        let aborted = self.change(tenant, id, |job, _, now| {
            if job.state == BulkState::Aborted {
                return Ok(Change::None(()));
            }
            job.become_state(BulkState::Aborted, now)?;
            job.failure.clone_from(&why);
            Ok(Change::Write(()))
        });
        aborted.await.map(|(job, ())| job)
    }

    /// Asks for a job to work on, when `most` of the tenant's may run at a time. The run has it for `lease`.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn claim(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        by: &ClaimedBy,
        most: u64,
        lease: Duration,
    ) -> Result<Claim> {
        let claimed = self.change(tenant, id, |job, queue, now| {
            match job.state {
                BulkState::UploadComplete if !queue.ready(most).contains(id) => {
                    return Ok(Change::None(Some(Claim::Waits)));
                }
                BulkState::UploadComplete => job.become_state(BulkState::InProgress, now)?,
                BulkState::InProgress => {
                    if let Some(run) = &job.run
                        && now < run.lease
                        && !(run.message == by.message && run.attempt <= by.attempt)
                    {
                        return Ok(Change::None(Some(Claim::Taken { until: run.lease })));
                    }
                }
                _ => return Ok(Change::None(Some(Claim::Nothing))),
            }
            job.runs += 1;
            job.run = Some(JobRun {
                id: by.run.clone(),
                number: job.runs,
                message: by.message.clone(),
                attempt: by.attempt,
                lease: now.plus(lease),
            });
            Ok(Change::Write(None))
        });
        match claimed.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Claim::Nothing),
            Err(error) => Err(error),
            Ok((_, Some(refused))) => Ok(refused),
            Ok((job, None)) => Ok(Claim::Begun(Box::new(job))),
        }
    }

    /// Tells how far a run is, and prolongs its lease.
    ///
    /// # Errors
    /// `Conflict` when the job is not the run's any more; errors of the item store.
    pub async fn report(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        run: &RunId,
        progress: JobProgress,
        lease: Duration,
    ) -> Result<BulkJob> {
        let reported = self.change(tenant, id, |job, _, now| {
            own_run(job, run)?.lease = now.plus(lease);
            let progress = job.progress.max(progress);
            if progress != job.progress {
                job.progress = progress;
                job.updated = now;
            }
            Ok(Change::Write(()))
        });
        reported.await.map(|(job, ())| job)
    }

    /// Gives a job back that a run cannot go on with now: another may have it at once.
    ///
    /// # Errors
    /// As [`BulkJobs::report`].
    pub async fn release(&self, tenant: &TenantId, id: &BulkJobId, run: &RunId) -> Result<()> {
        let released = self.change(tenant, id, |job, _, now| {
            own_run(job, run)?.lease = now;
            Ok(Change::Write(()))
        });
        released.await.map(drop)
    }

    /// Notes that a run reads a table at a transaction, under a pin that it is about to take.
    ///
    /// # Errors
    /// As [`BulkJobs::report`].
    pub async fn note_pin(
        &self,
        job: (&TenantId, &BulkJobId),
        run: &RunId,
        pin: (&TableId, &PinId),
        table: (&str, u64),
    ) -> Result<()> {
        let noted = self.change(job.0, job.1, |job, _, now| {
            own_run(job, run)?;
            job.updated = now;
            let pin = (pin.0.clone(), pin.1.clone());
            if !job.pins.contains(&pin) {
                job.pins.push(pin);
            }
            job.snapshot.insert(table.0.to_owned(), table.1);
            Ok(Change::Write(()))
        });
        noted.await.map(drop)
    }

    /// Notes that pins of a job are given back.
    ///
    /// # Errors
    /// `NotFound`; errors of the item store.
    pub async fn forget_pins(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        pins: &[(TableId, PinId)],
    ) -> Result<()> {
        let forgotten = self.change(tenant, id, |job, _, _| {
            let before = job.pins.len();
            job.pins.retain(|pin| !pins.contains(pin));
            Ok(match job.pins.len() < before {
                true => Change::Write(()),
                false => Change::None(()),
            })
        });
        forgotten.await.map(drop)
    }

    /// Gives nobody the result of a job any more, before its objects are removed. Answers with the job as it is then.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has not ended, or is another one that has its id since; errors of the item store.
    pub async fn withdraw(&self, read: &BulkJob) -> Result<BulkJob> {
        let withdrawn = self.change(&read.tenant, &read.id, |job, _, now| {
            check_same(job, read)?;
            job.check_ended()?;
            if job.withdrawn.is_some() {
                return Ok(Change::None(()));
            }
            job.withdrawn = Some(now);
            job.updated = now;
            Ok(Change::Write(()))
        });
        withdrawn.await.map(|(job, ())| job)
    }

    /// Notes that the objects of a job are gone whose result was withdrawn.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it was not withdrawn, or is another one that has its id since; errors of the item store.
    pub async fn note_removed(&self, read: &BulkJob) -> Result<()> {
        let noted = self.change(&read.tenant, &read.id, |job, _, _| {
            check_same(job, read)?;
            if job.withdrawn.is_none() {
                return Err(Error::conflict(format!(
                    "the result of job {} was not withdrawn",
                    job.id
                )));
            }
            job.removed = true;
            Ok(Change::Write(()))
        });
        noted.await.map(drop)
    }

    /// Ends a job by its run.
    ///
    /// # Errors
    /// `Conflict` when the job is not the run's any more; errors of the item store.
    pub async fn finish(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        run: &RunId,
        end: &JobEnd,
    ) -> Result<BulkJob> {
        let finished = self.change(tenant, id, |job, _, now| {
            own_run(job, run)?;
            job.run = None;
            self.end(job, end, now)?;
            Ok(Change::Write(()))
        });
        finished.await.map(|(job, ())| job)
    }

    /// Fails a job that is in progress, whichever run has it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the job is not in progress; errors of the item store.
    pub async fn fail(&self, tenant: &TenantId, id: &BulkJobId, why: BulkFailure) -> Result<BulkJob> {
        let end = JobEnd::Failed(why);
        let failed = self.change(tenant, id, |job, _, now| {
            self.end(job, &end, now)?;
            Ok(Change::Write(()))
        });
        failed.await.map(|(job, ())| job)
    }

    fn end(&self, job: &mut BulkJob, end: &JobEnd, now: Timestamp) -> Result<()> {
        match end {
            JobEnd::Complete(result) => {
                job.become_state(BulkState::JobComplete, now)?;
                job.progress = JobProgress {
                    rows: result.rows,
                    bytes: result.bytes,
                    percent: Some(100),
                };
                job.result = Some(result.clone());
            }
            JobEnd::Failed(failure) => {
                job.become_state(BulkState::Failed, now)?;
                job.failure = Some(failure.clone());
            }
        }
        Ok(())
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has not ended, or is another one that was made since `job` was read; errors of the
    /// item store.
    pub async fn delete(&self, job: &BulkJob) -> Result<()> {
        let (tenant, id) = (&job.tenant, &job.id);
        let stored = self.get(tenant, id).await?.ok_or_else(|| absent(id))?;
        check_same(&stored, job)?;
        stored.check_ended()?;
        self.items
            .transact(vec![
                Write::Delete {
                    key: job.time_key(),
                    condition: Condition::None,
                },
                Write::Delete {
                    key: BulkJob::key(tenant, id),
                    condition: Condition::equals("version", stored.version),
                },
            ])
            .await
    }

    /// A tenant's jobs, the newest first: at most `limit`, after a place in the list.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn list(
        &self,
        tenant: &TenantId,
        filter: &BulkFilter,
        after: Option<(Timestamp, BulkJobId)>,
        limit: usize,
    ) -> Result<BulkPage> {
        let mut jobs: Vec<BulkJob> = Vec::new();
        let mut looked_at = 0;
        let mut range = match &after {
            Some((created, id)) => Range::before(super::job::place(*created, id)),
            None => Range::all(),
        };
        loop {
            let page = self
                .items
                .query(
                    Collection::BulkJobTimes,
                    tenant.as_str(),
                    range,
                    LIST_PAGE,
                    Order::Descending,
                )
                .await?;
            for some in page.chunks(limit.saturating_add(1).min(LIST_PAGE)) {
                for (created, job) in self.jobs_at(tenant, some).await? {
                    if filter.created_after.is_some_and(|after| created <= after) {
                        return Ok(BulkPage { jobs, next: None });
                    }
                    let Some(job) = job else { continue };
                    let wanted = filter.states.is_empty() || filter.states.contains(&job.state);
                    if !wanted || (filter.object.is_some() && filter.object != job.object) {
                        continue;
                    }
                    if jobs.len() == limit {
                        let next = jobs.last().map(|job| (job.created, job.id.clone()));
                        return Ok(BulkPage { jobs, next });
                    }
                    jobs.push(job);
                }
            }
            looked_at += page.len();
            match page.last() {
                Some(item) if page.len() == LIST_PAGE && looked_at >= MAX_LOOKED_AT => {
                    let next = Some(at_place(&item.key.sort)?);
                    return Ok(BulkPage { jobs, next });
                }
                Some(item) if page.len() == LIST_PAGE => range = Range::before(item.key.sort.clone()),
                _ => return Ok(BulkPage { jobs, next: None }),
            }
        }
    }

    /// A tenant's jobs, the oldest first, that were made before `time`: those after a place in the list, at most so
    /// many as one query gives. Jobs that are gone are left out.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn oldest(
        &self,
        tenant: &TenantId,
        time: Timestamp,
        after: Option<(Timestamp, BulkJobId)>,
    ) -> Result<BulkPage> {
        let mut range = match &after {
            Some((created, id)) => Range::after(super::job::place(*created, id)),
            None => Range::all(),
        };
        range.end = Range::before(format!("{:013}|", time.as_millis().max(0))).end;
        let page = self
            .items
            .query(
                Collection::BulkJobTimes,
                tenant.as_str(),
                range,
                LIST_PAGE,
                Order::Ascending,
            )
            .await?;
        let mut jobs = Vec::with_capacity(page.len());
        for (item, (_, job)) in page.iter().zip(self.jobs_at(tenant, &page).await?) {
            match job {
                Some(job) => jobs.push(job),
                // Its job was deleted by a transaction that removed this place too, or never made.
                None => self.items.delete(item.key.clone(), Condition::None).await?,
            }
        }
        let next = match page.last() {
            Some(item) if page.len() == LIST_PAGE => Some(at_place(&item.key.sort)?),
            _ => None,
        };
        Ok(BulkPage { jobs, next })
    }

    /// When the jobs at places of a list were made, and those of them that are there.
    async fn jobs_at(&self, tenant: &TenantId, places: &[Item]) -> Result<Vec<(Timestamp, Option<BulkJob>)>> {
        let places = places
            .iter()
            .map(|item| at_place(&item.key.sort))
            .collect::<Result<Vec<_>>>()?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = places.iter().map(|(_, id)| BulkJob::key(tenant, id)).collect();
        let items = self.items.get_all(&keys).await?;
        places
            .into_iter()
            .zip(&items)
            .map(|((created, _), item)| Ok((created, item.as_ref().map(BulkJob::from_item).transpose()?)))
            .collect()
    }

    async fn pause(&self, attempt: u32) {
        if attempt > 0 {
            let ceiling = Duration::from_millis(5 << attempt.min(7));
            self.clock.sleep(self.ids.jitter(ceiling)).await;
        }
    }

    /// Changes a job, and its tenant's queue with it. Answers with the job as it is stored then.
    async fn change<T>(
        &self,
        tenant: &TenantId,
        id: &BulkJobId,
        change: impl Fn(&mut BulkJob, &TenantQueue, Timestamp) -> Result<Change<T>>,
    ) -> Result<(BulkJob, T)> {
        for attempt in 0..MAX_ATTEMPTS {
            self.pause(attempt).await;
            let mut queue = self.queue(tenant).await?;
            let old = self.get(tenant, id).await?.ok_or_else(|| absent(id))?;
            let mut new = old.clone();
            let answer = match change(&mut new, &queue, self.clock.now())? {
                Change::None(answer) => return Ok((old, answer)),
                Change::Write(answer) => answer,
            };
            new.version += 1;
            let mut writes = vec![Write::Put {
                item: new.item()?,
                condition: Condition::equals("version", old.version),
            }];
            if new.state != old.state {
                queue.place(id, new.state);
                writes.push(queue.write(tenant)?);
            }
            let Err(error) = self.items.transact(writes).await else {
                return Ok((new, answer));
            };
            // The answer may have been lost, and not the change.
            if self.get(tenant, id).await?.as_ref() == Some(&new) {
                return Ok((new, answer));
            }
            if error.kind() != ErrorKind::Conflict {
                return Err(error);
            }
        }
        Err(busy(tenant))
    }
}

/// The run of a job, if it is this one.
fn own_run<'a>(job: &'a mut BulkJob, run: &RunId) -> Result<&'a mut JobRun> {
    let (id, state) = (job.id.clone(), job.state);
    job.run
        .as_mut()
        .filter(|current| current.id == *run)
        .ok_or_else(|| Error::conflict(format!("job {id} is {state}, and not this run's any more")))
}

fn check_same(job: &BulkJob, read: &BulkJob) -> Result<()> {
    match job.is_same(read) {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "job {} was deleted, and made anew",
            job.id
        ))),
    }
}

fn absent(id: &BulkJobId) -> Error {
    Error::not_found(format!("there is no job {id}"))
}

fn busy(tenant: &TenantId) -> Error {
    Error::unavailable(format!(
        "jobs of tenant {tenant} are being changed by others; try again"
    ))
}
