//! The list of jobs: a place for each in the order of time, and reports that are looked up from there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    event::{JobKey, JobStatus},
    report::JobReport,
    store::{Tracker, decode, status_key, table_text},
};
use crate::{
    collections::Collection,
    error::{Error, Result},
    ids::{JobId, JobKind, TableId},
    ports::{Item, ItemKey, Order, Range, Sort},
    time::Timestamp,
};

/// How many places of a list of jobs one query asks for.
const LIST_PAGE: usize = 200;

/// How many reports of a list are read together, at most.
const LIST_READ: usize = 100;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of this workflow.
    pub kind: Option<JobKind>,
    /// Of the table with this id.
    pub table: Option<TableId>,
    /// With this status.
    pub status: Option<JobStatus>,
    /// First heard of at or after this time.
    pub since: Option<Timestamp>,
    /// First heard of before this time.
    pub until: Option<Timestamp>,
}

/// A place in a list of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobCursor(String);

impl JobCursor {
    /// The place that a text names, as a page wrote it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn at(&self) -> Result<Timestamp> {
        let millis = self.0.split('|').next().and_then(|millis| millis.parse().ok());
        millis.map(Timestamp::from_millis).ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is no place in a list of jobs",
                self.0.escape_debug()
            ))
        })
    }
}

/// Some jobs of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs, the newest first.
    pub jobs: Vec<JobReport>,
    /// Where the next page begins; none after the last job.
    pub next: Option<JobCursor>,
}

/// The place in the list of a job that was first heard of at a time, and what it is called.
pub(super) fn place(key: &JobKey, at: Timestamp, expires: Timestamp) -> (String, Item) {
    let table = table_text(key.table.as_ref());
    let listed = format!("{:013}|{}|{}|{table}", at.as_millis().max(0), key.job, key.kind);
    let item = Item::new(ItemKey::new(Collection::JobTimes, at.day(), listed.as_str()))
        .with("jobId", key.job.as_str())
        .with("kind", key.kind.as_str())
        .with("tableId", table)
        .expiring(expires);
    (listed, item)
}

/// A place in the list of jobs, and the job that it was made for.
struct Place {
    text: String,
    job: JobKey,
}

impl Place {
    /// The place that an item is, if its job may pass the filter.
    fn of(item: &Item, filter: &JobFilter) -> Result<Option<Self>> {
        let Sort::Text(text) = &item.key.sort else {
            return Ok(None);
        };
        let kind: JobKind = item.text("kind")?.parse()?;
        let table = Some(item.text("tableId")?)
            .filter(|id| *id != "-")
            .map(TableId::new)
            .transpose()?;
        let fits = filter.kind.is_none_or(|wanted| wanted == kind)
            && filter
                .table
                .as_ref()
                .is_none_or(|wanted| Some(wanted) == table.as_ref());
        if !fits {
            return Ok(None);
        }
        let job = JobKey {
            kind,
            table,
            job: JobId::new(item.text("jobId")?)?,
        };
        let text = text.clone();
        Ok(Some(Self { text, job }))
    }

    /// The job's report, if it has this place and passes the filter. A job that was forgotten and came back has a
    /// second place, and one whose first report was not written.
    fn job_in(&self, stored: &Item, filter: &JobFilter) -> Result<Option<JobReport>> {
        if stored.text("listed")? != self.text {
            return Ok(None);
        }
        let report = decode(stored)?;
        let fits = filter.status.is_none_or(|status| report.status == status)
            && filter.since.is_none_or(|since| report.created >= since)
            && filter.until.is_none_or(|until| report.created < until);
        Ok(fits.then_some(report))
    }
}

impl Tracker {
    /// Up to `limit` jobs that pass the filter, the newest first.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn list(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobReport>> {
        Ok(self.list_after(filter, None, limit).await?.jobs)
    }

    /// A page of the jobs that pass the filter, the newest first, beginning after `cursor`.
    ///
    /// Jobs that come while pages are read are not in later pages; no job is in two.
    ///
    /// # Errors
    /// `Invalid` for a cursor that no page gave; errors of the item store.
    pub async fn list_after(
        &self,
        filter: &JobFilter,
        cursor: Option<&JobCursor>,
        limit: usize,
    ) -> Result<JobPage> {
        let now = self.clock.now();
        let oldest_kept = now.minus(self.retention.saturating_mul(2) + DAY);
        let oldest = filter.since.map_or(oldest_kept, |since| since.max(oldest_kept));
        // A reporter's clock may be ahead of this one.
        let newest = now.plus(DAY);
        let (mut at, mut range) = match cursor {
            // From a place in the far future it is a long way back, day by day.
            Some(cursor) => (cursor.at()?.min(newest), Range::before(cursor.0.as_str())),
            None => (
                filter.until.map_or(newest, |until| until.min(newest)),
                Range::all(),
            ),
        };
        let mut jobs = Vec::new();
        loop {
            let partition = at.day();
            loop {
                let page = self
                    .items
                    .query(
                        Collection::JobTimes,
                        &partition,
                        range,
                        LIST_PAGE,
                        Order::Descending,
                    )
                    .await?;
                let mut places = page.iter().filter_map(|item| Place::of(item, filter).transpose());
                loop {
                    let wanted = limit.saturating_sub(jobs.len()).clamp(1, LIST_READ);
                    let some = places.by_ref().take(wanted).collect::<Result<Vec<_>>>()?;
                    if some.is_empty() {
                        break;
                    }
                    let keys: Vec<_> = some.iter().map(|place| status_key(&place.job)).collect();
                    for (place, stored) in some.into_iter().zip(self.items.get_all(&keys).await?) {
                        if let Some(stored) = stored {
                            jobs.extend(place.job_in(&stored, filter)?);
                        }
                        if jobs.len() >= limit {
                            let next = Some(JobCursor(place.text));
                            return Ok(JobPage { jobs, next });
                        }
                    }
                }
                match page.last() {
                    Some(item) if page.len() == LIST_PAGE => range = Range::before(item.key.sort.clone()),
                    _ => break,
                }
            }
            if partition <= oldest.day() {
                return Ok(JobPage { jobs, next: None });
            }
            at = at.minus(DAY);
            range = Range::all();
        }
    }
}
