//! What Parquet itself costs: decoding files, and decoding and encoding them, without a merge. Build with `--release`.
//!
//! ```text
//! parquet_floor decode <file>...            reads all columns, and forgets them
//! parquet_floor rewrite <output> <file>...  reads files one after the other, and writes all rows as one file
//! parquet_floor merge <output> <row key> <sort key> <file>...  merges sorted files, as a compaction does
//! ```
//!
//! What is written has the encodings of the last file, with its row groups' and pages' lengths as Dormouse writes
//! them; so what a rewrite takes more than a decode of the same file is what encoding these rows takes.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a program that measures"
)]

use std::{fs::File, process::ExitCode, sync::Arc, time::Instant};

use dormouse_core::{
    file::Checksum,
    ids::PartitionId,
    key::KeyBounds,
    partition::Leaf,
    ports::{ExportSpec, InputObject, MergeInput, Progress, RowEngine, SystemIds},
};
use dormouse_engine::{EngineOptions, FileLayout, ParquetRowEngine};
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Encoding,
    file::{
        metadata::ParquetMetaData,
        properties::{EnabledStatistics, WriterProperties},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_ROWS: usize = 16 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["decode", files @ ..] if !files.is_empty() => read(files, None),
        ["rewrite", output, files @ ..] if !files.is_empty() => read(files, Some(output)),
        ["merge", output, row_key, sort_key, files @ ..] if !files.is_empty() => {
            tokio::runtime::Builder::new_multi_thread()
                .build()
                .unwrap()
                .block_on(merge(output, row_key, sort_key, files));
        }
        _ => {
            eprintln!(
                "parquet_floor decode <file>... | rewrite <output> <file>... | merge <output> <row key> <sort key> <file>..."
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn read(files: &[&str], output: Option<&str>) {
    let mut rows = 0;
    let mut writer: Option<ArrowWriter<File>> = None;
    let last = open(files[files.len() - 1]);
    for file in files {
        for batch in open(file).with_batch_size(BATCH_ROWS).build().unwrap() {
            let batch = batch.unwrap();
            rows += batch.num_rows();
            if let Some(output) = output {
                let writer = writer.get_or_insert_with(|| {
                    let file = File::create(output).unwrap();
                    ArrowWriter::try_new(file, batch.schema(), Some(properties(last.metadata()))).unwrap()
                });
                writer.write(&batch).unwrap();
            }
        }
    }
    if let Some(writer) = writer {
        writer.close().unwrap();
    }
    println!("{rows} rows");
}

async fn merge(output: &str, row_key: &str, sort_key: &str, files: &[&str]) {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    let engine = ParquetRowEngine::new(EngineOptions::default(), Arc::new(SystemIds));
    let path = |file: &str| Path::from_absolute_path(std::path::absolute(file).unwrap()).unwrap();
    let bytes = |file: &str| std::fs::metadata(file).unwrap().len();
    let first = InputObject {
        name: files[0].to_owned(),
        store: store.clone(),
        path: path(files[0]),
        bytes: bytes(files[0]),
        e_tag: None,
    };
    let schema = engine.schema_of(first, &[row_key], &[sort_key]).await.unwrap();
    let inputs = files.iter().map(|file| MergeInput {
        store: store.clone(),
        path: path(file),
        bytes: bytes(file),
        checksum: Checksum(crc_fast::crc64_nvme(&std::fs::read(file).unwrap())),
        exact: None,
    });
    let spec = ExportSpec {
        schema: Arc::new(schema),
        leaf: Leaf {
            id: PartitionId::new("root").unwrap(),
            bounds: KeyBounds::default(),
        },
        inputs: inputs.collect(),
        rules: None,
        output: store.clone(),
        output_path: path(output),
    };
    let started = Instant::now();
    let merged = engine.export(spec, Arc::new(Progress::default())).await.unwrap();
    println!("{} rows in {:?}", merged.rows, started.elapsed());
}

fn open(file: &str) -> ParquetRecordBatchReaderBuilder<File> {
    ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap()
}

/// The encodings of a file, for another.
fn properties(metadata: &ParquetMetaData) -> WriterProperties {
    let layout = FileLayout::default();
    let mut builder = WriterProperties::builder()
        .set_max_row_group_row_count(Some(layout.row_group_rows))
        .set_data_page_row_count_limit(layout.page_rows)
        .set_statistics_enabled(EnabledStatistics::Page);
    for column in metadata.row_group(0).columns() {
        let path = column.column_path().clone();
        builder = builder
            .set_column_compression(path.clone(), column.compression())
            .set_column_dictionary_enabled(path.clone(), column.dictionary_page_offset().is_some());
        for encoding in column.encodings() {
            if matches!(
                encoding,
                Encoding::DELTA_BINARY_PACKED
                    | Encoding::DELTA_BYTE_ARRAY
                    | Encoding::DELTA_LENGTH_BYTE_ARRAY
            ) {
                builder = builder.set_column_encoding(path.clone(), encoding);
            }
        }
    }
    builder.build()
}
