//! Merges of columns with few values, which go through as codes.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use bytes::Bytes;
use dormouse_core::{
    ErrorKind,
    file::{DataFile, RowDigest},
    schema::{Column, DataType, Schema, TimeUnit},
};
use dormouse_engine::{FileLayout, arrow_schema::arrow_schema};
use object_store::{ObjectStoreExt, path::Path};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
        },
    },
    basic::{Compression, Encoding, ZstdLevel},
    file::{metadata::PageIndexPolicy, properties::WriterProperties},
};

use crate::fixture::{Fixture, leaves, rows, sorted};

const LAYOUT: FileLayout = FileLayout {
    row_group_rows: 256,
    page_rows: 100,
    piece_bytes: 4 << 10,
    copied_rows: 1 << 20,
};

/// The columns behind the key, all of them of few values; the last one of one file is not.
const VALUES: [&str; 8] = ["text", "bytes", "int", "long", "day", "time", "small", "large"];

fn schema() -> Arc<Schema> {
    let decimal = |precision| DataType::Decimal128 { precision, scale: 2 };
    let types = [
        DataType::Utf8,
        DataType::Binary,
        DataType::Int32,
        DataType::Int64,
        DataType::Date32,
        DataType::Timestamp {
            unit: TimeUnit::Microsecond,
            timezone: Some("UTC".into()),
        },
        decimal(9),
        decimal(18),
    ];
    let values = VALUES.iter().zip(types);
    let values = values.map(|(name, data_type)| Column::nullable(*name, data_type));
    Arc::new(
        Schema::new(
            vec![Column::required("k", DataType::Int64)],
            vec![],
            values.collect(),
        )
        .unwrap(),
    )
}

/// Rows of every so many keys from `first`; `value` answers a value's number by its row, none for null.
fn batch(rows: i64, first: i64, step: i64, value: impl Fn(i64) -> Option<i64>) -> RecordBatch {
    let keys = (0..rows).map(|row| first + row * step);
    let numbers: Vec<Option<i64>> = (0..rows).map(value).collect();
    let texts = numbers
        .iter()
        .map(|number| number.map(|number| format!("value {number} é")));
    let texts: Vec<Option<String>> = texts.collect();
    let decimal = |precision| -> ArrayRef {
        let numbers = numbers
            .iter()
            .map(|number| number.map(|number| i128::from(number) - 2));
        let numbers: Decimal128Array = numbers.collect();
        Arc::new(numbers.with_precision_and_scale(precision, 2).unwrap())
    };
    let small = || {
        numbers
            .iter()
            .map(|number| number.map(|number| number as i32 * 7 - 9))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(keys)),
        Arc::new(texts.iter().cloned().collect::<StringArray>()),
        Arc::new(
            texts
                .iter()
                .map(|text| text.as_ref().map(String::as_bytes))
                .collect::<BinaryArray>(),
        ),
        Arc::new(small().collect::<Int32Array>()),
        Arc::new(numbers.iter().copied().collect::<Int64Array>()),
        Arc::new(small().collect::<Date32Array>()),
        Arc::new(
            numbers
                .iter()
                .copied()
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        decimal(9),
        decimal(18),
    ];
    RecordBatch::try_new(arrow_schema(&schema()), columns).unwrap()
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::new(schema(), leaves(&[]));
    fixture.options.layout = LAYOUT;
    fixture
}

/// Five values and nulls, as a file's rows have them.
fn few(row: i64) -> Option<i64> {
    (row % 7 != 3).then_some(row / 3 % 5)
}

struct Merged {
    digest: RowDigest,
    rows: Vec<String>,
    bytes: Bytes,
}

async fn merge(fixture: &Fixture, files: &[DataFile], exact: bool) -> Merged {
    let inputs = files
        .iter()
        .map(|file| fixture.export_input(file, exact))
        .collect();
    let (exported, batch) = fixture.export(0, inputs).await.unwrap();
    Merged {
        digest: exported.digest,
        rows: rows(&batch),
        bytes: fixture.bytes(&Path::from("export/out.parquet")).await,
    }
}

fn metadata(bytes: &Bytes) -> ArrowReaderMetadata {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    ArrowReaderMetadata::load(bytes, options).unwrap()
}

/// How often each column behind the key has nothing but places in a dictionary in a row group.
fn dictionaries(bytes: &Bytes) -> BTreeMap<String, usize> {
    let file = metadata(bytes);
    let mut found = BTreeMap::new();
    for chunk in file
        .metadata()
        .row_groups()
        .iter()
        .flat_map(|group| &group.columns()[1..])
    {
        let all = chunk
            .page_encoding_stats_mask()
            .unwrap()
            .is_only(Encoding::RLE_DICTIONARY);
        *found.entry(chunk.column_path().string()).or_default() += usize::from(all);
    }
    found
}

#[tokio::test]
async fn rows_are_the_same_on_any_number_of_threads_however_they_are_read() {
    let mut fixture = fixture();
    let mut files = Vec::new();
    let mut expected = Vec::new();
    for file in 0..3 {
        let batch = batch(1500, file, 3, |row| few(row + file));
        expected.extend(rows(&batch));
        files.extend(fixture.ingest_batches(&[batch]).await);
    }
    let digest = files
        .iter()
        .map(DataFile::digest)
        .fold(RowDigest::default(), |sum, digest| sum + digest);
    let mut bytes = Vec::new();
    for (threads, exact) in [(1, true), (4, true), (2, false)] {
        fixture.options.threads = NonZeroUsize::new(threads).unwrap();
        let merged = merge(&fixture, &files, exact).await;
        assert_eq!(merged.digest, digest);
        assert_eq!(sorted(merged.rows.clone()), sorted(expected.clone()));
        bytes.push(merged.bytes);
    }
    assert!(bytes.iter().all(|other| *other == bytes[0]));
    let groups = metadata(&bytes[0]).metadata().num_row_groups();
    assert!(groups > 10, "{groups}");
    assert_eq!(
        dictionaries(&bytes[0]),
        VALUES.map(|name| (name.to_owned(), groups)).into()
    );

    // Pages are found by their index.
    let middle = RowSelection::from_consecutive_ranges(std::iter::once(2000..2010), 4500);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes[0].clone(), metadata(&bytes[0]));
    let mut reader = reader.with_row_selection(middle).build().unwrap();
    let all = rows(&crate::fixture::decode(bytes[0].clone()));
    assert_eq!(rows(&reader.next().unwrap().unwrap()), all[2000..2010]);
}

#[tokio::test]
async fn values_that_turn_out_to_be_many_or_long_or_absent_are_merged_as_well() {
    // The first rows, by which encodings are chosen, have few values each time.
    let values: [fn(i64) -> Option<i64>; 4] = [
        |row| if row < 400 { few(row) } else { Some(row * 1000) },
        |row| {
            if (400..1200).contains(&row) {
                None
            } else {
                few(row)
            }
        },
        |_| None,
        |row| {
            if row < 1400 {
                few(row)
            } else {
                Some(10_i64.pow(14) + row)
            }
        },
    ];
    for (number, value) in values.into_iter().enumerate() {
        let fixture = fixture();
        let mut files = Vec::new();
        let mut expected = Vec::new();
        for file in 0..2 {
            // Decimals and days would not hold such numbers.
            let fits = |number: i64| number.min(if file == 0 { 90_000_000 } else { 4 });
            let batch = batch(1500, file, 2, |row| value(row).map(fits));
            expected.extend(rows(&batch));
            files.extend(fixture.ingest_batches(&[batch]).await);
        }
        let merged = merge(&fixture, &files, true).await;
        assert_eq!(merged.digest, files[0].digest() + files[1].digest(), "{number}");
        assert_eq!(sorted(merged.rows), sorted(expected), "{number}");
    }
}

/// A file that somebody else wrote, as the table would have it.
async fn foreign(fixture: &Fixture, batch: &RecordBatch, like: &DataFile, bytes: Vec<u8>) -> DataFile {
    let file = DataFile {
        bytes: bytes.len() as u64,
        checksum: dormouse_core::file::Checksum(crc_fast::crc64_nvme(&bytes)),
        ..like.clone()
    };
    assert_eq!(batch.num_rows() as u64, file.rows);
    let path = fixture.export_input(&file, true).path;
    fixture.store.put(&path, bytes.into()).await.unwrap();
    file
}

fn written(batch: &RecordBatch, dictionary: bool) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(dictionary)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(300));
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn files_with_and_without_dictionaries_are_merged_together() {
    let fixture = fixture();
    let (one, other) = (batch(600, 0, 2, few), batch(600, 1, 2, few));
    let mut files = fixture.ingest_batches(std::slice::from_ref(&one)).await;
    files.extend(fixture.ingest_batches(std::slice::from_ref(&other)).await);
    let expected = sorted([rows(&one), rows(&other)].concat());
    for dictionary in [false, true] {
        files[1] = foreign(&fixture, &other, &files[1], written(&other, dictionary)).await;
        let merged = merge(&fixture, &files, true).await;
        assert_eq!(merged.digest, files[0].digest() + files[1].digest());
        assert_eq!(sorted(merged.rows), expected, "{dictionary}");
    }
    // One whose Arrow schema names other types than the table has.
    let keys = arrow::datatypes::DataType::Dictionary(
        Box::new(arrow::datatypes::DataType::Int8),
        Box::new(arrow::datatypes::DataType::Utf8),
    );
    for other_type in [keys, arrow::datatypes::DataType::LargeUtf8] {
        let mut columns = other.columns().to_vec();
        columns[1] = arrow::compute::cast(&columns[1], &other_type).unwrap();
        let mut fields: Vec<_> = other.schema().fields().iter().cloned().collect();
        fields[1] = Arc::new(fields[1].as_ref().clone().with_data_type(other_type.clone()));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let typed = RecordBatch::try_new(schema, columns).unwrap();
        files[1] = foreign(&fixture, &other, &files[1], written(&typed, true)).await;
        let merged = merge(&fixture, &files, true).await;
        assert_eq!(sorted(merged.rows), expected, "{other_type}");
    }
}

#[tokio::test]
async fn damaged_bytes_are_told_of_and_change_no_row() {
    let fixture = fixture();
    let batches = [batch(900, 0, 2, few), batch(900, 1, 2, few)];
    let mut files = Vec::new();
    for batch in &batches {
        files.extend(fixture.ingest_batches(std::slice::from_ref(batch)).await);
    }
    let input = fixture.export_input(&files[1], true);
    let sound = fixture.bytes(&input.path).await;
    let expected = merge(&fixture, &files, true).await;
    let footer = sound.len() - 4000;
    let mut refused = 0;
    for at in (4..footer).step_by(footer / 150) {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 0x10;
        fixture.store.put(&input.path, bytes.into()).await.unwrap();
        let inputs = files
            .iter()
            .map(|file| fixture.export_input(file, true))
            .collect();
        match fixture.export(0, inputs).await {
            Ok((exported, batch)) => {
                assert_eq!(
                    (exported.digest, rows(&batch)),
                    (expected.digest, expected.rows.clone()),
                    "{at}"
                );
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}: {}", error.report());
                assert!(
                    error.report().contains(files[1].name.to_string().as_str()),
                    "{at}: {}",
                    error.report()
                );
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
