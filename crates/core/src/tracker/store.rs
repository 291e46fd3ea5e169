//! Events and reports as stored items.

use std::{sync::Arc, time::Duration};

use super::{
    event::{Event, JobKey},
    record::{Reading, Writing},
    report::JobReport,
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    file::{Checksum, RowDigest},
    ids::{JobId, SubExportId, TableId},
    key::KeyRange,
    plan::export::ExportPlan,
    ports::{Clock, Condition, Ids, Item, ItemKey, ItemStore, Order, Range, Write},
};
use serde::{Deserialize, Serialize};

/// How often a part of an export is tried to be recorded.
const MAX_ATTEMPTS: u32 = 100;

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
