//! Writing down what happens to jobs.
//!
//! First the event is written. The job's report takes it in, and is written provided that nobody has changed it since.
//! A job that is new gets its place in the list of jobs before its report: a place whose report was not written is no
//! job's, and a list has it left out.
//!
//! Events and places that tasks of a process write at the same time go together, and reports that they read. Each is
//! written and read by itself where that fails, so that none suffers from another.

use std::time::Duration;

use super::{
    event::{Event, EventKind, JobKey},
    list::place,
    report::JobReport,
    store::{Tracker, decode, events_partition, status_key, table_text},
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    gather::{Gather, to_each},
    ids::RunId,
    ports::{Condition, Item, ItemKey},
    time::Timestamp,
};

/// How often a report is tried to be changed before its event is given up to the repair.
const MAX_ATTEMPTS: u32 = 20;

/// The most items that are written together.
const MAX_WRITTEN: usize = 25;

/// The most that are read together.
const MAX_READ: usize = 100;

/// The longest text of a rejected message that is kept.
const MAX_MESSAGE_CHARS: usize = 4000;

/// The most reasons of one event that are kept, and the longest.
const MAX_REASONS: usize = 5;
const MAX_REASON_CHARS: usize = 1000;

/// Events and places on their way to the store.
pub(super) type Writing = Gather<Item, ()>;

/// Reports on their way from it.
pub(super) type Reading = Gather<ItemKey, Option<Item>>;

fn clip(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn clip_reasons(reasons: &mut Vec<String>) {
    reasons.truncate(MAX_REASONS);
    for reason in reasons {
        *reason = clip(reason, MAX_REASON_CHARS);
    }
}

fn clipped(mut kind: EventKind) -> EventKind {
    match &mut kind {
        EventKind::Rejected { reasons, message } => {
            clip_reasons(reasons);
            *message = clip(message, MAX_MESSAGE_CHARS);
        }
        EventKind::Retrying { reasons }
        | EventKind::Failed { reasons }
        | EventKind::PartFailed { reasons, .. } => clip_reasons(reasons),
        _ => {}
    }
    kind
}

impl Event {
    /// The event of a job as it is kept.
    fn item(&self, key: &JobKey, expires: Timestamp) -> Result<Item> {
        let part = match &self.kind {
            EventKind::PartFailed { part, .. } => format!("|{part}"),
            _ => String::new(),
        };
        let sort = format!("{:04}|{}|{}{part}", self.attempt, self.run, self.kind.name());
        let body = serde_json::to_string(self)
            .map_err(|error| Error::internal("an event cannot be encoded").with_source(error))?;
        Ok(
            Item::new(ItemKey::new(Collection::JobEvents, events_partition(key), sort))
                .with("event", self.kind.name())
                .with("at", self.at)
                .with("body", body)
                .expiring(expires),
        )
    }
}

impl JobReport {
    /// The report as it is stored, at a version, of a job with this place in the list.
    fn item(&self, version: i64, listed: &str, expires: Timestamp) -> Result<Item> {
        let body = serde_json::to_string(self)
            .map_err(|error| Error::internal("a job report cannot be encoded").with_source(error))?;
        Ok(Item::new(status_key(&self.key))
            .with("kind", self.key.kind.as_str())
            .with("tableId", table_text(self.key.table.as_ref()))
            .with("tableName", self.table_name.as_deref().unwrap_or("-"))
            .with("status", self.status.as_str())
            .with("created", self.created)
            .with("updated", self.updated)
            .with("rowsRead", self.rows_read())
            .with("rowsWritten", self.rows_written())
            .with("reasons", self.reasons().join("\n"))
            .with("report", body)
            .with("version", version)
            .with("listed", listed)
            .expiring(expires))
    }
}

impl Tracker {
    /// Records what happened to a run of a job, now.
    ///
    /// # Errors
    /// Errors of the item store.
    pub async fn record(
        &self,
        key: &JobKey,
        table_name: Option<&str>,
        run: (&RunId, u32),
        kind: EventKind,
    ) -> Result<JobReport> {
        let (run, attempt) = run;
        let event = Event {
            at: self.clock.now(),
            run: run.clone(),
            attempt,
            kind: clipped(kind),
        };
        let expires = event.at.plus(self.retention);
        if event.kind.is_kept() {
            self.write(event.item(key, expires)?).await?;
        }
        let mut last_error = None;
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                self.clock
                    .sleep(self.ids.jitter(Duration::from_millis(20 << attempt.min(6))))
                    .await;
            }
            match self.fold(key, table_name, &event, expires).await {
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {
                    last_error = Some(error);
                }
                result => return result,
            }
        }
        let error = Error::unavailable(format!("the report of job {} could not be changed", key.job));
        Err(match last_error {
            Some(source) => error.with_source(source),
            None => error,
        })
    }

    async fn fold(
        &self,
        key: &JobKey,
        table_name: Option<&str>,
        event: &Event,
        expires: Timestamp,
    ) -> Result<JobReport> {
        let Some(stored) = self.read(status_key(key)).await? else {
            let mut report = JobReport::new(key.clone(), table_name.map(str::to_owned), event.at);
            report.record(event);
            let (listed, place) = place(key, event.at, expires.plus(self.retention));
            self.write(place).await?;
            let item = report.item(1, &listed, expires)?;
            self.items.put(item, Condition::NotExists).await?;
            return Ok(report);
        };
        let before = decode(&stored)?;
        let mut report = before.clone();
        report.record(event);
        if report != before {
            let version = stored.number("version")?;
            let item = report.item(version + 1, stored.text("listed")?, expires)?;
            self.items
                .put(item, Condition::equals("version", version))
                .await?;
        }
        Ok(report)
    }

    /// The item with this key, if there is one.
    async fn read(&self, key: ItemKey) -> Result<Option<Item>> {
        let together = self.reading.send(
            key.clone(),
            MAX_READ,
            async || (),
            async |keys: Vec<ItemKey>, ()| match self.items.get_all(&keys).await {
                Ok(items) => items.into_iter().map(Ok).collect(),
                Err(error) => to_each(&Err(error), keys.len()),
            },
        );
        match together.await {
            Ok(item) => Ok(item),
            Err(_) => self.items.get(&key).await,
        }
    }

    /// Writes an item, whatever is there.
    async fn write(&self, item: Item) -> Result<()> {
        let together = self.writing.send(
            item.clone(),
            MAX_WRITTEN,
            async || (),
            async |items: Vec<Item>, ()| {
                let count = items.len();
                to_each(&self.items.put_all(items).await, count)
            },
        );
        match together.await {
            Ok(()) => Ok(()),
            Err(_) => self.items.put(item, Condition::None).await,
        }
    }
}
