//! The tables of a job's query: each is pinned when the query names it, and read at that transaction.
//!
//! A pin is noted at the job before it is taken, so that whoever ends the job knows it. A run that lost its job between
//! the two leaves a pin that nobody knows; it runs out with the job's deadline.

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    bulk::BulkJob,
    ids::{PinId, RunId, TableId},
    ports::{QueryTables, TableSnapshot},
    state::{Commit, CommitId, Outcome, Record},
};

use crate::{
    export::release_pin,
    query::{AllTables, SeenTables},
    services::Services,
};

/// The tables that the job's tenant may read, for one of the job's runs: each is pinned when it is first asked for, and
/// stays as it was then.
///
/// # Errors
/// Errors of the item store.
pub async fn pinned_tables(
    services: &Services,
    job: &BulkJob,
    run: &RunId,
) -> Result<impl QueryTables + use<>> {
    let reader = services.reader(&job.tenant).await?;
    Ok(SeenTables::new(PinnedTables {
        services: services.clone(),
        tables: AllTables::of_tenant(services.clone(), reader, job.query.as_of),
        job: job.clone(),
        run: run.clone(),
    }))
}

/// Tables that are pinned whenever they are asked for.
#[derive(Debug)]
struct PinnedTables {
    services: Services,
    tables: AllTables,
    job: BulkJob,
    run: RunId,
}

#[async_trait]
impl QueryTables for PinnedTables {
    async fn table(&self, name: &str) -> Result<Option<TableSnapshot>> {
        let Some((info, state)) = self.tables.find(name).await? else {
            return Ok(None);
        };
        let (bulk, job) = (&self.services.bulk, &self.job);
        let pin = PinId::new(format!("query-{}", self.run))?;
        let transaction = state.transaction();
        let noted = (name, transaction.0);
        bulk.note_pin((&job.tenant, &job.id), &self.run, (&info.id, &pin), noted)
            .await?;
        let record = Record::PinTaken {
            pin: pin.clone(),
            transaction,
            until: job.deadline,
        };
        let request = Commit::new(CommitId::new(format!("pin/{pin}")), record);
        let pinned = self.services.states.commit(&info.id, request).await?;
        if let Outcome::Refused(refusal) = pinned.outcome {
            let error = Error::new(refusal.kind, refusal.reason);
            return Err(match (error.kind(), job.query.as_of) {
                // The newest state has left the history since it was read: the next attempt reads a newer one.
                (ErrorKind::Conflict, None) => Error::unavailable(
                    "the newest state was too old to pin; the next attempt takes a newer one",
                )
                .with_source(error),
                _ => error,
            });
        }
        // Whoever has ended the job meanwhile may have released the pin before it was taken.
        let current = bulk.get(&job.tenant, &job.id).await?;
        let run = current.and_then(|job| job.run);
        if run.is_none_or(|run| run.id != self.run) {
            give_back(&self.services, &info.id, &pin).await?;
            return Err(Error::conflict(format!(
                "job {} is not this run's any more",
                job.id
            )));
        }
        self.tables.snapshot(info, state).map(Some)
    }
}

/// Gives the pins of a job back, and notes that it has none.
pub(super) async fn release(services: &Services, job: &BulkJob) -> Result<()> {
    if job.pins.is_empty() {
        return Ok(());
    }
    for (table, pin) in &job.pins {
        give_back(services, table, pin).await?;
    }
    match services.bulk.forget_pins(&job.tenant, &job.id, &job.pins).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        forgotten => forgotten,
    }
}

async fn give_back(services: &Services, table: &TableId, pin: &PinId) -> Result<()> {
    match release_pin(services, table, pin).await {
        // The table was purged.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        released => released,
    }
}
