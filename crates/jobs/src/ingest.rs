//! Queue `ingest`: add the rows of some files to a table, once.
//!
//! Validate, find the inputs, let the row engine sort them into data files, and commit them all in one
//! transaction. The commit names the job, so whatever is redelivered, repeated or raced, a job's rows come into
//! the table once. Files of a run that lost are garbage, or orphans; a worker never deletes them.

mod inputs;

use std::sync::Arc;

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ids::{JobId, RunId},
    message::IngestMessage,
    ports::{Delivery, IngestSpec, Metric, Progress, QueueName},
    state::{Commit, CommitId, Outcome, Record},
    tracker::{EventKind, JobKey, JobKind},
};

use crate::{
    commit::{commit, own_object},
    run::Run,
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// Works on the queue `ingest`.
#[derive(Debug)]
pub struct IngestWorker {
    services: Services,
}

impl IngestWorker {
    /// A worker.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    async fn ingest(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        let services = &self.services;
        let mut subject = self.untabled(&delivery.body, &delivery.message_id)?;
        let message = IngestMessage::parse(&delivery.body).map_err(|error| subject.failure(error))?;
        let table = match services.table(&message.table).await {
            Ok(table) => table,
            Err(error) => return Err(subject.failure_of_lookup(error)),
        };
        subject.key.table = Some(table.id.clone());
        subject.table_name = Some(table.name.to_string());
        let job = subject.key.job.clone();
        let state = services
            .states
            .live_state(&table.id)
            .await
            .map_err(|error| subject.failure(error))?;
        let attempt = delivery.attempt;
        if state.committed(&job).is_some() {
            let run = Run {
                services,
                subject: &subject,
                id: run,
                attempt,
            };
            run.report_done(&state).await;
            return Ok(());
        }
        let inputs = inputs::find(services, &message.files)
            .await
            .map_err(|error| subject.failure(error))?;
        subject.accepted = true;
        let accepted = EventKind::Accepted {
            input_files: inputs.len() as u64,
        };
        let run = Run {
            services,
            subject: &subject,
            id: run,
            attempt,
        };
        for kind in [accepted, EventKind::Started] {
            run.report(kind).await;
        }

        let schema = state.schema().cloned().ok_or_else(|| {
            subject.failure(Error::not_found(format!("table {} has no schema", table.name)))
        })?;
        let settings = services
            .table_settings(&table)
            .map_err(|error| subject.failure(error))?;
        let spec = IngestSpec {
            table: table.id.clone(),
            schema,
            leaves: state.leaves().collect(),
            inputs,
            output: services.data.clone(),
            target_file_bytes: settings.file_target_bytes(),
        };
        drop(state);
        let progress = Arc::new(Progress::default());
        let files = tokio::select! {
            biased;
            files = services.ports.engine.ingest(spec, progress.clone()) => files,
            never = run.report_progress(&progress) => match never {},
        }
        .map_err(|error| subject.failure(own_object(error)))?;

        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let count = files.len() as u64;
        let written = EventKind::Written {
            rows_read: rows,
            rows_written: rows,
            files: count,
        };
        run.report(written).await;

        let record = Record::FilesAdded {
            job: job.clone(),
            run: run.id.clone(),
            issued: delivery.sent_at,
            files: files.into_iter().map(Arc::new).collect(),
        };
        let request = Commit::new(CommitId::of_run(&job, run.id), record);
        let outcome = commit(services, &table, request)
            .await
            .map_err(|error| subject.failure(error))?;
        match outcome {
            Outcome::Refused(refusal) => Err(subject.failure(Error::new(refusal.kind, refusal.reason))),
            Outcome::Applied(transaction) => {
                run.measure(Metric::IngestRowsWritten, rows);
                let kind = EventKind::Committed {
                    transaction,
                    rows,
                    files: count,
                };
                run.report(kind).await;
                Ok(())
            }
            Outcome::AlreadyDone(_) => {
                let state = services
                    .states
                    .state(&table.id)
                    .await
                    .map_err(|error| subject.failure(error))?;
                run.report_done(&state).await;
                Ok(())
            }
        }
    }

    /// What a message is about while its table is not known.
    fn untabled(&self, body: &str, message_id: &str) -> Result<Subject> {
        let job = IngestMessage::id_of(body).map_or_else(|| JobId::new(message_id), Ok)?;
        Ok(Subject {
            key: JobKey {
                kind: JobKind::Ingest,
                table: None,
                job,
            },
            table_name: None,
            run: None,
            part: None,
            accepted: false,
        })
    }
}

#[async_trait]
impl Handler for IngestWorker {
    fn queue(&self) -> QueueName {
        QueueName::Ingest
    }

    fn concurrency(&self) -> usize {
        self.services.settings.ingest_concurrency()
    }

    async fn subject(&self, body: &str, message_id: &str) -> Result<Option<Subject>> {
        let mut subject = self.untabled(body, message_id)?;
        if let Ok(message) = IngestMessage::parse(body) {
            match self.services.table(&message.table).await {
                Ok(table) => {
                    subject.key.table = Some(table.id);
                    subject.table_name = Some(table.name.to_string());
                    subject.accepted = true;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(subject))
    }

    async fn handle(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        self.ingest(delivery, run).await
    }
}
