//! Random tables, leaves and inputs, against a sort of everything in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use dormouse_core::{
    file::{DataFile, RowDigest},
    key::{Bytes as KeyBytes, Key, KeyValue},
    schema::{Column, DataType, Schema},
};
use proptest::prelude::*;

use crate::fixture::{Fixture, batch, leaves, rows, sorted};

type Row = (Vec<u8>, i32, String, Option<i64>, Option<Vec<Option<i32>>>);

fn schema() -> Arc<Schema> {
    let list = DataType::List(Box::new(Column::nullable("item", DataType::Int32)));
    Arc::new(
        Schema::new(
            vec![
                Column::required("b", DataType::Binary),
                Column::required("i", DataType::Int32),
            ],
            vec![Column::required("t", DataType::Utf8)],
            vec![
                Column::nullable("l", DataType::Int64),
                Column::nullable("n", list),
            ],
        )
        .unwrap(),
    )
}

fn columns(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.0))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
            rows.iter().map(|row| row.4.clone()),
        )),
    ];
    batch(&schema(), columns)
}

fn row() -> impl Strategy<Value = Row> {
    (
        prop::collection::vec(prop_oneof![Just(0u8), Just(0x7f), Just(0x80), any::<u8>()], 0..4),
        -2i32..3,
        "[a-c\u{e9}]{0,3}",
        prop::option::of(any::<i64>()),
        prop::option::of(prop::collection::vec(prop::option::of(any::<i32>()), 0..3)),
    )
}

fn split() -> impl Strategy<Value = Key> {
    (
        prop::collection::vec(any::<u8>(), 0..3),
        prop::option::of(-2i32..3),
    )
        .prop_map(|(bytes, number)| {
            let mut key = vec![KeyValue::Binary(KeyBytes(bytes.into()))];
            key.extend(number.map(KeyValue::Int32));
            Key::new(key)
        })
}

fn key(row: &Row) -> Key {
    Key::new([
        KeyValue::Binary(KeyBytes(row.0.clone().into())),
        KeyValue::Int32(row.1),
    ])
}

/// Every row is in one file, files are sorted, parts say what their leaves hold.
fn check(fixture: &Fixture, inputs: &[Vec<Row>], files: &[(DataFile, RecordBatch)]) {
    let mut expected: Vec<&Row> = inputs.iter().flatten().collect();
    expected.sort_by(|a, b| (key(a), &a.2).cmp(&(key(b), &b.2)));
    let all: Vec<String> = files.iter().flat_map(|(_, batch)| rows(batch)).collect();
    let model: Vec<Row> = expected.iter().map(|row| (*row).clone()).collect();
    let model = rows(&columns(&model));
    assert_eq!(sorted(all.clone()), sorted(model.clone()));
    let key_of = |row: &String| row.split('|').take(3).collect::<Vec<_>>().join("|");
    assert_eq!(
        all.iter().map(key_of).collect::<Vec<_>>(),
        model.iter().map(key_of).collect::<Vec<_>>()
    );

    let mut at = 0;
    for part in files.iter().flat_map(|(file, _)| &file.parts) {
        let held = &expected[at..at + part.rows as usize];
        at += held.len();
        assert_eq!(
            (&part.range.min, &part.range.max),
            (&key(held[0]), &key(held[held.len() - 1]))
        );
        assert!(fixture.leaves.iter().any(|leaf| leaf.bounds.covers(&part.range)));
    }
    assert_eq!(at, expected.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_row_of_every_input_is_in_one_file_at_its_place(
        inputs in prop::collection::vec(prop::collection::vec(row(), 0..40), 0..5),
        mut splits in prop::collection::vec(split(), 0..6),
        target_file_bytes in prop_oneof![Just(1u64), Just(300), Just(1 << 30)],
        memory_bytes in prop_oneof![Just(1u64), Just(4000), Just(1 << 30)],
    ) {
        splits.sort();
        splits.dedup();
        let mut fixture = Fixture::new(schema(), leaves(&splits));
        fixture.target_file_bytes = target_file_bytes;
        fixture.options.memory_bytes = memory_bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let batches: Vec<RecordBatch> = inputs.iter().map(|rows| columns(rows)).collect();
            let mut files = Vec::new();
            for file in fixture.ingest_batches(&batches).await {
                let read = fixture.read(&file).await;
                files.push((file, read));
            }
            check(&fixture, &inputs, &files);

            // The leaves' exports hold the same rows once more.
            let mut digest = RowDigest::default();
            let mut exported_rows = Vec::new();
            for leaf in 0..fixture.leaves.len() {
                let inputs = files.iter().map(|(file, _)| fixture.export_input(file, false)).collect();
                let (exported, batch) = fixture.export(leaf, inputs).await.unwrap();
                digest = digest + exported.digest;
                exported_rows.extend(rows(&batch));
            }
            assert_eq!(digest, files.iter().map(|(file, _)| file.digest()).sum());
            let all: Vec<String> = files.iter().flat_map(|(_, batch)| rows(batch)).collect();
            assert_eq!(sorted(exported_rows), sorted(all));
        });
    }
}
