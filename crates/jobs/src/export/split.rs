//! Queue `export`: pin a state, store the plan, send a message for each leaf.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    ids::{ExportId, PinId, RunId, SubExportId, TableId},
    message::{ExportLeafMessage, ExportMessage, TableRef, export_leaf::region},
    plan::export::{ExportPlan, SubExport},
    ports::{Delivery, Message, QueueName},
    state::{AsOf, Commit, CommitId, Outcome, Record, TableState},
    tables::TableInfo,
    tracker::EventKind,
};
use object_store::{PutMode, PutOptions};

use super::{
    finish::{finish_if_done, finish_if_marked},
    is_not_found, read_plan, report, subject,
};
use crate::{
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// How many leaf messages are sent at a time.
const SEND_BATCH: usize = 100;

/// Works on the queue `export`.
#[derive(Debug)]
pub struct ExportSplitter {
    services: Services,
}

impl ExportSplitter {
    /// A splitter.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    fn export_id(body: &str, message_id: &str) -> Result<ExportId> {
        ExportMessage::id_of(body).map_or_else(|| ExportId::new(message_id), Ok)
    }

    async fn split(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        let services = &self.services;
        let export = Self::export_id(&delivery.body, &delivery.message_id)?;
        let untabled = subject(None, &export)?;
        let message = ExportMessage::parse(&delivery.body).map_err(|error| untabled.failure(error))?;
        let table = match services.table(&message.table).await {
            Ok(table) => table,
            Err(error) => {
                if is_not_found(&error)
                    && let TableRef::Id(id) = &message.table
                    && self.was_complete(id, &export).await?
                {
                    return Ok(());
                }
                return Err(untabled.failure_of_lookup(error));
            }
        };
        let mut subject = subject(Some((&table.id, table.name.as_str())), &export)?;

        let plan = match read_plan(services, &table.id, &export).await {
            Ok(Some(plan)) => match message.as_of {
                Some(as_of) => self.check_as_of(&plan, as_of).await.map(|()| plan),
                None => Ok(plan),
            },
            Ok(None) => {
                let state = services
                    .states
                    .state_at(&table.id, message.as_of)
                    .await
                    .map_err(|error| subject.failure(error))?;
                report(
                    services,
                    &subject,
                    EventKind::Accepted {
                        input_files: state.file_count() as u64,
                    },
                )
                .await
                .map_err(|error| subject.failure(error))?;
                subject.accepted = true;
                let planned = self.plan(&table, &export, &state, run).await;
                planned.map_err(|error| match error.kind() {
                    // The newest state has left the history since it was read: the next attempt reads a newer one.
                    ErrorKind::Conflict if message.as_of.is_none() => Error::unavailable(
                        "the newest state was too old to pin; the next attempt takes a newer one",
                    )
                    .with_source(error),
                    _ => error,
                })
            }
            Err(error) => Err(error),
        };
        subject.accepted = true;
        let plan = plan.map_err(|error| subject.failure(error))?;
        self.send(&subject, &plan)
            .await
            .map_err(|error| subject.failure(error))
    }

    /// Whether an export was complete before its table was deleted; does what is left of its end.
    async fn was_complete(&self, table: &TableId, export: &ExportId) -> Result<bool> {
        match read_plan(&self.services, table, export).await? {
            Some(plan) => finish_if_marked(&self.services, &plan).await,
            None => Ok(false),
        }
    }

    /// Checks that the stored plan is of the state that a repeated message asks for.
    async fn check_as_of(&self, plan: &ExportPlan, as_of: AsOf) -> Result<()> {
        let asked = match as_of {
            AsOf::Transaction(number) => number,
            AsOf::Time(_) => match self.services.states.state_as_of(&plan.table_id, as_of).await {
                Ok(state) => state.transaction(),
                // A message may come again after the state that it asked for has left the history.
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        if asked == plan.transaction {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "export {} is of transaction {} and not of {asked}: an id is one export; give this one another id",
            plan.export_id, plan.transaction
        )))
    }

    /// Pins the state and stores its plan, or returns the plan that another run stored first.
    async fn plan(
        &self,
        table: &TableInfo,
        export: &ExportId,
        state: &TableState,
        run: &RunId,
    ) -> Result<Arc<ExportPlan>> {
        let services = &self.services;
        let pin = PinId::new(format!("{}{run}", pin_prefix(&table.id, export)))?;
        let now = services.ports.clock.now();
        let rules = services.table_settings(table)?.row_rules().at(now);
        let name = (&table.id, table.name.as_str());
        let plan = ExportPlan::new(name, export, pin.clone(), state, rules)?;
        let until = now.plus(services.settings.export_pin());
        let record = Record::PinTaken {
            pin: pin.clone(),
            transaction: state.transaction(),
            until,
        };
        let request = Commit::new(CommitId::new(format!("pin/{pin}")), record);
        let pinned = services.states.commit(&table.id, request).await?;
        if let Outcome::Refused(refusal) = pinned.outcome {
            return Err(Error::new(refusal.kind, refusal.reason));
        }
        let path = ExportPlan::path(&table.id, export);
        let create = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        match services
            .exports
            .put_opts(&path, plan.encode()?.into(), create)
            .await
        {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let stored = read_plan(services, &table.id, export)
            .await?
            .ok_or_else(|| Error::unavailable(format!("the plan of export {export} cannot be read back")))?;
        if stored.pin != pin {
            release_pin(services, &stored.table_id, &pin).await?;
        }
        Ok(stored)
    }

    async fn send(&self, subject: &Subject, plan: &ExportPlan) -> Result<()> {
        let services = &self.services;
        let sub_exports = plan.sub_exports.len() as u64;
        report(
            services,
            subject,
            EventKind::Split {
                transaction: plan.transaction,
                sub_exports,
            },
        )
        .await?;
        if finish_if_done(services, plan).await? {
            return Ok(());
        }
        let done: BTreeSet<SubExportId> = services
            .tracker
            .parts(plan)
            .await?
            .into_iter()
            .map(|part| part.sub_export)
            .collect();
        let left: Vec<_> = plan
            .sub_exports
            .iter()
            .filter(|part| !done.contains(&part.id))
            .collect();
        let queue = services.queue(QueueName::ExportLeaf)?;
        for batch in left.chunks(SEND_BATCH) {
            let messages = batch
                .iter()
                .map(|part| leaf_message(plan, part))
                .collect::<Result<Vec<_>>>()?;
            queue.send(messages).await?;
        }
        Ok(())
    }
}

fn leaf_message(plan: &ExportPlan, part: &SubExport) -> Result<Message> {
    let files = part
        .files
        .iter()
        .map(|file| file.name.object_path(&plan.table_id).to_string())
        .collect();
    let message = ExportLeafMessage::new(
        plan.table_id.clone(),
        plan.export_id.clone(),
        part.id.clone(),
        (part.leaf.id.clone(), region(&plan.schema, &part.leaf.bounds)),
        files,
    );
    Ok(Message::new(message.to_body()?))
}

/// What the names of an export's pins begin with. A run that died after it took its pin leaves one that no plan
/// names; the prefix tells whose it is.
pub(super) fn pin_prefix(table: &TableId, export: &ExportId) -> String {
    format!("export-{}-", ExportPlan::namespace(table, export))
}

/// Gives a pin back. A table that is gone has none.
pub(crate) async fn release_pin(services: &Services, table: &TableId, pin: &PinId) -> Result<()> {
    let request = Commit::new(
        CommitId::new(format!("unpin/{pin}")),
        Record::PinReleased { pin: pin.clone() },
    );
    let released = services.states.commit(table, request).await?;
    match released.outcome.into_result() {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Handler for ExportSplitter {
    fn queue(&self) -> QueueName {
        QueueName::Export
    }

    fn concurrency(&self) -> usize {
        2
    }

    async fn subject(&self, body: &str, message_id: &str) -> Result<Option<Subject>> {
        let export = Self::export_id(body, message_id)?;
        if let Ok(message) = ExportMessage::parse(body) {
            match self.services.table(&message.table).await {
                Ok(table) => {
                    let mut subject = subject(Some((&table.id, table.name.as_str())), &export)?;
                    subject.accepted = true;
                    return Ok(Some(subject));
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        subject(None, &export).map(Some)
    }

    async fn handle(&self, delivery: &Delivery, run: &RunId) -> Result<(), JobFailure> {
        self.split(delivery, run).await
    }
}
