//! What must hold once all is quiet, whatever went before.

use std::{collections::BTreeMap, time::Duration};

use dormouse_core::{
    bulk::{BulkFilter, FailureCode},
    ids::{BulkJobId, ExportId, JobId, TableId},
    plan::export::{ExportPlan, Manifest},
    ports::{Clock, QueueName},
    state::{StateStore, invariants::Invariant, snapshot},
    tables::TableInfo,
    tenants::TenantId,
    testing::{memory::MemoryRowEngine, rows::Row},
    tracker::{JobKind, JobReport, JobStatus},
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use super::instance::Instance;
use crate::{
    bulk, compaction,
    doctor::{Depth, examine},
    schedule::Schedule,
    splitting,
};

/// Longer than history, orphans and pins are kept.
const LONG: Duration = Duration::from_secs(8 * 24 * 3600);

/// Longer than a job is silent before it counts as lost.
const LOST: Duration = Duration::from_secs(3 * 3600);

/// Longer than a compaction's lease, with its margin.
const LEASED: Duration = Duration::from_secs(3600);

/// How often compactions are made until there are none to make.
const REST_ROUNDS: u32 = 50;

/// A job as its client knows it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The name of its table.
    pub table: String,
    /// Whether its rows are to come into the table.
    pub good: bool,
}

/// What clients and operators asked for.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The jobs.
    pub jobs: BTreeMap<JobId, Sent>,
    /// Exports, and the table of each.
    pub exports: BTreeMap<String, TableId>,
    /// The tables that there are, by name.
    pub tables: BTreeMap<String, TableInfo>,
    /// Names whose table was dropped at some time.
    pub dropped: Vec<String>,
    /// Whether clocks leapt by more than an hour.
    pub leapt: bool,
    /// Whether a snapshot was damaged.
    pub damaged: bool,
    /// Whether messages came again long after all was done.
    pub aged: bool,
}

/// What the checks went over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Complete exports, equal to their table.
    pub exports: u64,
    /// Rows in tables.
    pub rows: u64,
}

/// Checks everything. What is wrong, the auditor is told.
pub async fn all(instance: &Instance, expected: &mut Expected) -> Found {
    instance.leap(LOST);
    if let Err(error) = Schedule::Repair.run_once(&instance.operator).await {
        let text = format!("Tracker: {}", error.report());
        instance.stage.auditor.violation(text);
    }
    jobs(instance, expected).await;
    let mut exports = 0;
    for (export, table) in &expected.exports {
        exports += u64::from(self::export(instance, expected, export, table).await);
    }
    let rows = tables(instance, expected).await;
    last_exports(instance, expected).await;
    rest(instance, expected).await;
    let rows = tables(instance, expected).await.min(rows);
    sweep(instance, expected).await;
    doctor(instance, expected).await;
    Found { exports, rows }
}

/// How many rows a bulk job that has ended has written; none when it has failed as its table is not there. Its files
/// are as its manifest says, and it is its own only end.
pub async fn bulk_job(instance: &Instance, id: &BulkJobId) -> Option<u64> {
    let wrong = |text: String| instance.stage.auditor.violation(text);
    let job = instance
        .operator
        .bulk
        .get(&TenantId::instance(), id)
        .await
        .unwrap();
    let Some(job) = job else {
        wrong(format!("Bulk: job {id} is gone"));
        return None;
    };
    let ends = job
        .history
        .iter()
        .filter(|(state, _)| state.is_terminal())
        .count();
    if ends != 1 {
        wrong(format!("Bulk: job {id} has ended {ends} times"));
    }
    if let Some(failure) = &job.failure {
        if failure.code != FailureCode::QueryError {
            wrong(format!("Bulk: job {id} has failed: {failure:?}"));
        }
        return None;
    }
    let manifest = bulk::manifest(&instance.operator, &job).await.unwrap();
    let exports = instance.storage.bucket("exports");
    let mut rows = 0;
    for file in &manifest.files {
        let stored = exports.get(&Path::from(file.path.as_str())).await.unwrap();
        let body = stored.bytes().await.unwrap();
        if body.len() as u64 != file.bytes {
            wrong(format!(
                "Bulk: {} has {} bytes, not {}",
                file.path,
                body.len(),
                file.bytes
            ));
        }
        rows += body.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    if rows != manifest.rows {
        wrong(format!(
            "Bulk: job {id} has {rows} rows, and says {}",
            manifest.rows
        ));
    }
    Some(rows)
}

/// Once their time is over, nothing is left of bulk jobs.
pub async fn no_bulk_jobs(instance: &Instance) {
    instance.leap(LONG);
    if let Err(error) = Schedule::Bulk.run_once(&instance.operator).await {
        let text = format!("Bulk: {}", error.report());
        instance.stage.auditor.violation(text);
    }
    let left = objects(instance, "exports", "exports").await;
    let (tenant, all) = (TenantId::instance(), BulkFilter::default());
    let jobs = instance.operator.bulk.list(&tenant, &all, None, 9).await;
    let jobs = jobs.unwrap().jobs;
    if !left.is_empty() || !jobs.is_empty() {
        let text = format!("Bulk: {left:?} and {jobs:?} are left");
        instance.stage.auditor.violation(text);
    }
}

/// The names of all objects of a bucket below a prefix, sorted.
async fn objects(instance: &Instance, bucket: &str, prefix: &str) -> Vec<String> {
    let store = instance.storage.bucket(bucket);
    let listed: Vec<_> = store.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

async fn reports(instance: &Instance, job: &JobId) -> Vec<JobReport> {
    instance.operator.tracker.reports(job).await.unwrap()
}

/// Every job has come to a truthful end.
async fn jobs(instance: &Instance, expected: &Expected) {
    let wrong = |text: String| instance.stage.auditor.violation(text);
    for (job, sent) in &expected.jobs {
        let committed = instance.stage.auditor.committed(job);
        let reports = reports(instance, job).await;
        let statuses: Vec<_> = reports
            .iter()
            .map(|report| {
                (
                    report.key.table.clone(),
                    report.status,
                    report.reasons().join("; "),
                )
            })
            .collect();
        for report in &reports {
            let in_log = report
                .key
                .table
                .as_ref()
                .is_some_and(|table| committed.contains(table));
            if report.status == JobStatus::Finished && !in_log {
                wrong(format!(
                    "Tracker: job {job} is FINISHED and never committed: {statuses:?}"
                ));
            }
            let live = expected
                .tables
                .values()
                .any(|table| Some(&table.id) == report.key.table.as_ref());
            if in_log && live && report.status != JobStatus::Finished && !expected.aged {
                wrong(format!(
                    "Tracker: job {job} committed and is {:?}: {statuses:?}",
                    report.status
                ));
            }
            if !report.status.is_final() && (live || report.key.table.is_none()) {
                wrong(format!("Accept: job {job} has no end: {statuses:?}"));
            }
        }
        let forgotten = expected.leapt && reports.is_empty();
        if !sent.good {
            if !committed.is_empty() {
                wrong(format!("Rows: the bad job {job} committed"));
            }
            if !forgotten && !reports.iter().any(|report| report.status.is_final()) {
                wrong(format!("Accept: the bad job {job} has no end: {statuses:?}"));
            }
            continue;
        }
        let table = expected.tables.get(&sent.table);
        let here = table.is_some_and(|table| committed.contains(&table.id));
        let dropped = expected.dropped.contains(&sent.table);
        if !here && !dropped {
            wrong(format!(
                "Accept: job {job} of table {} is lost: {statuses:?}",
                sent.table
            ));
        }
        if dropped
            && committed.is_empty()
            && !forgotten
            && !reports.iter().any(|report| report.status.is_final())
        {
            wrong(format!(
                "Accept: job {job} of a dropped table has no end: {statuses:?}"
            ));
        }
    }
}

fn decoded(instance: &Instance, object: bytes::Bytes) -> Vec<Row> {
    instance.rows.decode(object).unwrap_or_default()
}

/// An export is complete and equal to its table at one transaction, or failed for a reason that there was.
async fn export(instance: &Instance, expected: &Expected, export: &str, table: &TableId) -> bool {
    let wrong = |text: String| {
        instance.stage.auditor.violation(text);
        false
    };
    let id = ExportId::new(export).unwrap();
    let reports = reports(instance, &JobId::from(&id)).await;
    let reports: Vec<_> = reports
        .into_iter()
        .filter(|report| report.key.kind == JobKind::Export)
        .collect();
    let finished = reports.iter().any(|report| report.status == JobStatus::Finished);
    let names = objects(instance, "exports", ExportPlan::prefix(table, &id).as_ref()).await;
    let has = |name: &str| names.iter().any(|path| path.ends_with(name));
    if !has("_SUCCESS") {
        let live = expected.tables.values().any(|info| info.id == *table);
        if finished {
            return wrong(format!("Export: {export} is FINISHED and has no mark"));
        }
        let ended = reports.iter().any(|report| report.status.is_final());
        let forgotten = expected.leapt && reports.is_empty();
        if !ended && !forgotten {
            return wrong(format!("Accept: export {export} has no end: {reports:?}"));
        }
        if live && !expected.leapt {
            return wrong(format!(
                "Export: {export} failed: {:?}",
                reports.iter().map(JobReport::reasons).collect::<Vec<_>>()
            ));
        }
        return false;
    }
    if !finished && !expected.leapt && !reports.is_empty() {
        return wrong(format!(
            "Tracker: export {export} has its mark and is {:?}",
            reports[0].status
        ));
    }
    let store = instance.storage.bucket("exports");
    let read = async |path: &Path| store.get(path).await.unwrap().bytes().await.unwrap();
    let manifest: Manifest = match serde_json::from_slice(&read(&ExportPlan::manifest_path(table, &id)).await)
    {
        Ok(manifest) => manifest,
        Err(error) => return wrong(format!("Export: the manifest of {export}: {error}")),
    };
    let mut rows = Vec::new();
    for file in &manifest.files {
        let path = ExportPlan::prefix(table, &id).join(file.file.as_str());
        let Ok(object) = store.get(&path).await else {
            return wrong(format!("Export: {path} is not there"));
        };
        let object = object.bytes().await.unwrap();
        if object.len() as u64 != file.bytes || MemoryRowEngine::checksum(&object) != file.crc64_nvme {
            return wrong(format!("Export: {path} is not what its manifest says"));
        }
        let part = decoded(instance, object);
        if part.len() as u64 != file.rows || !part.is_sorted_by_key(|row| row.0) {
            return wrong(format!("Order: {path} has {} rows", part.len()));
        }
        rows.extend(part);
    }
    if !rows.is_sorted_by_key(|row| row.0) || rows.len() as u64 != manifest.rows {
        return wrong(format!("Order: the files of {export} are not in order"));
    }
    if names.len() != manifest.files.len() + 3 {
        return wrong(format!(
            "Export: {export} has objects beside its manifest: {names:?}"
        ));
    }
    let expected = instance.stage.auditor.rows_at(table, manifest.transaction);
    if let Some(difference) = expected.differ_from(&rows) {
        return wrong(format!(
            "Snapshot read: export {export} of transaction {} has {difference}",
            manifest.transaction
        ));
    }
    true
}

/// Every table holds the rows that its log says, a fresh reader sees the same state as the auditor, and every file
/// is what the state says.
async fn tables(instance: &Instance, expected: &Expected) -> u64 {
    let wrong = |text: String| instance.stage.auditor.violation(text);
    let mut total = 0;
    for (name, info) in &expected.tables {
        let ports = &instance.operator.ports;
        let data = instance.operator.data.clone();
        let fresh = StateStore::new(
            ports.items.clone(),
            data.clone(),
            ports.clock.clone(),
            ports.ids.clone(),
        );
        let state = match fresh.state(&info.id).await {
            Ok(state) => state,
            Err(error) => {
                wrong(format!("Replay: table {name} cannot be read: {}", error.report()));
                continue;
            }
        };
        let audited = instance.stage.auditor.state(&info.id);
        if snapshot::encode(&info.id, &state).unwrap() != snapshot::encode(&info.id, &audited).unwrap() {
            wrong(format!(
                "Replay: table {name} reads as of {}, and its log ends at {}",
                state.transaction(),
                audited.transaction()
            ));
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut files: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for leaf in state.leaves() {
            for reference in state.references(&leaf.id) {
                let path = reference.file.name.object_path(&info.id);
                if !files.contains_key(path.as_ref()) {
                    let Ok(object) = data.get(&path).await else {
                        wrong(format!("Files: {path} is not there"));
                        continue;
                    };
                    let object = decoded(instance, object.bytes().await.unwrap());
                    if !object.is_sorted_by_key(|row| row.0) {
                        wrong(format!("Order: {path} is not sorted"));
                    }
                    files.insert(path.to_string(), object);
                }
                let file = files.get(path.as_ref()).map(Vec::as_slice).unwrap_or_default();
                rows.extend(
                    file.iter()
                        .filter(|row| leaf.bounds.contains(&instance.rows.key(row.0)))
                        .cloned(),
                );
            }
        }
        let expected = instance.stage.auditor.rows_at(&info.id, state.transaction());
        if let Some(difference) = expected.differ_from(&rows) {
            wrong(format!("Rows: table {name} holds {difference}"));
        }
        let exact = state.leaves().all(|leaf| {
            state
                .references(&leaf.id)
                .all(|reference| reference.exact().is_some())
        });
        if exact && state.rows() != rows.len() as u64 {
            wrong(format!(
                "Rows: table {name} counts {} rows and has {}",
                state.rows(),
                rows.len()
            ));
        }
        total += rows.len() as u64;
    }
    total
}

/// The instance still works: each table can be exported.
async fn last_exports(instance: &Instance, expected: &Expected) {
    let mut exports = Vec::new();
    for (name, info) in &expected.tables {
        let export = format!("last-export-of-{name}");
        let body = format!(r#"{{"tableId":"{}","exportId":"{export}"}}"#, info.id);
        instance.send(QueueName::Export, body).await;
        exports.push((export, &info.id));
    }
    instance.drained("after the last exports").await;
    for (export, table) in exports {
        if !self::export(instance, expected, &export, table).await {
            let text = format!("Accept: the last export of table {table} did not finish");
            instance.stage.auditor.violation(text);
        }
    }
}

/// Compactions and splits come to rest.
async fn rest(instance: &Instance, expected: &Expected) {
    for _ in 0..REST_ROUNDS {
        instance.leap(LEASED);
        let mut made = 0;
        for info in expected.tables.values() {
            let settings = instance.operator.table_settings(info).unwrap();
            let created = compaction::create(&instance.operator, info, settings.compaction_policy()).await;
            made += created.unwrap().len();
            made += splitting::find(&instance.operator, info).await.unwrap();
        }
        instance.drained("after compactions and splits").await;
        if made == 0 {
            return;
        }
    }
    let text = format!("Liveness: compactions and splits do not come to rest in {REST_ROUNDS} rounds");
    instance.stage.auditor.violation(text);
}

/// Long after, only what the state refers to is left.
async fn sweep(instance: &Instance, expected: &Expected) {
    let wrong = |text: String| instance.stage.auditor.violation(text);
    for _ in 0..3 {
        instance.leap(LONG);
        for schedule in [Schedule::Snapshots, Schedule::Garbage] {
            if let Err(error) = schedule.run_once(&instance.operator).await {
                wrong(format!("Orphans: {schedule:?}: {}", error.report()));
            }
        }
    }
    for info in expected.tables.values() {
        let state = instance.stage.auditor.state(&info.id);
        let kept: Vec<_> = state
            .files()
            .map(|(file, _)| file.name.object_path(&info.id).to_string())
            .collect();
        let found = objects(instance, "data", &format!("{}/data", info.id)).await;
        if found != kept {
            wrong(format!(
                "Orphans: table {} refers to {kept:?}, and there are {found:?}",
                info.name
            ));
        }
        let mut used: Vec<_> = instance.operator.states.object_paths(&info.id).await.unwrap();
        used.sort();
        let used: Vec<_> = used.iter().map(ToString::to_string).collect();
        let mut left = objects(instance, "data", &format!("{}/statestore", info.id)).await;
        left.extend(objects(instance, "data", &format!("{}/commits", info.id)).await);
        left.retain(|path| !used.contains(path));
        if !left.is_empty() {
            wrong(format!("Orphans: table {} left {left:?}", info.name));
        }
        let now = instance.stage.clock.now();
        if let Some((pin, _)) = state.pins().find(|(_, pin)| pin.is_live(now)) {
            wrong(format!("Orphans: table {} has pin {pin}", info.name));
        }
    }
    let live: Vec<_> = expected.tables.values().map(|info| info.id.clone()).collect();
    for (table, _) in instance.stage.auditor.tables() {
        if !live.contains(&table) {
            let left = objects(instance, "data", table.as_str()).await;
            if !left.is_empty() {
                wrong(format!("Orphans: the dropped table {table} left {left:?}"));
            }
        }
    }
}

/// The doctor finds every table sound, to the last row. What the operator damaged stays damaged.
async fn doctor(instance: &Instance, expected: &Expected) {
    for info in expected.tables.values() {
        let examined = Box::pin(examine(&instance.operator, info, Depth::Deep)).await;
        let text = match examined {
            Ok(report) => {
                let found = report.findings.iter();
                let found = found.filter(|found| found.invariant != Invariant::Replay || !expected.damaged);
                found.map(|found| format!("; {found}")).collect::<String>()
            }
            Err(error) => error.report(),
        };
        if !text.is_empty() {
            let text = format!("Doctor: table {}: {text}", info.name);
            instance.stage.auditor.violation(text);
        }
    }
}
