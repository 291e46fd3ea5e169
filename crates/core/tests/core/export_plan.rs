//! Stored export plans, and bytes that are not theirs.

use dormouse_core::{
    error::ErrorKind,
    file::{Checksum, RowDigest},
    ids::{ExportId, TableId},
    plan::export::{ExportPlan, Manifest, SubExport},
    row_rules::{RowRules, RulesAt},
    tracker::ExportPart,
};

use crate::samples::{Fold, START, added, file, pin, table};

fn plan_with(rules: Option<RulesAt>, fold: &Fold) -> ExportPlan {
    let export = ExportId::new("export-1").unwrap();
    ExportPlan::new((&table(), "events"), &export, pin("pin-1"), &fold.state, rules).unwrap()
}

fn plan() -> ExportPlan {
    let mut fold = Fold::with_table(&[100]);
    fold.ok(added("job-1", &[file("left", &[(1, 50, 3)])]));
    fold.ok(added("job-2", &[file("both", &[(2, 99, 4), (100, 300, 5)])]));
    plan_with(None, &fold)
}

#[test]
fn a_leaf_that_is_one_file_is_copied_unless_rules_change_its_rows() {
    let mut fold = Fold::with_table(&[100, 200]);
    fold.ok(added("job-1", &[file("whole", &[(1, 50, 3)])]));
    fold.ok(added("job-2", &[file("both", &[(100, 150, 4), (200, 300, 5)])]));
    let plan = plan_with(None, &fold);
    let copied: Vec<_> = plan
        .sub_exports
        .iter()
        .map(|part| part.copy.as_ref().map(|copy| copy.rows))
        .collect();
    assert_eq!(copied, [Some(3), None, None]);

    let rules = RowRules::parse("ageOff(at,1)", "").unwrap().at(START);
    let plan = plan_with(rules.clone(), &fold);
    assert!(plan.sub_exports.iter().all(|part| part.copy.is_none()));
    assert_eq!(plan.rules, rules);
    assert_eq!(ExportPlan::decode(&plan.encode().unwrap()).unwrap(), plan);
}

#[test]
fn a_manifest_is_read_as_it_was_written_unless_a_newer_program_did() {
    let plan = plan();
    let part = |part: &SubExport| ExportPart {
        sub_export: part.id.clone(),
        rows: 4,
        bytes: 10,
        checksum: Checksum(1),
        digest: RowDigest(2),
        range: None,
    };
    let parts: Vec<_> = plan.sub_exports.iter().map(part).collect();
    assert_eq!(plan.manifest(&parts[1..]), None);
    let manifest = plan.manifest(&parts).unwrap();
    assert_eq!((manifest.rows, manifest.bytes), (8, 20));
    let mut stored = serde_json::to_value(&manifest).unwrap();
    let read = |stored: &serde_json::Value| Manifest::decode(stored.to_string().as_bytes());
    assert_eq!(read(&stored).unwrap(), manifest);
    stored["version"] = 2.into();
    assert_eq!(
        read(&stored).unwrap_err().to_string(),
        "an export's manifest has version 2; this program reads up to 1"
    );
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    let plan = plan();
    assert_eq!(plan.sub_exports.len(), 2);
    assert_eq!(ExportPlan::decode(&plan.encode().unwrap()).unwrap(), plan);
}

#[test]
fn an_export_is_below_its_table_and_its_id() {
    let plan = plan();
    let (table, export) = (&plan.table_id, &plan.export_id);
    let part = &plan.sub_exports[1];
    assert_eq!(ExportPlan::prefix(table, export).as_ref(), "0a1b2c3d/export-1");
    let paths = [
        (ExportPlan::path(table, export), "_plan.json".to_owned()),
        (
            ExportPlan::manifest_path(table, export),
            "_manifest.json".to_owned(),
        ),
        (ExportPlan::success_path(table, export), "_SUCCESS".to_owned()),
        (plan.part_path(&part.id), format!("{}.parquet", part.id)),
    ];
    for (path, name) in paths {
        assert_eq!(path.as_ref(), format!("0a1b2c3d/export-1/{name}"));
    }
    assert_eq!(plan.sub_export(&part.id), Some(part));
    assert_eq!(plan.sub_export(&plan.sub_exports[0].id), plan.sub_exports.first());
}

#[test]
fn parts_are_named_by_export_and_leaf_alone() {
    let other = |table: &str, export: &str| {
        let (table, export) = (TableId::new(table).unwrap(), ExportId::new(export).unwrap());
        ExportPlan::namespace(&table, &export)
    };
    assert_eq!(other("t1", "e1"), other("t1", "e1"));
    assert_ne!(other("t1", "e1"), other("t1", "e2"));
    assert_ne!(other("t1", "e1"), other("t2", "e1"));
    let ids = |plan: ExportPlan| {
        plan.sub_exports
            .into_iter()
            .map(|part| part.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(plan()), ids(plan()));
}

#[test]
fn a_plan_of_a_newer_program_says_so() {
    let bytes = plan().encode().unwrap();
    let mut stored: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    stored["version"] = 3.into();
    let error = ExportPlan::decode(stored.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an export plan has version 3; this program reads up to 2"
    );
}

#[test]
fn a_plan_with_any_other_byte_is_refused() {
    let plan = plan();
    let bytes = plan.encode().unwrap();
    let mut refused = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match ExportPlan::decode(&damaged) {
                // A name that nobody knows, beside a value that is absent: it says the same.
                Ok(read) => assert_eq!(read, plan, "byte {at}, bit {bit}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}, bit {bit}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > bytes.len() * 7, "{refused} of {} bytes", bytes.len());
}

#[test]
fn a_plan_that_is_cut_short_is_refused() {
    let bytes = plan().encode().unwrap();
    for length in 0..bytes.len() {
        ExportPlan::decode(&bytes[..length]).unwrap_err();
    }
}
