//! Rows read with nothing of the engine, to compare its answers with, and an engine to ask.

use std::{fmt::Write as _, num::NonZeroUsize, sync::Arc};

use arrow::{
    array::{Array, RecordBatch, cast::AsArray},
    datatypes::{
        Date32Type, Int32Type, Int64Type, TimeUnit as ArrowUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    },
    util::display::{ArrayFormatter, FormatOptions},
};
use bytes::Bytes;
use dormouse_core::{
    Error, ErrorKind, Result,
    file::Checksum,
    ids::{PartitionId, TableId},
    key::{Bytes as KeyBytes, Key, KeyBounds, KeyValue},
    partition::Leaf,
    ports::{InputObject, SystemIds},
    schema::{DataType, Schema},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::runtime::{Builder, Runtime};

/// An engine with a runtime and a thread of its own; a small `memory_bytes` makes it spill.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    pub(crate) engine: ParquetRowEngine,
}

impl Bench {
    pub(crate) fn new(memory_bytes: u64) -> Self {
        let options = EngineOptions {
            memory_bytes,
            threads: NonZeroUsize::MIN,
            ..EngineOptions::default()
        };
        Self {
            runtime: Builder::new_current_thread()
                .build()
                .unwrap_or_else(|error| panic!("no runtime: {error}")),
            engine: ParquetRowEngine::new(options, Arc::new(SystemIds)),
        }
    }

    /// A store that holds one object.
    pub(crate) fn store(&self, path: &str, bytes: Bytes) -> Arc<InMemory> {
        let store = Arc::new(InMemory::new());
        self.put(&store, &Path::from(path), bytes);
        store
    }

    pub(crate) fn put(&self, store: &InMemory, path: &Path, bytes: Bytes) {
        self.runtime
            .block_on(store.put(path, bytes.into()))
            .unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn get(&self, store: &dyn ObjectStore, path: &Path) -> Bytes {
        self.runtime
            .block_on(async { store.get(path).await?.bytes().await })
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) fn table() -> TableId {
    TableId::new("table").unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn input(store: &Arc<InMemory>, path: &str, bytes: usize) -> InputObject {
    InputObject {
        name: format!("bucket/{path}"),
        store: store.clone(),
        path: Path::from(path),
        bytes: bytes as u64,
        e_tag: None,
    }
}

/// Leaves that are cut at `splits`, which rise.
pub(crate) fn leaves(splits: &[Key]) -> Vec<Leaf> {
    (0..=splits.len())
        .map(|number| Leaf {
            id: PartitionId::new(format!("leaf{number}")).unwrap_or_else(|error| panic!("{error}")),
            bounds: KeyBounds {
                lower: number.checked_sub(1).map(|split| splits[split].clone()),
                upper: splits.get(number).cloned(),
            },
        })
        .collect()
}

pub(crate) fn crc64(bytes: &[u8]) -> Checksum {
    Checksum(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes))
}

/// A refusal must be of this kind and name the object.
pub(crate) fn check_refusal(error: &Error, kind: ErrorKind, name: &str) {
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert!(
        error.to_string().contains(name),
        "an error that does not name \"{name}\": {}",
        error.report()
    );
}

/// All rows of a Parquet file, as the reader of the arrow project gives them.
///
/// # Panics
/// The reader may panic.
pub(crate) fn read(bytes: Bytes) -> Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| error.to_string())?;
    reader
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// Every row as text, columns in the order of `schema`.
pub(crate) fn texts(batches: &[RecordBatch], schema: &Schema) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let mut texts = vec![String::new(); batch.num_rows()];
        for column in schema.columns() {
            let array = batch
                .column_by_name(&column.name)
                .unwrap_or_else(|| panic!("no column {}", column.name));
            add_texts(array.as_ref(), &column.data_type, &mut texts);
        }
        rows.extend(texts);
    }
    rows
}

fn add_texts(array: &dyn Array, data_type: &DataType, rows: &mut [String]) {
    let options = FormatOptions::default().with_null("<null>");
    // Names of time zones are not known here.
    let formatter = ArrayFormatter::try_new(array, &options);
    for (row, text) in rows.iter_mut().enumerate() {
        let written = match (&formatter, data_type) {
            (_, DataType::Timestamp { .. }) if array.is_null(row) => write!(text, "<null>|"),
            (_, DataType::Timestamp { .. }) => write!(text, "{}|", key_value(array, data_type, row)),
            (Ok(formatter), _) => write!(text, "{}|", formatter.value(row)),
            (Err(_), _) => write!(text, "{:?}|", array.slice(row, 1)),
        };
        written.unwrap_or_else(|error| panic!("a value without text: {error}"));
    }
}

/// The first `columns` columns of every row as keys.
pub(crate) fn keys(batches: &[RecordBatch], schema: &Schema, columns: usize) -> Vec<Key> {
    let mut keys = Vec::new();
    for batch in batches {
        keys.extend((0..batch.num_rows()).map(|row| {
            Key::new(
                schema
                    .columns()
                    .take(columns)
                    .map(|column| {
                        let array = batch
                            .column_by_name(&column.name)
                            .unwrap_or_else(|| panic!("no column {}", column.name));
                        key_value(array.as_ref(), &column.data_type, row)
                    })
                    .collect::<Vec<_>>(),
            )
        }));
    }
    keys
}

fn key_value(array: &dyn Array, data_type: &DataType, row: usize) -> KeyValue {
    match data_type {
        DataType::Int32 => KeyValue::Int32(array.as_primitive::<Int32Type>().value(row)),
        DataType::Date32 => KeyValue::Date32(array.as_primitive::<Date32Type>().value(row)),
        DataType::Int64 => KeyValue::Int64(array.as_primitive::<Int64Type>().value(row)),
        DataType::Utf8 => KeyValue::Utf8(array.as_string::<i32>().value(row).into()),
        DataType::Binary => KeyValue::Binary(KeyBytes(array.as_binary::<i32>().value(row).into())),
        _ => KeyValue::Timestamp(match array.data_type() {
            arrow::datatypes::DataType::Timestamp(ArrowUnit::Second, _) => {
                array.as_primitive::<TimestampSecondType>().value(row)
            }
            arrow::datatypes::DataType::Timestamp(ArrowUnit::Millisecond, _) => {
                array.as_primitive::<TimestampMillisecondType>().value(row)
            }
            arrow::datatypes::DataType::Timestamp(ArrowUnit::Microsecond, _) => {
                array.as_primitive::<TimestampMicrosecondType>().value(row)
            }
            _ => array.as_primitive::<TimestampNanosecondType>().value(row),
        }),
    }
}
