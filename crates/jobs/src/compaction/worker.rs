//! Works on the queue `compaction`.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    file::DataFile,
    ids::{FileName, RunId},
    message::{CompactionMessage, TableRef},
    ports::{CompactionSpec, Delivery, Metric, Progress, QueueName},
    state::{Commit, CommitId, Outcome, Record, Reference, TableState},
    tables::TableInfo,
    tracker::{EventKind, JobKey, JobKind},
};

use super::create::lease_end;
use crate::{
    commit::{commit, own_object},
    run::Run,
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// Merges files.
#[derive(Debug)]
pub struct CompactionWorker {
    services: Services,
}

impl CompactionWorker {
    /// A worker.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    async fn compact(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        let services = &self.services;
        let message = CompactionMessage::parse(&delivery.body)?;
        let mut subject = subject(&message);
        let table = match services.table(&TableRef::Id(message.table_id.clone())).await {
            Ok(table) => table,
            Err(error) => return Err(subject.failure_of_lookup(error)),
        };
        subject.table_name = Some(table.name.to_string());
        let run = Run {
            services,
            subject: &subject,
            id: run,
            attempt: delivery.attempt,
        };
        self.merge_and_commit(delivery, &message, &table, run)
            .await
            .map_err(|error| subject.failure(error))
    }

    async fn merge_and_commit(
        &self,
        delivery: &Delivery,
        message: &CompactionMessage,
        table: &TableInfo,
        run: Run<'_>,
    ) -> Result<()> {
        let services = &self.services;
        let state = services.states.live_state(&table.id).await?;
        if state.committed(&message.job_id).is_some() {
            run.report_done(&state).await;
            return Ok(());
        }
        drop(state);
        let state = self.take_lease(table, message, run.id).await?;
        run.report(EventKind::Started).await;
        let spec = self.spec(table, message, &state)?;
        drop(state);
        let progress = Arc::new(Progress::default());
        let output = tokio::select! {
            biased;
            output = services.ports.engine.compact(spec, progress.clone()) => output.map_err(own_object)?,
            never = run.report_progress(&progress) => match never {},
            lost = self.keep_lease(table, message, run.id) => match lost { Err(error) => return Err(error), Ok(never) => match never {} },
        };
        let (rows, files) = output.as_ref().map_or((0, 0), |file| (file.rows, 1));
        let written = EventKind::Written {
            rows_read: progress.read(),
            rows_written: rows,
            files,
        };
        run.report(written).await;
        let record = committed(delivery, message, run.id, output);
        let request = Commit::new(CommitId::of_run(&message.job_id, run.id), record);
        match commit(services, table, request).await? {
            Outcome::Refused(refusal) => Err(Error::new(refusal.kind, refusal.reason)),
            Outcome::Applied(transaction) => {
                run.measure(Metric::CompactionRowsWritten, rows);
                let kind = EventKind::Committed {
                    transaction,
                    rows,
                    files,
                };
                run.report(kind).await;
                Ok(())
            }
            Outcome::AlreadyDone(_) => {
                let state = services.states.state(&table.id).await?;
                run.report_done(&state).await;
                Ok(())
            }
        }
    }

    /// Leases the inputs to the job from now on. A lease that is the job's already is prolonged.
    async fn take_lease(
        &self,
        table: &TableInfo,
        message: &CompactionMessage,
        run: &RunId,
    ) -> Result<Arc<TableState>> {
        let services = &self.services;
        let until = lease_end(services);
        let record = Record::CompactionAssigned {
            job: message.job_id.clone(),
            partition: message.partition_id.clone(),
            inputs: message.input_files.clone(),
            until,
        };
        let id = CommitId::new(format!("assign/{}/{run}/{}", message.job_id, until.as_millis()));
        let committed = services.states.commit(&table.id, Commit::new(id, record)).await?;
        match committed.outcome {
            Outcome::Refused(refusal) => Err(Error::new(refusal.kind, refusal.reason)),
            Outcome::Applied(_) | Outcome::AlreadyDone(_) => Ok(committed.state),
        }
    }

    /// Prolongs the lease at a third of its time, until it is lost.
    async fn keep_lease(
        &self,
        table: &TableInfo,
        message: &CompactionMessage,
        run: &RunId,
    ) -> Result<Infallible> {
        let services = &self.services;
        loop {
            services
                .ports
                .clock
                .sleep(services.settings.compaction_lease() / 3)
                .await;
            match self.take_lease(table, message, run).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(job = %message.job_id, error = error.report(), "lease not prolonged");
                }
                taken => drop(taken?),
            }
        }
    }

    fn spec(
        &self,
        table: &TableInfo,
        message: &CompactionMessage,
        state: &TableState,
    ) -> Result<CompactionSpec> {
        let gone = || Error::conflict(format!("partition {} is no longer a leaf", message.partition_id));
        let leaf = state.leaf(&message.partition_id).ok_or_else(gone)?;
        let references: BTreeMap<&FileName, &Reference> = state
            .references(&leaf.id)
            .map(|reference| (&reference.file.name, reference))
            .collect();
        let inputs = message
            .input_files
            .iter()
            .map(|name| {
                let reference = references.get(name).ok_or_else(|| {
                    Error::conflict(format!("file {name} is no longer at leaf {}", leaf.id))
                })?;
                Ok(self.services.merge_input(&table.id, reference))
            })
            .collect::<Result<_>>()?;
        let schema = state
            .schema()
            .cloned()
            .ok_or_else(|| Error::not_found(format!("table {} has no schema", table.name)))?;
        let rules = self.services.table_settings(table)?.row_rules();
        Ok(CompactionSpec {
            table: table.id.clone(),
            schema,
            leaf,
            inputs,
            purge: message.purge.clone(),
            rules: rules.at(self.services.ports.clock.now()),
            output: self.services.data.clone(),
        })
    }
}

fn committed(
    delivery: &Delivery,
    message: &CompactionMessage,
    run: &RunId,
    output: Option<DataFile>,
) -> Record {
    Record::CompactionCommitted {
        job: message.job_id.clone(),
        run: run.clone(),
        issued: delivery.sent_at,
        partition: message.partition_id.clone(),
        inputs: message.input_files.clone(),
        output: output.map(Arc::new),
    }
}

fn subject(message: &CompactionMessage) -> Subject {
    Subject {
        key: JobKey {
            kind: JobKind::Compaction,
            table: Some(message.table_id.clone()),
            job: message.job_id.clone(),
        },
        table_name: None,
        run: None,
        part: None,
        accepted: true,
    }
}

#[async_trait]
impl Handler for CompactionWorker {
    fn queue(&self) -> QueueName {
        QueueName::Compaction
    }

    fn concurrency(&self) -> usize {
        self.services.settings.compaction_concurrency()
    }

    async fn subject(&self, body: &str, _message_id: &str) -> Result<Option<Subject>> {
        Ok(CompactionMessage::parse(body)
            .ok()
            .map(|message| subject(&message)))
    }

    async fn handle(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        self.compact(delivery, run).await
    }
}
