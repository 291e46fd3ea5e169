//! Schedule: plan compactions and send them.

use dormouse_core::{
    Error, Result,
    ids::{JobId, RunId, TableId},
    message::CompactionMessage,
    plan::compaction::{PlannedCompaction, Policy, compactions},
    ports::{Message, QueueName},
    predicate::Predicate,
    state::{Commit, CommitId, Outcome, Record},
    tables::TableInfo,
    time::Timestamp,
    tracker::{EventKind, JobKey, JobKind},
};
use futures::future::join_all;

use crate::services::Services;

/// How many jobs are leased and sent at a time.
const BATCH: usize = 100;

/// Makes the jobs that `policy` asks for. Returns their ids.
///
/// # Errors
/// Errors of the stores; jobs that were sent before run.
pub async fn create(services: &Services, table: &TableInfo, policy: Policy) -> Result<Vec<JobId>> {
    let state = services.states.live_state(&table.id).await?;
    let now = services.ports.clock.now().max(state.at());
    let planned = compactions(&state, policy, services.settings.compaction_limit(), now);
    drop(state);
    let sent = lease_and_send(services, table, &planned, None).await?;
    Ok(sent.into_iter().map(|(job, _)| job).collect())
}

/// Leases the inputs of compactions and sends their jobs, which leave out the rows of `purge`. Returns the jobs and how
/// many inputs each has; compactions whose inputs were gone or leased have none.
///
/// # Errors
/// Errors of the stores; jobs that were sent before run.
pub(super) async fn lease_and_send(
    services: &Services,
    table: &TableInfo,
    planned: &[PlannedCompaction],
    purge: Option<&Predicate>,
) -> Result<Vec<(JobId, usize)>> {
    let mut created = Vec::new();
    for batch in planned.chunks(BATCH) {
        created.extend(lease_and_send_batch(services, table, batch, purge).await?);
    }
    Ok(created)
}

async fn lease_and_send_batch(
    services: &Services,
    table: &TableInfo,
    planned: &[PlannedCompaction],
    purge: Option<&Predicate>,
) -> Result<Vec<(JobId, usize)>> {
    let mut jobs = Vec::with_capacity(planned.len());
    for compaction in planned {
        jobs.push((JobId::new(services.ports.ids.uuid().to_string())?, compaction));
    }
    let until = lease_end(services);
    let leases = jobs
        .iter()
        .map(|(job, compaction)| lease(services, &table.id, job, compaction, until));
    let outcomes = join_all(leases).await;
    let mut leased = Vec::with_capacity(jobs.len());
    for ((job, compaction), outcome) in jobs.into_iter().zip(outcomes) {
        match outcome? {
            // Somebody else has planned them since, or a leaf was split.
            Outcome::Refused(refusal) => {
                tracing::debug!(table = %table.id, partition = %compaction.partition, reason = refusal.reason, "not leased");
            }
            Outcome::Applied(_) | Outcome::AlreadyDone(_) => leased.push((job, compaction)),
        }
    }
    let messages = leased
        .iter()
        .map(|(job, compaction)| {
            let message = CompactionMessage {
                table_id: table.id.clone(),
                job_id: job.clone(),
                partition_id: compaction.partition.clone(),
                input_files: compaction.inputs.clone(),
                purge: purge.cloned(),
            };
            Ok(Message::new(message.to_body()?))
        })
        .collect::<Result<Vec<_>>>()?;
    if !messages.is_empty() {
        services.queue(QueueName::Compaction)?.send(messages).await?;
    }
    for (job, compaction) in &leased {
        report(services, table, job, compaction, purge).await;
    }
    let inputs = |(job, compaction): (JobId, &PlannedCompaction)| (job, compaction.inputs.len());
    Ok(leased.into_iter().map(inputs).collect())
}

/// When a lease ends that begins now.
pub(super) fn lease_end(services: &Services) -> Timestamp {
    services
        .ports
        .clock
        .now()
        .plus(services.settings.compaction_lease())
}

async fn lease(
    services: &Services,
    table: &TableId,
    job: &JobId,
    compaction: &PlannedCompaction,
    until: Timestamp,
) -> Result<Outcome> {
    let record = Record::CompactionAssigned {
        job: job.clone(),
        partition: compaction.partition.clone(),
        inputs: compaction.inputs.clone(),
        until,
    };
    let commit = Commit::new(CommitId::new(format!("assign/{job}")), record);
    Ok(services.states.commit(table, commit).await?.outcome)
}

async fn report(
    services: &Services,
    table: &TableInfo,
    job: &JobId,
    compaction: &PlannedCompaction,
    purge: Option<&Predicate>,
) {
    let key = JobKey {
        kind: JobKind::Compaction,
        table: Some(table.id.clone()),
        job: job.clone(),
    };
    let kind = EventKind::Created {
        input_files: compaction.inputs.len() as u64,
        purge: purge.cloned(),
    };
    let recorded = async {
        let run = RunId::new(job.as_str())?;
        let name = Some(table.name.as_str());
        services.tracker.record(&key, name, (&run, 0), kind).await?;
        Ok::<_, Error>(())
    };
    if let Err(error) = recorded.await {
        tracing::warn!(%job, error = error.report(), "not reported");
    }
}
