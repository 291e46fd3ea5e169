//! Stored export plans, and bytes that are not theirs.

use dormouse_core::{
    error::ErrorKind,
    ids::{ExportId, TableId},
    plan::export::ExportPlan,
};

use crate::samples::{Fold, added, file, pin, table};

fn plan() -> ExportPlan {
    let mut fold = Fold::with_table(&[100]);
    fold.ok(added("job-1", &[file("left", &[(1, 50, 3)])]));
    fold.ok(added("job-2", &[file("both", &[(2, 99, 4), (100, 300, 5)])]));
    let export = ExportId::new("export-1").unwrap();
    ExportPlan::new((&table(), "events"), &export, pin("pin-1"), &fold.state, None).unwrap()
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
