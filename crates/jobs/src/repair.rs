//! Schedule: make the tracker say what the logs and the dead letters know.
//!
//! A worker that dies between its commit and its report leaves a job that looks unfinished; one that dies on its
//! last attempt leaves a dead letter that nobody has reported; one whose table is deleted before its message comes
//! again leaves a run that nobody takes up. All are found here. So are jobs that nobody has heard of for long: of a
//! message that was delivered twice, one run may have taken it to its end while the other died.

use std::time::Duration;

use dormouse_core::{
    ErrorKind, Result,
    collections::Collection,
    ids::{ExportId, RunId, TableId, TransactionNumber},
    ports::{Condition, Item, ItemKey},
    state::TableState,
    tables::TableInfo,
    time::Timestamp,
    tracker::{EventKind, JobFilter, JobKey, JobKind, JobReport, JobStatus},
};

use crate::{
    export::{finish::finish_if_done, read_plan},
    services::Services,
    worker::Handler,
};

/// How many dead letters of a queue one repair looks at.
const DEAD_LETTERS: usize = 10_000;

/// The item that tells when lost jobs were last looked for.
const LOST_JOBS: &str = "lost-jobs";

/// How many jobs are looked at together.
const PAGE: usize = 500;

/// Reports the commits of one table that the tracker does not know. Returns how many.
///
/// # Errors
/// Errors of the stores.
pub async fn commits(services: &Services, table: &TableInfo) -> Result<u64> {
    let key = ItemKey::new(Collection::TrackerRepairs, table.id.as_str(), ());
    let stored = services.ports.items.get(&key).await?;
    let done = match &stored {
        Some(item) => TransactionNumber(u64::try_from(item.number("transaction")?).unwrap_or_default()),
        None => TransactionNumber::default(),
    };
    let state = services.states.state(&table.id).await?;
    if state.transaction() <= done {
        return Ok(0);
    }
    let oldest = services
        .ports
        .clock
        .now()
        .minus(services.settings.job_status_ttl());
    let mut repaired = 0;
    for (job, entry) in state
        .ledger()
        .filter(|(_, entry)| entry.transaction > done && entry.at > oldest)
    {
        let key = JobKey {
            kind: entry.kind,
            table: Some(table.id.clone()),
            job: job.clone(),
        };
        let report = services.tracker.report(&key).await?;
        if report
            .as_ref()
            .is_some_and(|report| report.status == JobStatus::Finished)
        {
            continue;
        }
        let attempt = report
            .as_ref()
            .and_then(|report| report.runs.iter().find(|run| run.run == entry.run))
            .map_or(1, |run| run.attempt);
        let kind = EventKind::Committed {
            transaction: entry.transaction,
            rows: entry.rows,
            files: entry.files,
        };
        services
            .tracker
            .record(&key, Some(table.name.as_str()), (&entry.run, attempt), kind)
            .await?;
        repaired += 1;
    }
    let item = Item::new(key).with("transaction", state.transaction().0);
    services.ports.items.put(item, Condition::None).await?;
    Ok(repaired)
}

/// Ends the reports of jobs of a deleted table that nobody works on any more. Returns how many.
///
/// # Errors
/// Errors of the stores.
pub async fn jobs_of_deleted(services: &Services, table: &TableId, state: &TableState) -> Result<u64> {
    let filter = JobFilter {
        table: Some(table.clone()),
        ..JobFilter::default()
    };
    let mut ended = 0;
    for report in services.tracker.list(&filter, usize::MAX).await? {
        let Some(deciding) = report.deciding_run().filter(|_| !report.status.is_final()) else {
            continue;
        };
        let committed = match report.key.kind {
            JobKind::Ingest | JobKind::Compaction => state.committed(&report.key.job),
            JobKind::Export => None,
        };
        let (run, kind) = match committed {
            Some(entry) => {
                let kind = EventKind::Committed {
                    transaction: entry.transaction,
                    rows: entry.rows,
                    files: entry.files,
                };
                (&entry.run, kind)
            }
            None => {
                let reasons = vec!["the table was deleted".to_owned()];
                (&deciding.run, EventKind::Failed { reasons })
            }
        };
        let attempt = report.runs.iter().find(|known| known.run == *run);
        let attempt = attempt.map_or(1, |known| known.attempt);
        services
            .tracker
            .record(&report.key, report.table_name.as_deref(), (run, attempt), kind)
            .await?;
        ended += 1;
    }
    Ok(ended)
}

/// Reports jobs whose message died without a report. Returns how many.
///
/// # Errors
/// Errors of the stores.
pub async fn dead_letters(services: &Services, handler: &dyn Handler) -> Result<u64> {
    let queue = services.queue(handler.queue())?;
    let mut repaired = 0;
    for letter in queue.dead_letters(DEAD_LETTERS).await? {
        let subject = match handler.subject(&letter.body, &letter.message_id).await {
            Ok(Some(subject)) => subject,
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => continue,
        };
        let report = services.tracker.report(&subject.key).await?;
        if report.as_ref().is_some_and(|report| report.status.is_final()) {
            continue;
        }
        if has_ended(services, &subject.key).await? {
            continue;
        }
        let reasons = vec![format!(
            "the message moved to the dead letters of queue {} after {} deliveries",
            handler.queue(),
            letter.attempts
        )];
        let kind = match &subject.part {
            Some(part) => EventKind::PartFailed {
                part: part.clone(),
                reasons,
            },
            None => EventKind::Failed { reasons },
        };
        let (run, attempt) = match &subject.run {
            Some(run) => (run.clone(), 1),
            None => (
                RunId::new(format!("dead-{}", letter.message_id))?,
                letter.attempts,
            ),
        };
        services
            .tracker
            .record(&subject.key, subject.table_name.as_deref(), (&run, attempt), kind)
            .await?;
        repaired += 1;
    }
    Ok(repaired)
}

/// Whether a job whose end the tracker does not know has taken effect; the end of an export is made up for.
async fn has_ended(services: &Services, key: &JobKey) -> Result<bool> {
    let Some(table) = &key.table else { return Ok(false) };
    match key.kind {
        JobKind::Ingest | JobKind::Compaction => {
            Ok(services.states.state(table).await?.committed(&key.job).is_some())
        }
        JobKind::Export => match read_plan(services, table, &ExportId::new(key.job.as_str())?).await? {
            Some(plan) => finish_if_done(services, &plan).await,
            None => Ok(false),
        },
    }
}

/// Ends the reports of jobs that no worker has reported on for `job.lost.hours`. Looks for them at a quarter of that
/// time. Returns how many.
///
/// # Errors
/// Errors of the stores.
pub async fn lost_jobs(services: &Services) -> Result<u64> {
    let lost = services.settings.job_lost();
    let now = services.ports.clock.now();
    let key = ItemKey::new(Collection::TrackerRepairs, LOST_JOBS, ());
    if let Some(item) = services.ports.items.get(&key).await? {
        let last = Timestamp::from_millis(item.number("at")?);
        if now.since(last) < lost / 4 && last <= now {
            return Ok(0);
        }
    }
    let filter = JobFilter {
        until: Some(now.minus(lost)),
        ..JobFilter::default()
    };
    let mut ended = 0;
    let mut cursor = None;
    loop {
        let page = services
            .tracker
            .list_after(&filter, cursor.as_ref(), PAGE)
            .await?;
        for report in page.jobs {
            if !report.status.is_final() && now.since(report.updated) >= lost {
                end_lost(services, &report, lost).await?;
                ended += 1;
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    services
        .ports
        .items
        .put(Item::new(key).with("at", now), Condition::None)
        .await?;
    Ok(ended)
}

async fn end_lost(services: &Services, report: &JobReport, lost: Duration) -> Result<()> {
    if has_ended(services, &report.key).await? {
        return Ok(());
    }
    let reasons = vec![format!(
        "no worker has reported on this job for {} hours, and nothing of it is in the table: its message was ended by \
         another delivery or is lost. Send it again if it is still wanted",
        lost.as_secs() / 3600
    )];
    let run = match report.key.kind {
        JobKind::Export => RunId::new(report.key.job.as_str())?,
        JobKind::Ingest | JobKind::Compaction => RunId::new("lost")?,
    };
    let attempt = report.runs.last().map_or(1, |run| run.attempt);
    services
        .tracker
        .record(
            &report.key,
            report.table_name.as_deref(),
            (&run, attempt),
            EventKind::Failed { reasons },
        )
        .await?;
    Ok(())
}
