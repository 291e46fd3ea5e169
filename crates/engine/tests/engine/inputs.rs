//! Which inputs are taken, and how others are refused.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryViewArray, Float64Array, Int32Array, Int32Builder, Int64Array, LargeListArray,
        LargeStringArray, ListArray, MapBuilder, NullArray, StringArray, StringBuilder,
        StringDictionaryBuilder, StringViewArray, StructArray,
    },
    compute,
    datatypes::{DataType as ArrowType, Field, Int32Type, Int64Type},
};
use dormouse_core::{
    ErrorKind,
    schema::{Column, DataType, Schema},
};
use parquet::{basic::Compression, file::properties::WriterProperties};

use crate::fixture::{Fixture, encode, loose_batch, rows, text_batch};

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn longs(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

async fn ingested(fixture: &Fixture, columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
    let files = fixture.ingest_batches(&[loose_batch(columns)]).await;
    rows(&fixture.read(&files[0]).await)
}

async fn refused(fixture: &Fixture, columns: Vec<(&str, ArrayRef)>) -> String {
    let error = fixture
        .refusal(encode(&[loose_batch(columns)], WriterProperties::default()))
        .await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.report()
}

#[tokio::test]
async fn columns_come_in_any_order_and_flavour() {
    let fixture = Fixture::text(&[]);
    let mut dictionary = StringDictionaryBuilder::<Int32Type>::new();
    dictionary.extend([Some("a"), None, Some("a")]);
    let flavours: Vec<(ArrayRef, ArrayRef)> = vec![
        (
            strings(&["b", "c", "a"]),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("a")])),
        ),
        (
            Arc::new(LargeStringArray::from(vec!["b", "c", "a"])),
            Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("a")])),
        ),
        (
            Arc::new(StringViewArray::from(vec!["b", "c", "a"])),
            Arc::new(StringViewArray::from(vec![Some("a"), None, Some("a")])),
        ),
        (strings(&["b", "c", "a"]), Arc::new(dictionary.finish())),
    ];
    let mut digests = Vec::new();
    for (keys, values) in flavours {
        let columns = vec![("v", values), ("s", longs(&[1, 2, 3])), ("k", keys)];
        let files = fixture.ingest_batches(&[loose_batch(columns)]).await;
        assert_eq!(
            rows(&fixture.read(&files[0]).await),
            ["a|3|a", "b|1|a", "c|2|<null>"]
        );
        digests.push(files[0].digest());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn every_usual_compression_is_read() {
    let fixture = Fixture::text(&[]);
    let batch = text_batch(&[("b", 1, None), ("a", 2, Some("x"))]);
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(compression).build();
        let input = fixture
            .put("in/x.parquet", encode(std::slice::from_ref(&batch), properties))
            .await;
        assert_eq!(
            fixture.ingest(vec![input]).await.unwrap()[0].rows,
            2,
            "{compression}"
        );
    }
}

#[tokio::test]
async fn nested_values_keep_their_rows_whatever_their_flavour() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("x");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let map: ArrayRef = Arc::new(map.finish());
    let items = Arc::new(Field::new("element", ArrowType::Utf8View, true));
    let texts: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("one"),
        None,
        Some("a text that is no inline view"),
    ]));
    let list = LargeListArray::new(
        items,
        arrow::buffer::OffsetBuffer::from_lengths([2, 0, 1]),
        texts,
        None,
    );
    let list: ArrayRef = Arc::new(list);
    let record: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("bytes", ArrowType::BinaryView, true)),
        Arc::new(BinaryViewArray::from(vec![Some(&b"\xff"[..]), None, Some(b"")])) as ArrayRef,
    )]));
    let schema = Schema::new(
        vec![Column::required("k", DataType::Int64)],
        vec![],
        vec![
            Column::nullable(
                "map",
                DataType::Map {
                    key: Box::new(Column::required("key", DataType::Utf8)),
                    value: Box::new(Column::nullable("value", DataType::Int32)),
                },
            ),
            Column::nullable(
                "list",
                DataType::List(Box::new(Column::nullable("item", DataType::Utf8))),
            ),
            Column::nullable(
                "record",
                DataType::Struct(vec![Column::nullable("bytes", DataType::Binary)]),
            ),
        ],
    )
    .unwrap();
    let fixture = Fixture::new(Arc::new(schema), crate::fixture::text_leaves(&[]));
    let found = ingested(
        &fixture,
        vec![
            ("list", list),
            ("record", record),
            ("map", map),
            ("k", longs(&[3, 2, 1])),
        ],
    )
    .await;
    assert_eq!(
        found,
        [
            "1|{}|[a text that is no inline view]|{bytes: }",
            "2|<null>|[]|{bytes: <null>}",
            "3|{x: <null>}|[one, <null>]|{bytes: ff}",
        ]
    );
}

#[tokio::test]
async fn a_nullable_column_is_taken_until_it_has_a_null_where_none_may_be() {
    let fixture = Fixture::text(&[]);
    let values: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 3]));
    let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
    let report = refused(
        &fixture,
        vec![("k", keys), ("s", longs(&[1, 2, 3])), ("v", values)],
    )
    .await;
    assert_eq!(
        report,
        "input \"bucket/in/bad.parquet\" has a null in column \"k\", row 2, where the table allows none"
    );
}

#[tokio::test]
async fn the_row_of_a_null_is_counted_over_row_groups() {
    let fixture = Fixture::text(&[]);
    let keys: Vec<String> = (0..5000).map(|row| format!("{row}")).collect();
    let times: ArrayRef = Arc::new(Int64Array::from_iter(
        (0..5000).map(|row| (row != 4321).then_some(row)),
    ));
    let keys: ArrayRef = Arc::new(StringArray::from(keys));
    let values = compute::cast(&keys, &ArrowType::Utf8).unwrap();
    let batch = loose_batch(vec![("k", keys), ("s", times), ("v", values)]);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(1000))
        .build();
    let report = fixture.refusal(encode(&[batch], properties)).await.report();
    assert!(report.contains("column \"s\", row 4321,"), "{report}");
}

#[tokio::test]
async fn a_null_item_is_refused_with_its_row_where_items_are_required() {
    let schema = Schema::new(
        vec![Column::required("k", DataType::Int64)],
        vec![],
        vec![Column::nullable(
            "list",
            DataType::List(Box::new(Column::required("item", DataType::Int32))),
        )],
    )
    .unwrap();
    let fixture = Fixture::new(Arc::new(schema), crate::fixture::text_leaves(&[]));
    let lists = |middle| -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1)]),
            None,
            Some(vec![middle, Some(2)]),
            Some(vec![Some(3)]),
        ]))
    };
    let found = ingested(
        &fixture,
        vec![("k", longs(&[4, 3, 2, 1])), ("list", lists(Some(0)))],
    )
    .await;
    assert_eq!(found, ["1|[3]", "2|[0, 2]", "3|<null>", "4|[1]"]);
    let report = refused(&fixture, vec![("k", longs(&[4, 3, 2, 1])), ("list", lists(None))]).await;
    assert!(report.contains("column \"list\", row 2,"), "{report}");
}

#[tokio::test]
async fn extra_columns_are_refused_by_name_with_the_columns_there_are() {
    let fixture = Fixture::text(&[]);
    let a = || strings(&["a"]);
    let report = refused(
        &fixture,
        vec![
            ("k", a()),
            ("more", a()),
            ("s", longs(&[1])),
            ("v", a()),
            ("w", a()),
        ],
    )
    .await;
    assert_eq!(
        report,
        "input \"bucket/in/bad.parquet\" has columns that the table does not have: \"more\", \"w\"; \
         the table has \"k\", \"s\", \"v\""
    );
}

#[tokio::test]
async fn missing_columns_are_refused_by_name() {
    let fixture = Fixture::text(&[]);
    let report = refused(&fixture, vec![("k", strings(&["a"]))]).await;
    assert_eq!(
        report,
        "input \"bucket/in/bad.parquet\" lacks columns of the table: \"s\", \"v\""
    );
}

#[tokio::test]
async fn other_types_are_refused_with_both_types() {
    let fixture = Fixture::text(&[]);
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let report = refused(
        &fixture,
        vec![("k", strings(&["a"])), ("s", narrow), ("v", strings(&["a"]))],
    )
    .await;
    assert_eq!(
        report,
        "input \"bucket/in/bad.parquet\" has column \"s\" of type Int32; the table expects Int64"
    );
    let numbers: ArrayRef = Arc::new(arrow::array::DictionaryArray::<Int32Type>::new(
        vec![0].into(),
        Arc::new(arrow::array::PrimitiveArray::<Int64Type>::from(vec![1])),
    ));
    let report = refused(
        &fixture,
        vec![("k", strings(&["a"])), ("s", numbers), ("v", strings(&["a"]))],
    )
    .await;
    assert!(
        report.contains("of type Dictionary(Int32, Int64); the table expects Int64"),
        "{report}"
    );
    let nothing: ArrayRef = Arc::new(NullArray::new(1));
    let report = refused(
        &fixture,
        vec![("k", strings(&["a"])), ("s", longs(&[1])), ("v", nothing)],
    )
    .await;
    assert!(
        report.contains("of type Null; the table expects Utf8"),
        "{report}"
    );
}

#[tokio::test]
async fn all_inputs_are_checked_before_a_row_is_written() {
    let fixture = Fixture::text(&[]);
    let good = fixture
        .put_batches("in/good.parquet", &[text_batch(&[("a", 1, None)])])
        .await;
    let other = loose_batch(vec![("k", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)]);
    let bad = fixture.put_batches("in/bad.parquet", &[other]).await;
    assert!(fixture.ingest(vec![good, bad]).await.is_err());
    use futures::TryStreamExt;
    use object_store::ObjectStore;
    let written: Vec<_> = fixture
        .store
        .list(Some(&object_store::path::Path::from("table")))
        .try_collect()
        .await
        .unwrap();
    assert!(written.is_empty());
}

#[tokio::test]
async fn an_input_that_changed_since_the_job_was_accepted_is_refused() {
    let fixture = Fixture::text(&[]);
    let batch = text_batch(&[("a", 1, None)]);
    let mut input = fixture
        .put_batches("in/x.parquet", std::slice::from_ref(&batch))
        .await;
    fixture
        .put_batches("in/x.parquet", std::slice::from_ref(&batch))
        .await;
    let error = fixture.ingest(vec![input.clone()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        "input \"bucket/in/x.parquet\" has changed since the job was accepted"
    );
    input.e_tag = None;
    assert!(fixture.ingest(vec![input.clone()]).await.is_ok());
    fixture
        .put_batches(
            "in/x.parquet",
            &[text_batch(&[("a", 1, None), ("bbbb", 1, None)])],
        )
        .await;
    let error = fixture.ingest(vec![input]).await.unwrap_err();
    assert!(error.to_string().contains("has changed"), "{error}");
}

#[tokio::test]
async fn an_input_that_does_not_exist_is_not_found() {
    let fixture = Fixture::text(&[]);
    let mut input = fixture
        .put_batches("in/x.parquet", &[text_batch(&[("a", 1, None)])])
        .await;
    input.path = "in/gone.parquet".into();
    let error = fixture.ingest(vec![input]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("bucket/in/x.parquet"));
}

#[tokio::test]
async fn a_table_takes_its_schema_from_a_parquet_file() {
    let fixture = Fixture::text(&[]);
    let columns = vec![
        ("v", Arc::new(StringViewArray::from(vec!["x"])) as ArrayRef),
        ("s", longs(&[1])),
        ("k", strings(&["a"])),
    ];
    let input = fixture.put_batches("in/x.parquet", &[loose_batch(columns)]).await;
    let schema = fixture
        .engine()
        .schema_of(input.clone(), &["k"], &["s"])
        .await
        .unwrap();
    assert_eq!(schema, *fixture.schema);
    let error = fixture
        .engine()
        .schema_of(input, &["key"], &[])
        .await
        .unwrap_err();
    assert!(
        error
            .report()
            .contains("key column \"key\" is not in the file, which has \"v\", \"s\", \"k\"")
    );
}
