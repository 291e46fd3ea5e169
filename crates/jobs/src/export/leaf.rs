//! Queue `export-leaf`: write one leaf's part of an export.

use std::sync::Arc;

use async_trait::async_trait;
use dormouse_core::{
    Error, ErrorKind, Result,
    file::{Checksum, RowDigest},
    ids::RunId,
    key::KeyRange,
    message::ExportLeafMessage,
    plan::export::{ExportPlan, PlannedCopy, SubExport},
    ports::{Delivery, ExportSpec, MergeInput, Metric, Progress, QueueName},
    tracker::{EventKind, ExportPart},
};

use super::{
    finish::{finish_if_done, finish_if_marked},
    read_plan, report, subject,
};
use crate::{
    services::Services,
    worker::{Handler, JobFailure, Subject},
};

/// Works on the queue `export-leaf`.
#[derive(Debug)]
pub struct ExportLeafWorker {
    services: Services,
}

impl ExportLeafWorker {
    /// A worker.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    async fn write(&self, delivery: &Delivery) -> Result<(), JobFailure> {
        let message = ExportLeafMessage::parse(&delivery.body)?;
        let subject = part_subject(&message, "-")?;
        let plan = read_plan(&self.services, &message.table_id, &message.export_id)
            .await
            .map_err(|error| subject.failure(error))?;
        // Messages that name what was never planned are about nobody's export.
        let plan = plan.ok_or_else(|| {
            Error::not_found(format!(
                "export {} of table {} has no plan: leaf messages are sent after it is stored",
                message.export_id, message.table_id
            ))
        })?;
        let planned = plan.sub_export(&message.sub_export_id).ok_or_else(|| {
            Error::invalid(format!(
                "export {} has no part {} in its plan",
                plan.export_id, message.sub_export_id
            ))
        })?;
        let subject = part_subject(&message, &plan.table_name)?;
        self.write_part(&subject, &plan, planned)
            .await
            .map_err(|error| subject.failure(error))
    }

    async fn write_part(&self, subject: &Subject, plan: &ExportPlan, planned: &SubExport) -> Result<()> {
        let services = &self.services;
        if finish_if_marked(services, plan).await? {
            return Ok(());
        }
        if services.tracker.part(plan, &planned.id).await?.is_none() {
            let part = match &planned.copy {
                Some(copy) => self.copy(plan, planned, copy).await?,
                None => self.merge(plan, planned).await?,
            };
            let progress = services.tracker.record_part(plan, &part).await?;
            let measured = [(Metric::ExportRowsWritten, part.rows as f64)];
            services.metrics.put(subject.table_name.as_deref(), &measured);
            let event = EventKind::PartsDone {
                done: progress.done,
                rows: progress.rows,
                bytes: progress.bytes,
            };
            // The next part says it again.
            if let Err(error) = report(services, subject, event).await {
                tracing::warn!(export = %plan.export_id, error = error.report(), "progress not reported");
            }
        }
        finish_if_done(services, plan).await?;
        Ok(())
    }

    /// Copies the leaf's one file inside the store.
    async fn copy(&self, plan: &ExportPlan, planned: &SubExport, copy: &PlannedCopy) -> Result<ExportPart> {
        let services = &self.services;
        let [file] = planned.files.as_slice() else {
            return Err(Error::corrupt(format!(
                "part {} copies more than one file",
                planned.id
            )));
        };
        let from = file.name.object_path(&plan.table_id);
        let to = plan.part_path(&planned.id);
        let (data, exports) = (services.data_bucket(), services.export_bucket());
        let receipt = services
            .ports
            .copy
            .copy((&data, &from), (&exports, &to))
            .await
            .map_err(|error| missing_is_corrupt(error, plan, planned))?;
        if receipt.bytes != file.bytes || receipt.checksum != file.checksum {
            return Err(Error::corrupt(format!(
                "file {} has {} bytes with checksum {}, and the table's state says {} bytes with {}",
                file.name, receipt.bytes, receipt.checksum, file.bytes, file.checksum
            )));
        }
        let (rows, digest) = (copy.rows, copy.digest);
        let range = Some(copy.range.clone());
        Ok(part(
            planned,
            (rows, receipt.bytes),
            receipt.checksum,
            digest,
            range,
        ))
    }

    /// Merges the leaf's files.
    async fn merge(&self, plan: &ExportPlan, planned: &SubExport) -> Result<ExportPart> {
        let services = &self.services;
        let inputs = planned
            .files
            .iter()
            .map(|file| MergeInput {
                store: services.data.clone(),
                path: file.name.object_path(&plan.table_id),
                bytes: file.bytes,
                checksum: file.checksum,
                exact: file.exact,
            })
            .collect();
        let spec = ExportSpec {
            schema: plan.schema.clone(),
            leaf: planned.leaf.clone(),
            inputs,
            rules: plan.rules.clone(),
            output: services.exports.clone(),
            output_path: plan.part_path(&planned.id),
        };
        let written = services
            .ports
            .engine
            .export(spec, Arc::new(Progress::default()))
            .await
            .map_err(|error| missing_is_corrupt(error, plan, planned))?;
        Ok(part(
            planned,
            (written.rows, written.bytes),
            written.checksum,
            written.digest,
            written.range,
        ))
    }
}

fn part(
    planned: &SubExport,
    (rows, bytes): (u64, u64),
    checksum: Checksum,
    digest: RowDigest,
    range: Option<KeyRange>,
) -> ExportPart {
    ExportPart {
        sub_export: planned.id.clone(),
        rows,
        bytes,
        checksum,
        digest,
        range,
    }
}

fn part_subject(message: &ExportLeafMessage, table_name: &str) -> Result<Subject> {
    Ok(Subject {
        accepted: true,
        part: Some(message.sub_export_id.to_string()),
        ..subject(Some((&message.table_id, table_name)), &message.export_id)?
    })
}

/// A file that the plan names and that is not there means that the pin has run out, or that the store lost it.
fn missing_is_corrupt(error: Error, plan: &ExportPlan, planned: &SubExport) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    Error::corrupt(format!(
        "a file of leaf {} of table \"{}\" at transaction {} is gone: the export took longer than \
         `export.pin.hours`, the table was deleted, or the store lost it",
        planned.leaf.id, plan.table_name, plan.transaction
    ))
    .with_source(error)
}

#[async_trait]
impl Handler for ExportLeafWorker {
    fn queue(&self) -> QueueName {
        QueueName::ExportLeaf
    }

    fn concurrency(&self) -> usize {
        self.services.settings.export_concurrency()
    }

    async fn subject(&self, body: &str, _message_id: &str) -> Result<Option<Subject>> {
        let Ok(message) = ExportLeafMessage::parse(body) else {
            return Ok(None);
        };
        let table = self.services.tables.by_id(&message.table_id).await?;
        let name = table.as_ref().map_or("-", |table| table.name.as_str());
        part_subject(&message, name).map(Some)
    }

    async fn handle(&self, delivery: &Delivery, _run: &RunId) -> Result<(), JobFailure> {
        self.write(delivery).await
    }
}
