//! Parquet files as inputs of ingest, as data files, and as what exports are made of.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use arrow::array::RecordBatch;
use bytes::Bytes;
use dormouse_core::{
    ErrorKind, Result,
    file::DataFile,
    key::{Bytes as KeyBytes, Key, KeyValue},
    partition::Leaf,
    ports::{ExportSpec, ExportedFile, IngestSpec, MergeInput, Progress, RowEngine},
    schema::{Column, DataType, Schema},
};
use object_store::{memory::InMemory, path::Path};

use crate::{
    rows::{Bench, check_refusal, crc64, input, keys, leaves, read, table, texts},
    source::fingerprint,
};

const NAME: &str = "in/fuzzed.parquet";
const DATA_FILE: &str = "table/data/partition_root/fuzzed.parquet";

thread_local! {
    static BENCH: Bench = Bench::new(1 << 20);
}

/// Row key `k`, sort key `s`, nullable value `v`: what inputs are read as whose own schema cannot be a table's.
fn default_schema() -> Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    let make = || {
        let row_key = vec![Column::required("k", DataType::Utf8)];
        let sort_key = vec![Column::required("s", DataType::Int64)];
        let values = vec![Column::nullable("v", DataType::Utf8)];
        Arc::new(Schema::new(row_key, sort_key, values).unwrap_or_else(|error| panic!("{error}")))
    };
    SCHEMA.get_or_init(make).clone()
}

/// One or two places to cut the key space.
fn split_points(schema: &Schema, count: usize) -> Vec<Key> {
    let first = &schema.row_key()[0].data_type;
    [3_i32, 900][..count]
        .iter()
        .map(|&number| {
            Key::new([match first {
                DataType::Int32 => KeyValue::Int32(number),
                DataType::Date32 => KeyValue::Date32(number),
                DataType::Int64 => KeyValue::Int64(number.into()),
                DataType::Utf8 => KeyValue::Utf8(if number == 3 { "b" } else { "key3" }.into()),
                DataType::Binary => KeyValue::Binary(KeyBytes(Box::new([(number >> 2) as u8]))),
                _ => KeyValue::Timestamp(number.into()),
            }])
        })
        .collect()
}

pub(crate) fn run(data: &[u8]) {
    BENCH.with(|bench| {
        Run {
            bench,
            bytes: Bytes::copy_from_slice(data),
            pick: fingerprint(data) >> 16,
        }
        .run();
    });
}

struct Run<'a> {
    bench: &'a Bench,
    bytes: Bytes,
    /// Chooses what else is done.
    pick: u64,
}

impl Run<'_> {
    fn run(&self) {
        let store = self.bench.store(NAME, self.bytes.clone());
        let schema = self.schema(&store);
        let leaves = leaves(&split_points(&schema, self.pick as usize % 3));
        let spec = IngestSpec {
            table: table(),
            schema: schema.clone(),
            leaves: leaves.clone(),
            inputs: vec![input(&store, NAME, self.bytes.len())],
            output: store.clone(),
            target_file_bytes: [1, 1 << 20][(self.pick >> 2) as usize % 2],
        };
        let ingest = self.bench.engine.ingest(spec, Arc::new(Progress::default()));
        match self.bench.runtime.block_on(ingest) {
            Err(error) => check_refusal(&error, ErrorKind::Invalid, NAME),
            Ok(files) => {
                let rows = self.check_ingested(&store, &schema, &leaves, &files);
                if (self.pick >> 3).is_multiple_of(4) && !files.is_empty() {
                    self.check_export(&store, &schema, &files, rows);
                    self.check_damage(&store, &schema, &files[0]);
                }
            }
        }
        if (self.pick >> 5).is_multiple_of(4) {
            self.check_as_data_file(&schema);
        }
    }

    /// The schema that the file stands for, with its columns `k` and `s` as key.
    fn schema(&self, store: &Arc<InMemory>) -> Arc<Schema> {
        let of = |sort_key: &[&str]| {
            let object = input(store, NAME, self.bytes.len());
            let schema = self.bench.engine.schema_of(object, &["k"], sort_key);
            self.bench.runtime.block_on(schema).inspect_err(|error| {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
            })
        };
        of(&["s"])
            .or_else(|_| of(&[]))
            .map_or_else(|_| default_schema(), Arc::new)
    }

    /// The rows of the input by the other reader, sorted, or why it has none.
    fn other(&self, schema: &Schema) -> Result<Vec<String>, String> {
        catch_unwind(AssertUnwindSafe(|| read(self.bytes.clone())))
            .unwrap_or_else(|_| Err("it panics".to_owned()))
            .map(|batches| sorted(texts(&batches, schema)))
    }

    fn check_ingested(
        &self,
        store: &Arc<InMemory>,
        schema: &Schema,
        leaves: &[Leaf],
        files: &[DataFile],
    ) -> Vec<String> {
        let mut rows = Vec::new();
        let mut last = None;
        for file in files {
            let bytes = self.bench.get(store.as_ref(), &file.name.object_path(&table()));
            assert_eq!(crc64(&bytes), file.checksum);
            assert_eq!(bytes.len() as u64, file.bytes);
            let batches = read(bytes).unwrap_or_else(|error| panic!("a file that cannot be read: {error}"));
            last = check_order(&batches, schema, leaves, file, last);
            rows.extend(texts(&batches, schema));
        }
        let rows = sorted(rows);
        let expected = self
            .other(schema)
            .unwrap_or_else(|error| panic!("the engine read what the other reader refuses: {error}"));
        assert_rows(&rows, &expected);
        rows
    }

    fn export(
        &self,
        store: &Arc<InMemory>,
        schema: &Schema,
        inputs: Vec<MergeInput>,
    ) -> Result<ExportedFile> {
        let spec = ExportSpec {
            schema: Arc::new(schema.clone()),
            leaf: leaves(&[]).remove(0),
            inputs,
            rules: None,
            output: store.clone(),
            output_path: Path::from("export/out.parquet"),
        };
        let export = self.bench.engine.export(spec, Arc::new(Progress::default()));
        self.bench.runtime.block_on(export)
    }

    fn exported(&self, store: &Arc<InMemory>, schema: &Schema) -> Vec<String> {
        let bytes = self.bench.get(store.as_ref(), &Path::from("export/out.parquet"));
        let batches = read(bytes).unwrap_or_else(|error| panic!("an export that cannot be read: {error}"));
        let keys = keys(&batches, schema, schema.key_columns());
        assert!(keys.is_sorted(), "an export is not in order");
        texts(&batches, schema)
    }

    /// Exports what was ingested.
    fn check_export(&self, store: &Arc<InMemory>, schema: &Schema, files: &[DataFile], rows: Vec<String>) {
        let inputs = files
            .iter()
            .map(|file| export_input(store, file, self.pick >> 7 & 1 == 0))
            .collect();
        let exported = self
            .export(store, schema, inputs)
            .unwrap_or_else(|error| panic!("what was ingested cannot be exported: {}", error.report()));
        assert_eq!(exported.rows, rows.len() as u64);
        assert_rows(&sorted(self.exported(store, schema)), &rows);
    }

    /// Exports a data file after a bit of it was flipped.
    fn check_damage(&self, store: &Arc<InMemory>, schema: &Schema, file: &DataFile) {
        let path = file.name.object_path(&table());
        let mut bytes = self.bench.get(store.as_ref(), &path).to_vec();
        let bit = (self.pick >> 8) as usize % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.bench.put(store, &path, bytes.into());
        for exact in [false, true] {
            match self.export(store, schema, vec![export_input(store, file, exact)]) {
                Ok(exported) => {
                    assert!(exact, "a checksum cannot miss a flipped bit");
                    assert_eq!((exported.rows, exported.digest), (file.rows, file.digest()));
                }
                Err(error) => check_refusal(&error, ErrorKind::Corrupt, path.as_ref()),
            }
        }
    }

    /// Exports the input as if it were a data file of the table.
    fn check_as_data_file(&self, schema: &Schema) {
        let store = self.bench.store(DATA_FILE, self.bytes.clone());
        let checksum = crc64(&self.bytes);
        let right = MergeInput {
            store: store.clone(),
            path: Path::from(DATA_FILE),
            bytes: self.bytes.len() as u64,
            checksum,
            exact: None,
        };
        let mut wrong = right.clone();
        wrong.checksum.0 ^= 1 << (self.pick >> 8 & 63);
        match self.export(&store, schema, vec![wrong]) {
            Ok(_) => panic!("a wrong checksum was accepted"),
            Err(error) => check_refusal(&error, ErrorKind::Corrupt, DATA_FILE),
        }
        match self.export(&store, schema, vec![right]) {
            Ok(_) => {
                // The engine finds pages by the page index, the other reader by their headers.
                let found = sorted(self.exported(&store, schema));
                if let Ok(expected) = self.other(schema) {
                    assert_rows(&found, &expected);
                }
            }
            Err(error) => check_refusal(&error, ErrorKind::Corrupt, DATA_FILE),
        }
    }
}

fn export_input(store: &Arc<InMemory>, file: &DataFile, exact: bool) -> MergeInput {
    MergeInput {
        store: store.clone(),
        path: file.name.object_path(&table()),
        bytes: file.bytes,
        checksum: file.checksum,
        exact: exact.then(|| (file.rows, file.digest())),
    }
}

/// Checks order, counts, ranges and leaves of a data file; answers its largest row key.
fn check_order(
    batches: &[RecordBatch],
    schema: &Schema,
    leaves: &[Leaf],
    file: &DataFile,
    last: Option<Key>,
) -> Option<Key> {
    let whole = keys(batches, schema, schema.key_columns());
    assert!(whole.is_sorted(), "file {} is not in order", file.name);
    let row_keys = keys(batches, schema, schema.row_key().len());
    assert_eq!(row_keys.len() as u64, file.rows);
    let mut from = 0;
    for part in &file.parts {
        let rows = &row_keys[from..from + part.rows as usize];
        assert_eq!(
            (rows.first(), rows.last()),
            (Some(&part.range.min), Some(&part.range.max))
        );
        assert!(
            leaves.iter().any(|leaf| leaf.bounds.covers(&part.range)),
            "a part of file {} is in no leaf",
            file.name
        );
        from += rows.len();
    }
    assert_eq!(from, row_keys.len());
    assert!(last < row_keys.first().cloned(), "files overlap");
    row_keys.last().cloned()
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

fn assert_rows(found: &[String], expected: &[String]) {
    assert_eq!(found.len(), expected.len(), "other rows than were read");
    if let Some((found, expected)) = found
        .iter()
        .zip(expected)
        .find(|(found, expected)| found != expected)
    {
        panic!("a row is\n  {found}\nwhere the other reader has\n  {expected}");
    }
}
