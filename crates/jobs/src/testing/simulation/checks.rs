//! What must hold once all is quiet.

use std::{collections::BTreeMap, time::Duration};

use dormouse_core::{
    ids::{ExportId, JobId, TableId},
    plan::export::{ExportPlan, Manifest},
    state::{StateStore, snapshot},
    tracker::{JobKind, JobReport, JobStatus},
};
use object_store::{ObjectStoreExt, path::Path};

use super::{Run, Summary, script::Script};
use crate::{
    schedule::Schedule,
    testing::rows::Row,
};

/// Longer than history, orphans and pins are kept.
const LONG: Duration = Duration::from_secs(8 * 24 * 3600);

/// Longer than a job is silent before it counts as lost.
const LOST: Duration = Duration::from_secs(3 * 3600);

/// Checks everything, and counts what it was.
pub(super) async fn all(run: &Run, script: &mut Script<'_>) -> Summary {
    run.stage.clock.jump(LOST.as_millis() as i64);
    if let Err(error) = Schedule::Repair.run_once(&run.operator).await {
        run.stage.auditor.violation(format!("Tracker: {}", error.report()));
    }
    jobs(run, script).await;
    let mut exported = 0;
    for (export, table) in script.exports.clone() {
        exported += u64::from(self::export(run, script, &export, &table).await);
    }
    let rows = tables(run, script).await;
    last_export(run, script).await;
    sweep(run, script).await;
    Summary {
        jobs: script.jobs.len() as u64,
        exports: exported,
        rows,
        ..Summary::default()
    }
}

async fn reports(run: &Run, job: &JobId) -> Vec<JobReport> {
    run.operator.tracker.reports(job).await.unwrap()
}

/// Every job has come to a truthful end.
async fn jobs(run: &Run, script: &Script<'_>) {
    let wrong = |text: String| run.stage.auditor.violation(text);
    for (job, sent) in &script.jobs {
        let committed = run.stage.auditor.committed(job);
        let reports = reports(run, job).await;
        let statuses: Vec<_> = reports
            .iter()
            .map(|report| (report.key.table.clone(), report.status, report.reasons().join("; ")))
            .collect();
        for report in &reports {
            let in_log = report.key.table.as_ref().is_some_and(|table| committed.contains(table));
            if report.status == JobStatus::Finished && !in_log {
                wrong(format!("Tracker: job {job} is FINISHED and never committed: {statuses:?}"));
            }
            let live = script.tables.values().any(|table| Some(&table.id) == report.key.table.as_ref());
            if in_log && live && report.status != JobStatus::Finished && !script.aged {
                wrong(format!("Tracker: job {job} committed and is {:?}: {statuses:?}", report.status));
            }
            if !report.status.is_final() && (live || report.key.table.is_none()) {
                wrong(format!("Accept: job {job} has no end: {statuses:?}"));
            }
        }
        let forgotten = script.leapt && reports.is_empty();
        if !sent.good {
            if !committed.is_empty() {
                wrong(format!("Rows: the bad job {job} committed"));
            }
            if !forgotten && !reports.iter().any(|report| report.status.is_final()) {
                wrong(format!("Accept: the bad job {job} has no end: {statuses:?}"));
            }
            continue;
        }
        let table = script.tables.get(&sent.table);
        let here = table.is_some_and(|table| committed.contains(&table.id));
        let dropped = script.dropped.contains(&sent.table);
        if !here && !dropped {
            wrong(format!("Accept: job {job} of table {} is lost: {statuses:?}", sent.table));
        }
        if dropped && committed.is_empty() && !forgotten && !reports.iter().any(|report| report.status.is_final()) {
            wrong(format!("Accept: job {job} of a dropped table has no end: {statuses:?}"));
        }
    }
}

fn decoded(run: &Run, object: bytes::Bytes) -> Vec<Row> {
    run.rows.decode(object).unwrap_or_default()
}

/// An export is complete and equal to its table at one transaction, or failed for a reason that there was.
async fn export(run: &Run, script: &Script<'_>, export: &str, table: &TableId) -> bool {
    let wrong = |text: String| {
        run.stage.auditor.violation(text);
        false
    };
    let id = ExportId::new(export).unwrap();
    let reports = reports(run, &JobId::from(&id)).await;
    let reports: Vec<_> = reports.into_iter().filter(|report| report.key.kind == JobKind::Export).collect();
    let finished = reports.iter().any(|report| report.status == JobStatus::Finished);
    let names = script.objects("exports", ExportPlan::prefix(table, &id).as_ref()).await;
    let has = |name: &str| names.iter().any(|path| path.ends_with(name));
    if !has("_SUCCESS") {
        let live = script.tables.values().any(|info| info.id == *table);
        if finished {
            return wrong(format!("Export: {export} is FINISHED and has no mark"));
        }
        let ended = reports.iter().any(|report| report.status.is_final());
        if !ended && !(script.leapt && reports.is_empty()) {
            return wrong(format!("Accept: export {export} has no end: {reports:?}"));
        }
        if live && !script.leapt {
            return wrong(format!("Export: {export} failed: {:?}", reports.iter().map(JobReport::reasons).collect::<Vec<_>>()));
        }
        return false;
    }
    if !finished && !script.leapt && !reports.is_empty() {
        return wrong(format!("Tracker: export {export} has its mark and is {:?}", reports[0].status));
    }
    let store = run.storage.bucket("exports");
    let read = async |path: &Path| store.get(path).await.unwrap().bytes().await.unwrap();
    let manifest: Manifest = match serde_json::from_slice(&read(&ExportPlan::manifest_path(table, &id)).await) {
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
        if object.len() as u64 != file.bytes
            || dormouse_core::testing::memory::MemoryRowEngine::checksum(&object) != file.crc64_nvme
        {
            return wrong(format!("Export: {path} is not what its manifest says"));
        }
        let part = decoded(run, object);
        if part.len() as u64 != file.rows || !part.is_sorted_by_key(|row| row.0) {
            return wrong(format!("Order: {path} has {} rows", part.len()));
        }
        rows.extend(part);
    }
    if !rows.is_sorted_by_key(|row| row.0) || rows.len() as u64 != manifest.rows {
        return wrong(format!("Order: the files of {export} are not in order"));
    }
    if names.len() != manifest.files.len() + 3 {
        return wrong(format!("Export: {export} has objects beside its manifest: {names:?}"));
    }
    rows.sort();
    let expected = run.stage.auditor.rows_at(table, manifest.transaction);
    if rows != expected {
        return wrong(format!(
            "Snapshot read: export {export} has {} rows, and the table had {} at {}",
            rows.len(),
            expected.len(),
            manifest.transaction
        ));
    }
    true
}

/// Every table holds the rows that its log says, a fresh reader sees the same state as the auditor, and every file
/// is what the state says.
async fn tables(run: &Run, script: &Script<'_>) -> u64 {
    let wrong = |text: String| run.stage.auditor.violation(text);
    let mut total = 0;
    for (name, info) in &script.tables {
        let ports = &run.operator.ports;
        let data = run.operator.data.clone();
        let fresh = StateStore::new(ports.items.clone(), data.clone(), ports.clock.clone(), ports.ids.clone());
        let state = match fresh.state(&info.id).await {
            Ok(state) => state,
            Err(error) => {
                wrong(format!("Replay: table {name} cannot be read: {}", error.report()));
                continue;
            }
        };
        let audited = run.stage.auditor.state(&info.id);
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
                    let object = decoded(run, object.bytes().await.unwrap());
                    if !object.is_sorted_by_key(|row| row.0) {
                        wrong(format!("Order: {path} is not sorted"));
                    }
                    files.insert(path.to_string(), object);
                }
                let file = files.get(path.as_ref()).map(Vec::as_slice).unwrap_or_default();
                rows.extend(file.iter().filter(|row| leaf.bounds.contains(&run.rows.key(row.0))).cloned());
            }
        }
        rows.sort();
        let expected = run.stage.auditor.rows_at(&info.id, state.transaction());
        if rows != expected {
            wrong(format!(
                "Rows: table {name} holds {} rows and must hold {}",
                rows.len(),
                expected.len()
            ));
        }
        let exact = state
            .leaves()
            .all(|leaf| state.references(&leaf.id).all(|reference| reference.exact().is_some()));
        if exact && state.rows() != rows.len() as u64 {
            wrong(format!("Rows: table {name} counts {} rows and has {}", state.rows(), rows.len()));
        }
        total += rows.len() as u64;
    }
    total
}

/// The instance still works: each table can be exported.
async fn last_export(run: &Run, script: &mut Script<'_>) {
    let tables: Vec<_> = script.tables.values().map(|info| info.id.clone()).collect();
    let mut exports = Vec::new();
    for table in tables {
        exports.push((script.export_of(&table).await, table));
    }
    run.drained("after the last exports").await;
    for (export, table) in exports {
        if !self::export(run, script, &export, &table).await {
            run.stage
                .auditor
                .violation(format!("Accept: the last export of table {table} did not finish"));
        }
    }
}

/// Long after, only what the state refers to is left.
async fn sweep(run: &Run, script: &mut Script<'_>) {
    let wrong = |text: String| run.stage.auditor.violation(text);
    for _ in 0..3 {
        run.stage.clock.jump(LONG.as_millis() as i64);
        for schedule in [Schedule::Snapshots, Schedule::Garbage] {
            if let Err(error) = schedule.run_once(&run.operator).await {
                wrong(format!("Orphans: {schedule:?}: {}", error.report()));
            }
        }
    }
    for info in script.tables.values() {
        let state = run.stage.auditor.state(&info.id);
        let kept: Vec<_> = state
            .files()
            .map(|(file, _)| file.name.object_path(&info.id).to_string())
            .collect();
        let found = script.objects("data", &format!("{}/data", info.id)).await;
        if found != kept {
            wrong(format!("Orphans: table {} refers to {kept:?}, and there are {found:?}", info.name));
        }
        let mut used: Vec<_> = run.operator.states.object_paths(&info.id).await.unwrap();
        used.sort();
        let used: Vec<_> = used.iter().map(ToString::to_string).collect();
        let mut left = script.objects("data", &format!("{}/statestore", info.id)).await;
        left.extend(script.objects("data", &format!("{}/commits", info.id)).await);
        left.retain(|path| !used.contains(path));
        if !left.is_empty() {
            wrong(format!("Orphans: table {} left {left:?}", info.name));
        }
        if let Some((pin, _)) = state.pins().next() {
            wrong(format!("Orphans: table {} has pin {pin}", info.name));
        }
    }
    let live: Vec<_> = script.tables.values().map(|info| info.id.clone()).collect();
    for (table, _) in run.stage.auditor.tables() {
        if !live.contains(&table) {
            let left = script.objects("data", table.as_str()).await;
            if !left.is_empty() {
                wrong(format!("Orphans: the dropped table {table} left {left:?}"));
            }
        }
    }
}
