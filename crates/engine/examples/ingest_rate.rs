//! Measures ingest and export on local disk. Build with `--release`; run under `/usr/bin/time -v`.
//!
//! ```text
//! ingest_rate generate <directory> <million rows> <files>
//! ingest_rate ingest <directory of inputs> <table directory> <leaves> [memory MiB]
//! ingest_rate export <table directory> <leaves> <leaf> [times the table holds the leaf]
//! ```
//!
//! A row is a key of 10 random lowercase letters, a random i64 timestamp as sort key, and a value of 10 letters.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a program that measures"
)]

use std::{path::Path, sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType as ArrowType, Field, Schema as ArrowSchema},
};
use dormouse_core::{
    file::{Checksum, DataFile},
    ids::{PartitionId, TableId},
    key::{Key, KeyBounds, KeyValue},
    partition::Leaf,
    ports::{ExportSpec, IngestSpec, InputObject, MergeInput, Progress, RowEngine, SystemIds},
    schema::{Column, DataType, Schema},
};
use dormouse_engine::{EngineOptions, ParquetRowEngine};
use object_store::{ObjectStore, local::LocalFileSystem, path::Path as ObjectPath};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_ROWS: usize = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(default, |text| text.parse().unwrap());
    match words.first() {
        Some(&"generate") => generate(Path::new(words[1]), number(2, 10) * 1_000_000, number(3, 8)),
        Some(&"ingest") => {
            let mut options = EngineOptions::default();
            options.memory_bytes = words.get(4).map_or(options.memory_bytes, |_| number(4, 0) << 20);
            runtime().block_on(ingest(words[1], words[2], number(3, 16), options));
        }
        Some(&"export") => runtime().block_on(export(words[1], number(2, 16), number(3, 0), number(4, 1))),
        _ => println!(
            "generate <directory> <million rows> <files> | ingest <inputs> <table> <leaves> [MiB] | export <table> <leaves> <leaf> [times]"
        ),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn schema() -> Arc<Schema> {
    let timestamp = Column::required("timestamp", DataType::Int64);
    let key = Column::required("key", DataType::Utf8);
    let value = Column::required("value", DataType::Utf8);
    Arc::new(Schema::new(vec![key], vec![timestamp], vec![value]).unwrap())
}

fn letters(random: &mut StdRng, rows: usize) -> ArrayRef {
    let mut text = String::with_capacity(10);
    Arc::new(StringArray::from_iter_values((0..rows).map(|_| {
        text.clear();
        text.extend((0..10).map(|_| char::from(random.random_range(b'a'..=b'z'))));
        text.clone()
    })))
}

fn generate(directory: &Path, rows: u64, files: u64) {
    std::fs::create_dir_all(directory).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let arrow = Arc::new(ArrowSchema::new(vec![
        Field::new("key", ArrowType::Utf8, false),
        Field::new("timestamp", ArrowType::Int64, false),
        Field::new("value", ArrowType::Utf8, false),
    ]));
    for number in 0..files {
        let file = std::fs::File::create(directory.join(format!("input-{number:03}.parquet"))).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(128 << 10))
            .build();
        let mut writer = ArrowWriter::try_new(file, arrow.clone(), Some(properties)).unwrap();
        let mut left = (rows / files) as usize;
        while left > 0 {
            let batch = left.min(BATCH_ROWS);
            let times = Int64Array::from_iter_values((0..batch).map(|_| random.random::<i64>()));
            let columns = vec![
                letters(&mut random, batch),
                Arc::new(times) as ArrayRef,
                letters(&mut random, batch),
            ];
            writer
                .write(&RecordBatch::try_new(arrow.clone(), columns).unwrap())
                .unwrap();
            left -= batch;
        }
        writer.close().unwrap();
    }
}

/// Leaves of equal shares of all pairs of first letters.
fn leaves(count: u64) -> Vec<Leaf> {
    let split = |number: u64| -> Option<Key> {
        if number == 0 || number == count {
            return None;
        }
        let pair = number * 26 * 26 / count;
        let letter = |index: u64| char::from(b'a' + index as u8);
        let text = format!("{}{}", letter(pair / 26), letter(pair % 26));
        Some(Key::new([KeyValue::Utf8(text.into())]))
    };
    (0..count)
        .map(|number| Leaf {
            id: PartitionId::new(format!("leaf{number}")).unwrap(),
            bounds: KeyBounds {
                lower: split(number),
                upper: split(number + 1),
            },
        })
        .collect()
}

async fn ingest(inputs: &str, table: &str, leaf_count: u64, options: EngineOptions) {
    std::fs::create_dir_all(table).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(inputs).unwrap());
    let mut objects: Vec<InputObject> = Vec::new();
    for entry in std::fs::read_dir(inputs).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        objects.push(InputObject {
            path: ObjectPath::from(name.as_str()),
            name,
            store: store.clone(),
            bytes: entry.metadata().unwrap().len(),
            e_tag: None,
        });
    }
    let spec = IngestSpec {
        table: TableId::new("table").unwrap(),
        schema: schema(),
        leaves: leaves(leaf_count),
        inputs: objects,
        output: Arc::new(LocalFileSystem::new_with_prefix(table).unwrap()),
        target_file_bytes: 1 << 20,
    };
    let engine = ParquetRowEngine::new(options, Arc::new(SystemIds));
    let start = Instant::now();
    let files: Vec<DataFile> = engine.ingest(spec, Arc::new(Progress::default())).await.unwrap();
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    println!(
        "ingested {rows} rows into {} files of {bytes} bytes in {:?}",
        files.len(),
        start.elapsed()
    );
}

async fn export(table: &str, leaf_count: u64, leaf: u64, times: u64) {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(table).unwrap());
    let directory = format!("table/data/partition_leaf{leaf}");
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(Path::new(table).join(&directory)).unwrap() {
        let entry = entry.unwrap();
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        crc.update(&std::fs::read(entry.path()).unwrap());
        inputs.push(MergeInput {
            store: store.clone(),
            path: ObjectPath::from(format!(
                "{directory}/{}",
                entry.file_name().into_string().unwrap()
            )),
            bytes: entry.metadata().unwrap().len(),
            checksum: Checksum(crc.finalize()),
            exact: None,
        });
    }
    let inputs: Vec<MergeInput> = (0..times).flat_map(|_| inputs.clone()).collect();
    let engine = ParquetRowEngine::new(EngineOptions::default(), Arc::new(SystemIds));
    let start = Instant::now();
    let spec = ExportSpec {
        schema: schema(),
        leaf: leaves(leaf_count).swap_remove(leaf as usize),
        inputs,
        rules: None,
        output: store,
        output_path: ObjectPath::from("export.parquet"),
    };
    let exported = engine.export(spec, Arc::new(Progress::default())).await.unwrap();
    println!(
        "exported {} rows, {} bytes in {:?}",
        exported.rows,
        exported.bytes,
        start.elapsed()
    );
}
