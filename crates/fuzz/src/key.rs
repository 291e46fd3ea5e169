//! Keys of every type: their order against an encoding that bytes order, their text form, bounds, and what the
//! engine makes of rows with them.

use std::{cmp::Ordering, sync::Arc};

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use dormouse_core::{
    key::{Bytes as KeyBytes, Key, KeyBounds, KeyRange, KeyValue},
    partition::{Partition, tree_from_split_points},
    ports::{IngestSpec, Progress, RowEngine},
    schema::{Column, DataType, Schema, TimeUnit},
};
use dormouse_engine::arrow_schema::arrow_schema;
use parquet::{
    arrow::ArrowWriter,
    basic::Compression,
    file::properties::{EnabledStatistics, WriterProperties},
};

use crate::{
    rows::{Bench, input, keys, leaves, read, table},
    source::Source,
};

thread_local! {
    static ROOMY: Bench = Bench::new(1 << 20);
    static SPILLING: Bench = Bench::new(1);
}

fn data_type(choice: u8) -> DataType {
    match choice % 6 {
        0 => DataType::Int32,
        1 => DataType::Int64,
        2 => DataType::Utf8,
        3 => DataType::Binary,
        4 => DataType::Date32,
        _ => DataType::Timestamp {
            unit: TimeUnit::Microsecond,
            timezone: None,
        },
    }
}

/// A value; texts and bytes have fronts in common that are longer than any prefix that the engine compares.
fn value(source: &mut Source<'_>, data_type: &DataType) -> KeyValue {
    let number = |source: &mut Source<'_>| source.number() as i32;
    match data_type {
        DataType::Int32 => KeyValue::Int32(number(source)),
        DataType::Date32 => KeyValue::Date32(number(source)),
        DataType::Int64 => KeyValue::Int64(source.number()),
        DataType::Utf8 => {
            let front = "\u{e000}shared front of keys";
            let mut text: String = front.chars().take(source.below(24)).collect();
            text.push_str(&source.text());
            KeyValue::Utf8(text.into())
        }
        DataType::Binary => {
            let mut bytes = vec![0x80; source.below(20)];
            bytes.extend_from_slice(source.bytes(6));
            KeyValue::Binary(KeyBytes(bytes.into()))
        }
        _ => KeyValue::Timestamp(source.number()),
    }
}

/// Bytes whose order is the key's: big endian with the sign flipped; text with 0 as 0 1, ended by 0 0.
fn encoded(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in &key.0 {
        match value {
            KeyValue::Int32(number) | KeyValue::Date32(number) => {
                bytes.extend((number.cast_unsigned() ^ 1 << 31).to_be_bytes());
            }
            KeyValue::Int64(number) | KeyValue::Timestamp(number) => {
                bytes.extend((number.cast_unsigned() ^ 1 << 63).to_be_bytes());
            }
            KeyValue::Utf8(text) => escape(text.as_bytes(), &mut bytes),
            KeyValue::Binary(KeyBytes(value)) => escape(value, &mut bytes),
        }
    }
    bytes
}

fn escape(value: &[u8], bytes: &mut Vec<u8>) {
    for byte in value {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(1);
        }
    }
    bytes.extend([0, 0]);
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mode = source.byte();
    let columns: Vec<Column> = (0..=source.below(4))
        .map(|number| Column::required(format!("c{number}"), data_type(source.byte())))
        .collect();
    let row_key_columns = 1 + source.below(columns.len());
    let (row_key, sort_key) = columns.split_at(row_key_columns);
    let schema = Schema::new(row_key.to_vec(), sort_key.to_vec(), Vec::new())
        .unwrap_or_else(|error| panic!("{error}"));
    let count = 2 + source.below(15);
    let rows: Vec<Key> = (0..count)
        .map(|_| {
            let values: Vec<_> = columns
                .iter()
                .map(|column| value(&mut source, &column.data_type))
                .collect();
            Key::new(values)
        })
        .collect();
    check_codec(&rows);
    // Row keys and fronts of them, as split points may be.
    let mut points: Vec<Key> = rows
        .iter()
        .take(4)
        .map(|row| Key::new(row.0[..1 + source.below(row_key_columns)].to_vec()))
        .collect();
    for point in &points {
        assert!(schema.check_key(point).is_ok());
    }
    points.sort();
    points.dedup();
    let row_keys: Vec<Key> = rows
        .iter()
        .map(|row| Key::new(row.0[..row_key_columns].to_vec()))
        .collect();
    check_order(&rows, &points);
    check_bounds(&row_keys, &points);
    check_tree(&row_keys, &points);
    let bench = if mode & 15 == 0 { &SPILLING } else { &ROOMY };
    bench.with(|bench| check_engine(bench, Arc::new(schema), rows, &points));
}

fn check_codec(rows: &[Key]) {
    for row in rows {
        let json = serde_json::to_string(row).unwrap_or_else(|error| panic!("{error}"));
        let read: Key = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
        assert_eq!(read, *row);
    }
}

fn check_order(rows: &[Key], points: &[Key]) {
    let all: Vec<(&Key, Vec<u8>)> = rows.iter().chain(points).map(|key| (key, encoded(key))).collect();
    for (a, a_bytes) in &all {
        for (b, b_bytes) in &all {
            // The longer one may have other columns where the shorter one ends.
            let order = a_bytes.cmp(b_bytes);
            assert_eq!(a.cmp(b), order, "{a} and {b}");
            assert_eq!(a == b, order == Ordering::Equal);
        }
    }
}

fn check_bounds(row_keys: &[Key], points: &[Key]) {
    let bounds = KeyBounds {
        lower: points.first().cloned(),
        upper: points.get(1).cloned(),
    };
    for key in row_keys {
        let range = KeyRange {
            min: key.clone(),
            max: key.clone(),
        };
        assert_eq!(bounds.touches(&range), bounds.contains(key));
        assert_eq!(bounds.covers(&range), bounds.contains(key));
    }
}

/// Each key is in one leaf.
fn check_tree(row_keys: &[Key], points: &[Key]) {
    let mut next = 0;
    let tree = tree_from_split_points(points, || {
        next += 1;
        dormouse_core::ids::PartitionId::new(format!("p{next}")).unwrap_or_else(|error| panic!("{error}"))
    })
    .unwrap_or_else(|error| panic!("{error}"));
    for key in row_keys {
        let leaves = tree.iter().filter(|partition| Partition::is_leaf(partition));
        assert_eq!(
            leaves.filter(|leaf| leaf.bounds.contains(key)).count(),
            1,
            "{key}"
        );
    }
}

/// Rows come out of the engine in the order of their keys, cut at the leaves.
fn check_engine(bench: &Bench, schema: Arc<Schema>, mut rows: Vec<Key>, points: &[Key]) {
    let (front, back) = rows.split_at(rows.len() / 2);
    let store = bench.store("in/0.parquet", file(&schema, front).into());
    bench.put(&store, &"in/1.parquet".into(), file(&schema, back).into());
    let inputs = ["in/0.parquet", "in/1.parquet"]
        .map(|path| input(&store, path, bench.get(store.as_ref(), &path.into()).len()))
        .to_vec();
    let leaves = leaves(points);
    let spec = IngestSpec {
        table: table(),
        schema: schema.clone(),
        leaves: leaves.clone(),
        inputs,
        output: store.clone(),
        target_file_bytes: 1,
    };
    let ingest = bench.engine.ingest(spec, Arc::new(Progress::default()));
    let files = bench
        .runtime
        .block_on(ingest)
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let mut found = Vec::new();
    for data_file in &files {
        let bytes = bench.get(store.as_ref(), &data_file.name.object_path(&table()));
        let batches = read(bytes).unwrap_or_else(|error| panic!("{error}"));
        for part in &data_file.parts {
            assert!(leaves.iter().any(|leaf| leaf.bounds.covers(&part.range)));
        }
        found.extend(keys(&batches, &schema, schema.key_columns()));
    }
    rows.sort();
    assert_eq!(found, rows, "the engine orders otherwise than keys do");
}

fn file(schema: &Schema, rows: &[Key]) -> Vec<u8> {
    let columns: Vec<ArrayRef> = schema
        .columns()
        .enumerate()
        .map(|(number, column)| array(rows, number, &column.data_type))
        .collect();
    let arrow = arrow_schema(schema);
    let batch = RecordBatch::try_new(arrow.clone(), columns).unwrap_or_else(|error| panic!("{error}"));
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut bytes = Vec::new();
    let written = ArrowWriter::try_new(&mut bytes, arrow, Some(properties)).and_then(|mut writer| {
        writer.write(&batch)?;
        writer.close()
    });
    written.unwrap_or_else(|error| panic!("{error}"));
    bytes
}

fn array(rows: &[Key], column: usize, data_type: &DataType) -> ArrayRef {
    let values = || rows.iter().map(|row| &row.0[column]);
    let small = || {
        values().map(|value| match value {
            KeyValue::Int32(number) | KeyValue::Date32(number) => *number,
            _ => 0,
        })
    };
    let large = || {
        values().map(|value| match value {
            KeyValue::Int64(number) | KeyValue::Timestamp(number) => *number,
            _ => 0,
        })
    };
    match data_type {
        DataType::Int32 => Arc::new(Int32Array::from_iter_values(small())),
        DataType::Date32 => Arc::new(Date32Array::from_iter_values(small())),
        DataType::Int64 => Arc::new(Int64Array::from_iter_values(large())),
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(values().map(|value| match value {
            KeyValue::Utf8(text) => text.as_ref(),
            _ => "",
        }))),
        DataType::Binary => Arc::new(BinaryArray::from_iter_values(values().map(|value| match value {
            KeyValue::Binary(KeyBytes(bytes)) => bytes.as_ref(),
            _ => &[],
        }))),
        _ => Arc::new(TimestampMicrosecondArray::from_iter_values(large())),
    }
}
