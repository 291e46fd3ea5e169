//! Stored export plans, and bytes that are not theirs.

use dormouse_core::{error::ErrorKind, ids::ExportId, plan::export::ExportPlan};

use crate::samples::{Fold, added, file, pin, table};

fn plan() -> ExportPlan {
    let mut fold = Fold::with_table(&[100]);
    fold.ok(added("job-1", &[file("left", &[(1, 50, 3)])]));
    fold.ok(added("job-2", &[file("both", &[(2, 99, 4), (100, 300, 5)])]));
    let export = ExportId::new("export-1").unwrap();
    ExportPlan::new((&table(), "events"), &export, pin("pin-1"), &fold.state).unwrap()
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    let plan = plan();
    assert_eq!(plan.sub_exports.len(), 2);
    assert_eq!(ExportPlan::decode(&plan.encode().unwrap()).unwrap(), plan);
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
