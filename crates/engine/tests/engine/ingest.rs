//! What ingest writes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    TimestampSecondArray,
};
use dormouse_core::{
    ids::TableId,
    key::{Bytes as KeyBytes, Key, KeyValue},
    schema::{Column, DataType, Schema, TimeUnit},
};
use object_store::{ObjectStoreExt, path::Path};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::fixture::{Fixture, batch, leaves, rows, text, text_batch};

#[tokio::test]
async fn rows_come_out_sorted_and_cut_at_the_leaves() {
    let fixture = Fixture::text(&["g", "p"]);
    let files = fixture
        .ingest_batches(&[
            text_batch(&[("z", 1, None), ("a", 2, Some("x")), ("g", 0, None)]),
            text_batch(&[("a", 1, Some("y")), ("p", 5, Some("")), ("fzzz", -1, None)]),
        ])
        .await;
    let mut all = Vec::new();
    for file in &files {
        all.push(rows(&fixture.read(file).await));
    }
    assert_eq!(
        all,
        [
            vec!["a|1|y", "a|2|x", "fzzz|-1|<null>"],
            vec!["g|0|<null>"],
            vec!["p|5|", "z|1|<null>"]
        ]
    );
    let names: Vec<&str> = files
        .iter()
        .map(|file| file.name.as_str().split('/').next().unwrap())
        .collect();
    assert_eq!(names, ["partition_leaf0", "partition_leaf1", "partition_leaf2"]);
    let range = &files[0].parts[0].range;
    assert_eq!(
        (&range.min, &range.max),
        (&Key::new([text("a")]), &Key::new([text("fzzz")]))
    );
}

#[tokio::test]
async fn a_small_job_is_one_file_that_serves_several_leaves() {
    let mut fixture = Fixture::text(&["b", "c", "d", "e"]);
    fixture.target_file_bytes = 1 << 20;
    let batch = text_batch(&[("d1", 0, None), ("a", 0, None), ("b1", 0, None), ("b0", 0, None)]);
    let files = fixture.ingest_batches(&[batch]).await;
    assert_eq!(files.len(), 1);
    let counts: Vec<u64> = files[0].parts.iter().map(|part| part.rows).collect();
    assert_eq!(counts, [1, 2, 1]);
    assert_eq!(
        rows(&fixture.read(&files[0]).await),
        ["a|0|<null>", "b0|0|<null>", "b1|0|<null>", "d1|0|<null>"]
    );
}

#[tokio::test]
async fn a_file_is_closed_once_its_leaves_reach_the_target() {
    let mut fixture = Fixture::text(&["b", "c", "d"]);
    fixture.target_file_bytes = 3000;
    let value = "v".repeat(2000);
    let batch = text_batch(&[
        ("a", 0, Some(value.as_str())),
        ("b", 0, Some(value.as_str())),
        ("c", 0, Some(value.as_str())),
        ("d", 0, Some(value.as_str())),
    ]);
    let files = fixture.ingest_batches(&[batch]).await;
    let leaves: Vec<usize> = files.iter().map(|file| file.parts.len()).collect();
    assert_eq!(leaves, [2, 2]);
}

#[tokio::test]
async fn no_rows_make_no_files() {
    let fixture = Fixture::text(&["m"]);
    assert_eq!(fixture.ingest(vec![]).await.unwrap(), []);
    assert_eq!(
        fixture.ingest_batches(&[text_batch(&[]), text_batch(&[])]).await,
        []
    );
}

#[tokio::test]
async fn a_file_reports_its_size_and_checksum_and_digest() {
    let fixture = Fixture::text(&[]);
    let files = fixture.ingest_batches(&[text_batch(&[("a", 1, None)])]).await;
    let bytes = fixture
        .bytes(&files[0].name.object_path(&TableId::new("table").unwrap()))
        .await;
    assert_eq!(files[0].bytes, bytes.len() as u64);
    assert_eq!(files[0].checksum.0, crc_fast::crc64_nvme(&bytes));
    let other = fixture.ingest_batches(&[text_batch(&[("a", 1, None)])]).await;
    assert_eq!(files[0].digest(), other[0].digest());
    assert_ne!(files[0].name, other[0].name);
}

#[tokio::test]
async fn files_have_page_indexes_and_statistics_and_dictionaries_where_values_repeat() {
    let fixture = Fixture::text(&[]);
    let keys: Vec<String> = (0..3000).map(|row| format!("key{row}")).collect();
    let table: Vec<(&str, i64, Option<&str>)> = keys
        .iter()
        .enumerate()
        .map(|(row, key)| (key.as_str(), 7, Some(["x", "y"][row % 2])))
        .collect();
    let files = fixture.ingest_batches(&[text_batch(&table)]).await;
    let bytes = fixture
        .bytes(&files[0].name.object_path(&TableId::new("table").unwrap()))
        .await;
    let reader = SerializedFileReader::new(bytes).unwrap();
    let group = reader.metadata().row_group(0);
    let dictionaries: Vec<bool> = group
        .columns()
        .iter()
        .map(|column| column.dictionary_page_offset().is_some())
        .collect();
    assert_eq!(dictionaries, [false, true, true]);
    for column in group.columns() {
        assert!(column.statistics().is_some() && column.column_index_offset().is_some());
        assert!(column.offset_index_offset().is_some());
    }
}

#[tokio::test]
async fn every_key_type_sorts_in_its_own_order_and_splits_by_prefixes_of_the_key() {
    let timestamp = |unit| DataType::Timestamp {
        unit,
        timezone: Some("+00:00".to_owned()),
    };
    let schema = Arc::new(
        Schema::new(
            vec![
                Column::required("i", DataType::Int32),
                Column::required("b", DataType::Binary),
                Column::required("d", DataType::Date32),
                Column::required("t", timestamp(TimeUnit::Microsecond)),
            ],
            vec![
                Column::required("u", DataType::Utf8),
                Column::required("l", DataType::Int64),
                Column::required("s", timestamp(TimeUnit::Second)),
            ],
            vec![],
        )
        .unwrap(),
    );
    let key = |i: i32, b: &[u8]| Key::new([KeyValue::Int32(i), KeyValue::Binary(KeyBytes(b.into()))]);
    let fixture = Fixture::new(
        schema.clone(),
        leaves(&[
            Key::new([KeyValue::Int32(0)]),
            key(0, &[0x80]),
            Key::new([KeyValue::Int32(1)]),
        ]),
    );
    let integers = [0, -1, 0, 0, 0, 0, 0, 0, i32::MAX, i32::MIN];
    let bytes: [&[u8]; 10] = [
        b"\x80", b"z", b"\x7f", b"", b"\x7f\0", b"\x7f", b"\x7f", b"\xff", b"", b"",
    ];
    let days = [0, 0, 3, 0, 0, -3, -3, 0, 0, 0];
    let micros = [0, 0, 0, 0, 0, i64::MIN, 0, 0, 0, 0];
    let texts = ["", "", "", "", "", "b", "a", "", "", ""];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(integers.to_vec())),
        Arc::new(BinaryArray::from(bytes.to_vec())),
        Arc::new(Date32Array::from(days.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("+00:00")),
        Arc::new(StringArray::from(texts.to_vec())),
        Arc::new(Int64Array::from(vec![0; 10])),
        Arc::new(TimestampSecondArray::from(vec![0; 10]).with_timezone("+00:00")),
    ];
    let files = fixture.ingest_batches(&[batch(&schema, columns)]).await;
    let mut found = Vec::new();
    for file in &files {
        let read = fixture.read(file).await;
        let firsts: Vec<String> = rows(&read)
            .iter()
            .map(|row| row.split('|').take(3).collect::<Vec<_>>().join(" "))
            .collect();
        found.push(firsts);
    }
    let day = |days: &str| format!("1969-12-{days}");
    assert_eq!(
        found,
        [
            vec![
                format!("{} {} 1970-01-01", i32::MIN, ""),
                "-1 7a 1970-01-01".to_owned()
            ],
            vec![
                "0  1970-01-01".to_owned(),
                format!("0 7f {}", day("29")),
                format!("0 7f {}", day("29")),
                "0 7f 1970-01-04".to_owned(),
                "0 7f00 1970-01-01".to_owned(),
            ],
            vec!["0 80 1970-01-01".to_owned(), "0 ff 1970-01-01".to_owned()],
            vec![format!("{}  1970-01-01", i32::MAX)],
        ]
    );
}

#[tokio::test]
async fn long_values_are_written_in_bounded_row_groups() {
    let fixture = Fixture::text(&[]);
    let value = "long ".repeat(400_000);
    let table: Vec<(String, i64)> = (0..80)
        .map(|row| (format!("k{:02}", row * 37 % 80), row))
        .collect();
    let table: Vec<(&str, i64, Option<&str>)> = table
        .iter()
        .map(|(key, row)| (key.as_str(), *row, Some(value.as_str())))
        .collect();
    let files = fixture.ingest_batches(&[text_batch(&table)]).await;
    let bytes = fixture
        .bytes(&files[0].name.object_path(&TableId::new("table").unwrap()))
        .await;
    let reader = SerializedFileReader::new(bytes).unwrap();
    assert!(reader.num_row_groups() > 1);
    assert_eq!(files[0].rows, 80);
}

#[tokio::test]
async fn existing_objects_stay_as_they_are() {
    let fixture = Fixture::text(&[]);
    let path = Path::from("table/data/partition_leaf0/other.parquet");
    fixture.store.put(&path, "other".into()).await.unwrap();
    fixture.ingest_batches(&[text_batch(&[("a", 1, None)])]).await;
    assert_eq!(fixture.bytes(&path).await, "other");
}

#[tokio::test]
async fn the_number_of_threads_does_not_change_a_files_bytes() {
    let mut fixture = Fixture::text(&[]);
    let keys: Vec<String> = (0..300_000)
        .map(|row| format!("{:06}", row * 7919_u64 % 300_000))
        .collect();
    let table: Vec<(&str, i64, Option<&str>)> = keys.iter().map(|key| (key.as_str(), 1, None)).collect();
    let input = fixture.put_batches("in/x.parquet", &[text_batch(&table)]).await;
    let mut written = Vec::new();
    for threads in [1, 4] {
        fixture.options.threads = std::num::NonZeroUsize::new(threads).unwrap();
        let files = fixture.ingest(vec![input.clone()]).await.unwrap();
        written.push((files.len(), files[0].checksum, files[0].digest()));
    }
    assert_eq!(written[0], written[1]);
}
