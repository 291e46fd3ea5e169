//! Queues `export` and `export-leaf`: write a whole table as it is at one transaction.
//!
//! The splitter ([`split`]) pins a state and stores a plan, once: whoever plans the same export later reads that
//! plan. The pin keeps every file of the plan. One message a leaf goes out after the plan is stored. A leaf
//! worker ([`leaf`]) writes the leaf's part under the name that the plan gives it, so a part that is written
//! twice is the same object, and counts the part as done, once. Whoever finds all parts done finishes
//! ([`finish`]): the manifest, the mark, the pin goes, the tracker. Every step can run again.

pub mod finish;
pub mod leaf;
pub mod split;

use std::sync::{Arc, Mutex, PoisonError};

use dormouse_core::{
    ErrorKind, Result,
    ids::{ExportId, JobId, RunId, TableId},
    plan::export::ExportPlan,
    tracker::{EventKind, JobKey, JobKind},
};
use object_store::ObjectStoreExt;

use crate::{services::Services, worker::Subject};

pub use leaf::ExportLeafWorker;
pub use split::ExportSplitter;
pub(crate) use split::release_pin;

/// How many plans a process keeps at hand.
const CACHED_PLANS: usize = 4;

/// The plans that this process read last.
#[derive(Debug, Default)]
pub(crate) struct PlanCache(Mutex<Vec<Arc<ExportPlan>>>);

impl PlanCache {
    fn get(&self, table: &TableId, export: &ExportId) -> Option<Arc<ExportPlan>> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans
            .iter()
            .find(|plan| plan.table_id == *table && plan.export_id == *export)
            .cloned()
    }

    fn put(&self, plan: &Arc<ExportPlan>) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|other| other.table_id != plan.table_id || other.export_id != plan.export_id);
        plans.insert(0, plan.clone());
        plans.truncate(CACHED_PLANS);
    }
}

/// The stored plan of an export, if there is one.
///
/// A plan that this process has read before is taken without asking: a plan is stored once. Only who removes an
/// export's objects by hand can tell a difference.
pub(crate) async fn read_plan(
    services: &Services,
    table: &TableId,
    export: &ExportId,
) -> Result<Option<Arc<ExportPlan>>> {
    if let Some(plan) = services.plans.get(table, export) {
        return Ok(Some(plan));
    }
    let path = ExportPlan::path(table, export);
    let stored = services.exports.get(&path).await;
    if is_absent(&stored) {
        return Ok(None);
    }
    let plan = Arc::new(ExportPlan::decode(&stored?.bytes().await?)?);
    services.plans.put(&plan);
    Ok(Some(plan))
}

/// What in the tracker an export is. All its messages report as one run.
fn subject(table: Option<(&TableId, &str)>, export: &ExportId) -> Result<Subject> {
    let job = JobId::from(export);
    Ok(Subject {
        run: Some(RunId::new(job.as_str())?),
        key: JobKey {
            kind: JobKind::Export,
            table: table.map(|(id, _)| id.clone()),
            job,
        },
        table_name: table.map(|(_, name)| name.to_owned()),
        part: None,
        accepted: false,
    })
}

async fn report(services: &Services, subject: &Subject, kind: EventKind) -> Result<()> {
    let run = RunId::new(subject.key.job.as_str())?;
    services
        .tracker
        .record(&subject.key, subject.table_name.as_deref(), (&run, 1), kind)
        .await?;
    Ok(())
}

fn is_absent<T>(result: &std::result::Result<T, object_store::Error>) -> bool {
    matches!(result, Err(object_store::Error::NotFound { .. }))
}

fn is_not_found(error: &dormouse_core::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}
