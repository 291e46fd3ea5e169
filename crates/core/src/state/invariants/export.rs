//! A finished export against its plan and its objects.

use std::collections::BTreeMap;

use super::{
    Invariant, Violation,
    rows::{RowSum, check_conserved},
};
use crate::plan::export::{ExportPlan, Manifest};

const REMEDY: &str = "export the table again under another id; this one must not be used";

/// What is stored of an export.
#[derive(Clone, Copy, Debug)]
pub struct ExportView<'a> {
    /// The export, for people.
    pub place: &'a str,
    /// Whether the tracker says that it is finished.
    pub claimed: bool,
    /// The stored plan.
    pub plan: Option<&'a ExportPlan>,
    /// The manifest.
    pub manifest: Option<&'a Manifest>,
    /// Whether the mark of a complete export is there.
    pub marked: bool,
    /// The sizes of the objects beside the manifest, by name.
    pub objects: &'a BTreeMap<String, u64>,
}

/// That an export which says that it is complete has its mark, its manifest and every file, as planned, with every
/// row once and in order. An export that does not say so yet is not checked.
pub fn check_export(export: ExportView<'_>) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let mut add = |found: String| wrong.push(Violation::new(Invariant::Export, export.place, found, REMEDY));
    if !export.marked && !export.claimed {
        return wrong;
    }
    if !export.marked {
        add("the tracker says that it is finished, and it has no _SUCCESS".to_owned());
    }
    let Some(manifest) = export.manifest else {
        if export.marked {
            add("it has _SUCCESS and no manifest".to_owned());
        }
        return wrong;
    };
    for file in &manifest.files {
        match export.objects.get(&file.file) {
            None => add(format!("its file {} is gone", file.file)),
            Some(bytes) if *bytes != file.bytes => add(format!(
                "its file {} has {bytes} bytes, and was written with {}",
                file.file, file.bytes
            )),
            Some(_) => {}
        }
    }
    for name in export.objects.keys().filter(|name| name.ends_with(".parquet")) {
        if !manifest.files.iter().any(|file| file.file == *name) {
            add(format!("{name} is beside its files, and not of the manifest"));
        }
    }
    let rows = manifest.files.iter().map(|file| file.rows).sum::<u64>();
    let bytes = manifest.files.iter().map(|file| file.bytes).sum::<u64>();
    if (rows, bytes) != (manifest.rows, manifest.bytes) {
        add(format!(
            "its files have {rows} rows and {bytes} bytes, and its manifest says {} and {}",
            manifest.rows, manifest.bytes
        ));
    }
    let ranges: Vec<_> = manifest
        .files
        .iter()
        .filter_map(|file| Some((file.min_key.as_ref()?, file.max_key.as_ref()?)))
        .collect();
    if ranges.iter().any(|(min, max)| min > max) || ranges.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
        add("its files overlap, or are out of order".to_owned());
    }
    if let Some(plan) = export.plan {
        wrong.extend(check_plan(export.place, plan, manifest));
    }
    wrong
}

/// That the manifest is the plan, carried out.
fn check_plan(place: &str, plan: &ExportPlan, manifest: &Manifest) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let snapshot_read = |found: String| Violation::new(Invariant::SnapshotRead, place, found, REMEDY);
    if (&plan.table_id, &plan.export_id, plan.transaction)
        != (&manifest.table_id, &manifest.export_id, manifest.transaction)
    {
        wrong.push(snapshot_read(format!(
            "it was planned of transaction {}, and its manifest is of {}",
            plan.transaction, manifest.transaction
        )));
    }
    let planned = plan.sub_exports.iter().map(|part| format!("{}.parquet", part.id));
    if !planned.eq(manifest.files.iter().map(|file| file.file.clone())) {
        wrong.push(snapshot_read("its files are not those of its plan".to_owned()));
        return wrong;
    }
    for (part, file) in plan.sub_exports.iter().zip(&manifest.files) {
        let place = format!("{place}, file {}", file.file);
        if let (Some(min), Some(max)) = (&file.min_key, &file.max_key)
            && !(part.leaf.bounds.contains(min) && part.leaf.bounds.contains(max))
        {
            wrong.push(Violation::new(
                Invariant::Export,
                &place,
                format!("it has keys {min} to {max}, beyond its leaf {}", part.leaf.bounds),
                REMEDY,
            ));
        }
        // Rules drop rows, and make one of several.
        if plan.rules.is_some() {
            continue;
        }
        let exact: Option<Vec<_>> = part.files.iter().map(|file| file.exact).collect();
        if let Some(exact) = exact {
            let written = RowSum::of([(file.rows, file.row_digest)]);
            wrong.extend(check_conserved(place, RowSum::of(exact), written));
        }
    }
    wrong
}
