//! Writing down what happens to jobs, the events of one process that come together in few calls.
//!
//! Of the jobs concerned the reports are read. The events are written, and the places in the list of jobs that are new;
//! last each report that has changed, provided that nobody has changed it since. A place whose report was not written
//! is no job's: a list has it left out.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;

use super::{
    event::{Event, EventKind, JobKey},
    report::JobReport,
    store::{Tracker, decode, events_partition, status_key, table_text},
};
use crate::{
    collections::Collection,
    error::{Error, ErrorKind, Result},
    gather::Gather,
    ids::RunId,
    ports::{Condition, Item, ItemKey},
    time::Timestamp,
};

/// How often a report is tried to be changed before its event is given up to the repair.
const MAX_ATTEMPTS: u32 = 20;

/// The most events that are written together.
const MAX_EVENTS: usize = 100;

/// The longest text of a rejected message that is kept.
const MAX_MESSAGE_CHARS: usize = 4000;

/// The most reasons of one event that are kept, and the longest.
const MAX_REASONS: usize = 5;
const MAX_REASON_CHARS: usize = 1000;

/// Events on their way to the tracker.
pub(super) type Telling = Gather<Told, Heard>;

/// An event, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Told {
    key: JobKey,
    table_name: Option<String>,
    event: Event,
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Heard {
    Recorded(JobReport),
    /// The events themselves could not be written.
    Not(Error),
}

/// A report that has taken in some events.
struct Change {
    report: JobReport,
    /// The version that is stored, 0 for none, and the place in the list.
    version: i64,
    listed: String,
    is_changed: bool,
    expires: Timestamp,
}

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

impl Told {
    /// The event as it is kept, if it is.
    fn item(&self, expires: Timestamp) -> Result<Option<Item>> {
        let Self { key, event, .. } = self;
        if !event.kind.is_kept() {
            return Ok(None);
        }
        let part = match &event.kind {
            EventKind::PartFailed { part, .. } => format!("|{part}"),
            _ => String::new(),
        };
        let sort = format!("{:04}|{}|{}{part}", event.attempt, event.run, event.kind.name());
        let body = serde_json::to_string(event)
            .map_err(|error| Error::internal("an event cannot be encoded").with_source(error))?;
        let item = Item::new(ItemKey::new(Collection::JobEvents, events_partition(key), sort))
            .with("event", event.kind.name())
            .with("at", event.at)
            .with("body", body)
            .expiring(expires);
        Ok(Some(item))
    }
}

impl Change {
    /// What some events make of the report that is stored.
    fn of(stored: Option<&Item>, events: &[&Told], expires: Timestamp) -> Result<Self> {
        let first = events[0];
        let key = &first.key;
        let (mut report, version, listed) = match stored {
            Some(item) => (
                decode(item)?,
                item.number("version")?,
                item.text("listed")?.to_owned(),
            ),
            None => (
                JobReport::new(key.clone(), first.table_name.clone(), first.event.at),
                0,
                format!(
                    "{:013}|{}|{}|{}",
                    first.event.at.as_millis().max(0),
                    key.job,
                    key.kind,
                    table_text(key.table.as_ref())
                ),
            ),
        };
        let before = report.clone();
        for told in events {
            report.record(&told.event);
        }
        Ok(Self {
            is_changed: version == 0 || report != before,
            report,
            version,
            listed,
            expires,
        })
    }

    /// The place of a job that is new.
    fn place(&self, at: Timestamp, expires: Timestamp) -> Option<Item> {
        let key = &self.report.key;
        (self.version == 0).then(|| {
            Item::new(ItemKey::new(Collection::JobTimes, at.day(), self.listed.as_str()))
                .with("jobId", key.job.as_str())
                .with("kind", key.kind.as_str())
                .with("tableId", table_text(key.table.as_ref()))
                .expiring(expires)
        })
    }

    fn item(&self) -> Result<Item> {
        let report = &self.report;
        let body = serde_json::to_string(report)
            .map_err(|error| Error::internal("a job report cannot be encoded").with_source(error))?;
        Ok(Item::new(status_key(&report.key))
            .with("kind", report.key.kind.as_str())
            .with("tableId", table_text(report.key.table.as_ref()))
            .with("tableName", report.table_name.as_deref().unwrap_or("-"))
            .with("status", report.status.as_str())
            .with("created", report.created)
            .with("updated", report.updated)
            .with("rowsRead", report.rows_read())
            .with("rowsWritten", report.rows_written())
            .with("reasons", report.reasons().join("\n"))
            .with("report", body)
            .with("version", self.version + 1)
            .with("listed", self.listed.as_str())
            .expiring(self.expires))
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
        let told = Told {
            key: key.clone(),
            table_name: table_name.map(str::to_owned),
            event: Event {
                at: self.clock.now(),
                run: run.clone(),
                attempt,
                kind: clipped(kind),
            },
        };
        let mut last_error = None;
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                self.clock
                    .sleep(self.ids.jitter(Duration::from_millis(20 << attempt.min(6))))
                    .await;
            }
            let telling =
                self.telling
                    .send(told.clone(), MAX_EVENTS, async || (), |told, ()| self.tell(told));
            match telling.await {
                Ok(Heard::Recorded(report)) => return Ok(report),
                Ok(Heard::Not(error)) => return Err(error),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => {
                    last_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let error = Error::unavailable(format!("the report of job {} could not be changed", key.job));
        Err(match last_error {
            Some(source) => error.with_source(source),
            None => error,
        })
    }

    /// Writes events down, and answers for each.
    async fn tell(&self, told: Vec<Told>) -> Vec<Result<Heard>> {
        match self.try_to_tell(&told).await {
            Ok(heard) => heard,
            Err(error) => told.iter().map(|_| Err(error.copied())).collect(),
        }
    }

    async fn try_to_tell(&self, told: &[Told]) -> Result<Vec<Result<Heard>>> {
        let mut jobs: BTreeMap<&JobKey, Vec<&Told>> = BTreeMap::new();
        for told in told {
            jobs.entry(&told.key).or_default().push(told);
        }
        let keys: Vec<ItemKey> = jobs.keys().map(|key| status_key(key)).collect();
        let stored = self.items.get_all(&keys).await?;
        let mut items = BTreeMap::new();
        let mut changes = Vec::with_capacity(jobs.len());
        for ((key, events), stored) in jobs.iter().zip(&stored) {
            let mut expires = Timestamp::default();
            for told in events {
                expires = expires.max(told.event.at.plus(self.retention));
                if let Some(item) = told.item(told.event.at.plus(self.retention))? {
                    items.insert(item.key.clone(), item);
                }
            }
            let change = Change::of(stored.as_ref(), events, expires);
            let at = events[0].event.at;
            let place = change
                .as_ref()
                .ok()
                .and_then(|change| change.place(at, expires.plus(self.retention)));
            items.extend(place.map(|place| (place.key.clone(), place)));
            changes.push((*key, change));
        }
        if let Err(error) = self.items.put_all(items.into_values().collect()).await {
            return Ok(told.iter().map(|_| Ok(Heard::Not(error.copied()))).collect());
        }
        let reports = changes
            .into_iter()
            .map(async |(key, change)| (key, self.put_report(change).await));
        let reports: BTreeMap<&JobKey, Result<JobReport>> = join_all(reports).await.into_iter().collect();
        Ok(told
            .iter()
            .map(|told| match &reports[&told.key] {
                Ok(report) => Ok(Heard::Recorded(report.clone())),
                Err(error) => Err(error.copied()),
            })
            .collect())
    }

    async fn put_report(&self, change: Result<Change>) -> Result<JobReport> {
        let change = change?;
        if change.is_changed {
            let condition = match change.version {
                0 => Condition::NotExists,
                version => Condition::equals("version", version),
            };
            self.items.put(change.item()?, condition).await?;
        }
        Ok(change.report)
    }
}
