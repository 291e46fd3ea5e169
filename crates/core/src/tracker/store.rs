//! Events and reports as stored items.

use std::{sync::Arc, time::Duration};

use super::{
    event::{Event, JobKey, JobStatus},
    record::{Reading, Writing},
    report::JobReport,
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    file::{Checksum, RowDigest},
    ids::{JobId, JobKind, SubExportId, TableId},
    key::KeyRange,
    plan::export::ExportPlan,
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, Sort, Write},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// How often a part of an export is tried to be recorded.
const MAX_ATTEMPTS: u32 = 100;

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

/// A finished part of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPart {
    /// The part.
    pub sub_export: SubExportId,
    /// How many rows.
    pub rows: u64,
    /// The object's size.
    pub bytes: u64,
    /// CRC-64/NVME of the object.
    pub checksum: Checksum,
    /// The digest of the rows.
    pub digest: RowDigest,
    /// The smallest and the largest row key; none without rows.
    pub range: Option<KeyRange>,
}

/// How many parts of an export are finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartsProgress {
    /// Parts.
    pub done: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The finished parts of an export are kept at least so long, however soon the tracker forgets jobs: the export is
/// finished from them.
const PARTS_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// The sort key of an export's [`PartsProgress`]; it comes before every sub-export id.
const PROGRESS: &str = "#progress";

impl PartsProgress {
    fn from_item(item: &Item) -> Result<Self> {
        let number = |name| {
            item.number(name)
                .map(|number| u64::try_from(number).unwrap_or_default())
        };
        Ok(Self {
            done: number("done")?,
            rows: number("rows")?,
            bytes: number("bytes")?,
        })
    }

    fn item(self, key: ItemKey) -> Item {
        Item::new(key)
            .with("done", self.done)
            .with("rows", self.rows)
            .with("bytes", self.bytes)
    }
}

/// Reads and writes what became of jobs.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub(super) items: Arc<dyn ItemStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn Ids>,
    pub(super) retention: Duration,
    pub(super) reading: Arc<Reading>,
    pub(super) writing: Arc<Writing>,
}

pub(super) fn table_text(table: Option<&TableId>) -> &str {
    table.map_or("-", TableId::as_str)
}

pub(super) fn status_key(key: &JobKey) -> ItemKey {
    let sort = format!("{}|{}", key.kind, table_text(key.table.as_ref()));
    ItemKey::new(Collection::JobStatus, key.job.as_str(), sort)
}

pub(super) fn events_partition(key: &JobKey) -> String {
    format!("{}|{}|{}", key.kind, table_text(key.table.as_ref()), key.job)
}

/// A plan has parts of its own: should an export's objects be removed and its message sent again, the parts of the
/// plan that is gone do not count for the new one.
fn parts_partition(plan: &ExportPlan) -> String {
    format!("{}|{}|{}", plan.table_id, plan.export_id, plan.pin)
}

pub(super) fn decode(item: &Item) -> Result<JobReport> {
    serde_json::from_str(item.text("report")?)
        .map_err(|error| Error::corrupt(format!("job report {:?} is damaged", item.key)).with_source(error))
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
    /// A tracker in these items, which keeps a job for `retention` after its last event.
    pub fn new(
        items: Arc<dyn ItemStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        retention: Duration,
    ) -> Self {
        Self {
            items,
            clock,
            ids,
            retention,
            reading: Arc::default(),
            writing: Arc::default(),
        }
    }

    /// The report of one job.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn report(&self, key: &JobKey) -> Result<Option<JobReport>> {
        self.items
            .get(&status_key(key))
            .await?
            .as_ref()
            .map(decode)
            .transpose()
    }

    /// The reports of all jobs with this id, whichever their kind and table.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn reports(&self, job: &JobId) -> Result<Vec<JobReport>> {
        let items = self
            .items
            .query(
                Collection::JobStatus,
                job.as_str(),
                Range::all(),
                100,
                Order::Ascending,
            )
            .await?;
        items.iter().map(decode).collect()
    }

    /// All events of one job, by attempt.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn events(&self, key: &JobKey) -> Result<Vec<Event>> {
        let items = self
            .items
            .query(
                Collection::JobEvents,
                &events_partition(key),
                Range::all(),
                1000,
                Order::Ascending,
            )
            .await?;
        let mut events = items
            .iter()
            .map(|item| {
                serde_json::from_str::<Event>(item.text("body")?).map_err(|error| {
                    Error::corrupt(format!("event {:?} is damaged", item.key)).with_source(error)
                })
            })
            .collect::<Result<Vec<_>>>()?;
        events.sort_by_key(|event| (event.at, event.attempt, event.kind.stage()));
        Ok(events)
    }

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

    /// Keeps a finished part of an export, once, and returns how far the export is.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn record_part(&self, plan: &ExportPlan, part: &ExportPart) -> Result<PartsProgress> {
        let partition = parts_partition(plan);
        let body = serde_json::to_string(part)
            .map_err(|error| Error::internal("an export part cannot be encoded").with_source(error))?;
        let expires = self
            .clock
            .now()
            .plus(self.retention.saturating_mul(2).max(PARTS_RETENTION));
        let item = Item::new(ItemKey::new(
            Collection::ExportParts,
            &partition,
            part.sub_export.as_str(),
        ))
        .with("rows", part.rows)
        .with("bytes", part.bytes)
        .with("body", body)
        .expiring(expires);
        let progress_key = ItemKey::new(Collection::ExportParts, &partition, PROGRESS);
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                self.clock
                    .sleep(self.ids.jitter(Duration::from_millis(5 << attempt.min(8))))
                    .await;
            }
            let stored = self.items.get(&progress_key).await?;
            let progress = stored
                .as_ref()
                .map(PartsProgress::from_item)
                .transpose()?
                .unwrap_or_default();
            if self.items.get(&item.key).await?.is_some() {
                return Ok(progress);
            }
            let next = PartsProgress {
                done: progress.done + 1,
                rows: progress.rows + part.rows,
                bytes: progress.bytes + part.bytes,
            };
            let condition = match &stored {
                Some(_) => Condition::equals("done", progress.done),
                None => Condition::NotExists,
            };
            let writes = vec![
                Write::Put {
                    item: item.clone(),
                    condition: Condition::NotExists,
                },
                Write::Put {
                    item: next.item(progress_key.clone()).expiring(expires),
                    condition,
                },
            ];
            match self.items.transact(writes).await {
                Ok(()) => return Ok(next),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable(format!(
            "part {} of export {} could not be recorded",
            part.sub_export, plan.export_id
        )))
    }

    /// How many parts of an export are finished.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn parts_progress(&self, plan: &ExportPlan) -> Result<PartsProgress> {
        let key = ItemKey::new(Collection::ExportParts, parts_partition(plan), PROGRESS);
        let stored = self.items.get(&key).await?;
        Ok(stored
            .as_ref()
            .map(PartsProgress::from_item)
            .transpose()?
            .unwrap_or_default())
    }

    /// The finished parts of an export, by id.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn parts(&self, plan: &ExportPlan) -> Result<Vec<ExportPart>> {
        let partition = &parts_partition(plan);
        let mut parts = Vec::new();
        let mut range = Range::after(PROGRESS);
        loop {
            let page = self
                .items
                .query(Collection::ExportParts, partition, range, 500, Order::Ascending)
                .await?;
            for item in &page {
                parts.push(serde_json::from_str(item.text("body")?).map_err(|error| {
                    Error::corrupt(format!("export part {:?} is damaged", item.key)).with_source(error)
                })?);
            }
            match page.last() {
                Some(item) if page.len() == 500 => range = Range::after(item.key.sort.clone()),
                _ => return Ok(parts),
            }
        }
    }

    /// One finished part of an export.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn part(&self, plan: &ExportPlan, part: &SubExportId) -> Result<Option<ExportPart>> {
        let key = ItemKey::new(Collection::ExportParts, parts_partition(plan), part.as_str());
        let Some(item) = self.items.get(&key).await? else {
            return Ok(None);
        };
        serde_json::from_str(item.text("body")?)
            .map(Some)
            .map_err(|error| {
                Error::corrupt(format!("export part {:?} is damaged", item.key)).with_source(error)
            })
    }
}
