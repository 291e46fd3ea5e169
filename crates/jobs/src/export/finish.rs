//! The end of an export: the manifest, the mark, the pin goes, the tracker.
//!
//! The mark decides. It is written after the manifest, and both once every part is recorded and its object is
//! there; an export that has it is complete, whatever the tracker has forgotten since, and nothing of it is
//! written again. The tracker comes last: who reads there that the export has finished finds nothing of it under
//! way.

use std::collections::BTreeMap;

use dormouse_core::{
    Error, Result,
    ids::PinId,
    plan::export::{ExportPlan, Manifest},
    tracker::EventKind,
};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};

use super::{
    is_absent, report,
    split::{pin_prefix, release_pin},
    subject,
};
use crate::services::Services;

/// Finishes the export when every part is done, and says whether it is finished.
pub(crate) async fn finish_if_done(services: &Services, plan: &ExportPlan) -> Result<bool> {
    if finish_if_marked(services, plan).await? {
        return Ok(true);
    }
    let progress = services.tracker.parts_progress(plan).await?;
    if progress.done < plan.sub_exports.len() as u64 {
        return Ok(false);
    }
    let parts = services.tracker.parts(plan).await?;
    let Some(manifest) = plan.manifest(&parts) else {
        return Ok(false);
    };
    check_objects(services, plan, &manifest).await?;
    let body = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Error::internal("a manifest cannot be encoded").with_source(error))?;
    let (table, export) = (&plan.table_id, &plan.export_id);
    services
        .exports
        .put(&ExportPlan::manifest_path(table, export), body.into())
        .await?;
    services
        .exports
        .put(&ExportPlan::success_path(table, export), PutPayload::new())
        .await?;
    close(services, plan, &manifest).await?;
    Ok(true)
}

/// Does what may be left of the end of an export that has its mark. Says whether it has.
pub(super) async fn finish_if_marked(services: &Services, plan: &ExportPlan) -> Result<bool> {
    let (table, export) = (&plan.table_id, &plan.export_id);
    let mark = services
        .exports
        .head(&ExportPlan::success_path(table, export))
        .await;
    if is_absent(&mark) {
        return Ok(false);
    }
    mark?;
    let manifest = services
        .exports
        .get(&ExportPlan::manifest_path(table, export))
        .await?;
    let manifest = serde_json::from_slice(&manifest.bytes().await?).map_err(|error| {
        Error::corrupt(format!("the manifest of export {export} is damaged")).with_source(error)
    })?;
    close(services, plan, &manifest).await?;
    Ok(true)
}

/// Every part's object is there, with the size that was recorded: somebody may have removed some since.
async fn check_objects(services: &Services, plan: &ExportPlan, manifest: &Manifest) -> Result<()> {
    let prefix = ExportPlan::prefix(&plan.table_id, &plan.export_id);
    let sizes: BTreeMap<String, u64> = services
        .exports
        .list(Some(&prefix))
        .map_ok(|meta| (meta.location.filename().unwrap_or_default().to_owned(), meta.size))
        .try_collect()
        .await?;
    match manifest
        .files
        .iter()
        .find(|file| sizes.get(&file.file) != Some(&file.bytes))
    {
        None => Ok(()),
        Some(file) => Err(Error::corrupt(format!(
            "{}/{prefix}/{} was written with {} bytes, and is not there any more",
            services.export_bucket(),
            file.file,
            file.bytes
        ))),
    }
}

async fn close(services: &Services, plan: &ExportPlan, manifest: &Manifest) -> Result<()> {
    let (table, export) = (&plan.table_id, &plan.export_id);
    let state = services.states.state(table).await?;
    let pins = pin_prefix(table, export);
    let taken = |pin: &PinId| *pin == plan.pin || pin.as_str().starts_with(&pins);
    for (pin, _) in state.pins().filter(|(pin, _)| taken(pin)) {
        release_pin(services, table, pin).await?;
    }
    let prefix = ExportPlan::prefix(table, export);
    let exported = EventKind::Exported {
        transaction: manifest.transaction,
        sub_exports: manifest.files.len() as u64,
        rows: manifest.rows,
        bytes: manifest.bytes,
        location: format!("{}/{prefix}", services.export_bucket()),
    };
    let subject = subject(Some((table, &plan.table_name)), export)?;
    report(services, &subject, exported).await
}
