//! Export plans and manifests.

use dormouse_core::{
    ErrorKind,
    file::{Checksum, RowDigest},
    plan::export::{ExportPlan, Manifest},
    tracker::ExportPart,
};

pub(crate) fn run(data: &[u8]) {
    match ExportPlan::decode(data) {
        Ok(plan) => check_plan(&plan),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
        let again = serde_json::to_vec(&manifest).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(serde_json::from_slice::<Manifest>(&again).ok(), Some(manifest));
    }
}

fn check_plan(plan: &ExportPlan) {
    let again = plan.encode().unwrap_or_else(|error| panic!("{error}"));
    let read = ExportPlan::decode(&again).unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(read, *plan);
    let prefix = format!("{}/{}/", plan.table_id, plan.export_id);
    let mut parts = Vec::new();
    for part in &plan.sub_exports {
        let path = plan.part_path(&part.id);
        assert_eq!(path.as_ref(), format!("{prefix}{}.parquet", part.id));
        assert_eq!(plan.sub_export(&part.id).map(|found| &found.id), Some(&part.id));
        parts.push(ExportPart {
            sub_export: part.id.clone(),
            rows: part.copy.as_ref().map_or(1, |copy| copy.rows),
            bytes: part.files.first().map_or(0, |file| file.bytes),
            checksum: Checksum(1),
            digest: RowDigest(2),
            range: part.copy.as_ref().map(|copy| copy.range.clone()),
        });
    }
    for path in [
        ExportPlan::path(&plan.table_id, &plan.export_id),
        ExportPlan::manifest_path(&plan.table_id, &plan.export_id),
        ExportPlan::success_path(&plan.table_id, &plan.export_id),
    ] {
        assert!(path.as_ref().starts_with(&prefix), "{path}");
    }
    let manifest = plan
        .manifest(&parts)
        .unwrap_or_else(|| panic!("no manifest though every part is done"));
    assert_eq!(manifest.files.len(), plan.sub_exports.len());
    if !parts.is_empty() {
        assert_eq!(plan.manifest(&parts[1..]).is_some(), is_twice(&parts));
    }
}

/// Whether the first part is there once more.
fn is_twice(parts: &[ExportPart]) -> bool {
    parts[1..]
        .iter()
        .any(|part| part.sub_export == parts[0].sub_export)
}
