//! Parquet files to try things with: Sleeper's standard row and TPC-H lineitem.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use arrow::{
    array::{Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use dormouse_core::{Error, Result};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::{LineItemArrow, RecordBatchIterator};

const BATCH_ROWS: usize = 8192;

/// How many letters a key of a Sleeper row has.
const KEY_LETTERS: usize = 10;

/// Writes `rows` rows of Sleeper's standard form in random order: `key` of ten random lower-case letters,
/// `timestamp` from 0 to 10^10, `value` of `value_letters` random letters, ten in a standard row; none nullable. The
/// same seed gives the same rows.
///
/// # Errors
/// `Unavailable` when a file cannot be written.
pub fn sleeper(
    directory: &Path,
    rows: u64,
    files: u32,
    value_letters: usize,
    seed: u64,
) -> Result<Vec<PathBuf>> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("timestamp", DataType::Int64, false),
        Field::new("value", DataType::Utf8, false),
    ]));
    write_files(directory, "sleeper", files, |file| {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x1_0000).wrapping_add(u64::from(file)));
        let files = u64::from(files);
        let mut left = rows / files + u64::from(u64::from(file) < rows % files);
        let batch_schema = schema.clone();
        let batches = std::iter::from_fn(move || {
            let count = left.min(BATCH_ROWS as u64) as usize;
            left -= count as u64;
            (count > 0).then(|| sleeper_batch(&batch_schema, count, value_letters, &mut rng))
        });
        (schema.clone(), batches)
    })
}

fn sleeper_batch(
    schema: &Arc<Schema>,
    rows: usize,
    value_letters: usize,
    rng: &mut StdRng,
) -> Result<RecordBatch> {
    let keys = letters(rows, KEY_LETTERS, rng);
    let timestamps: Int64Array = (0..rows).map(|_| rng.random_range(0..10_000_000_000)).collect();
    let values = letters(rows, value_letters, rng);
    RecordBatch::try_new(
        schema.clone(),
        vec![Arc::new(keys), Arc::new(timestamps), Arc::new(values)],
    )
    .map_err(|error| Error::internal("a batch cannot be made").with_source(error))
}

fn letters(rows: usize, length: usize, rng: &mut impl Rng) -> StringArray {
    let mut text = String::with_capacity(length);
    StringArray::from_iter_values((0..rows).map(|_| {
        text.clear();
        text.extend((0..length).map(|_| char::from(rng.random_range(b'a'..=b'z'))));
        text.clone()
    }))
}

/// Writes TPC-H's table `lineitem` of a scale factor, in the order of `l_orderkey`, cut into files.
///
/// # Errors
/// `Invalid` when the scale factor is not positive; `Unavailable` when a file cannot be written.
pub fn lineitem(directory: &Path, scale: f64, files: u32) -> Result<Vec<PathBuf>> {
    if !(scale > 0.0 && scale <= 10_000.0) {
        return Err(Error::invalid(format!(
            "scale factor {scale} must be over 0 and at most 10000"
        )));
    }
    write_files(directory, "lineitem", files, |file| {
        let part = i32::try_from(file + 1).unwrap_or(i32::MAX);
        let parts = i32::try_from(files).unwrap_or(i32::MAX);
        let generator = LineItemGenerator::new(scale, part, parts);
        let batches = LineItemArrow::new(generator).with_batch_size(BATCH_ROWS);
        (batches.schema().clone(), batches.map(Ok))
    })
}

/// Writes files on all cores, each from batches of its own.
fn write_files<I: Iterator<Item = Result<RecordBatch>>>(
    directory: &Path,
    name: &str,
    files: u32,
    batches: impl Fn(u32) -> (Arc<Schema>, I) + Sync,
) -> Result<Vec<PathBuf>> {
    if files == 0 {
        return Err(Error::invalid("at least one file must be written"));
    }
    let paths: Vec<PathBuf> = (0..files)
        .map(|file| directory.join(format!("{name}-{file}.parquet")))
        .collect();
    let threads = thread::available_parallelism().map_or(1, usize::from) as u32;
    let write = |first: u32| -> Result<()> {
        for file in (first..files).step_by(threads as usize) {
            let (schema, batches) = batches(file);
            write_file(&paths[file as usize], schema, batches)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..threads.min(files))
            .map(|first| scope.spawn(move || write(first)))
            .collect();
        writers.into_iter().try_for_each(|writer| {
            writer
                .join()
                .unwrap_or_else(|_| Err(Error::internal("making data panicked")))
        })
    })?;
    Ok(paths)
}

fn write_file(
    path: &Path,
    schema: Arc<Schema>,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::unavailable(format!("cannot write {}", path.display())).with_source(error)
    };
    let file = File::create(path).map_err(|error| failed(error.into()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(BufWriter::new(file), schema, Some(properties))
        .map_err(|error| failed(error.into()))?;
    for batch in batches {
        writer.write(&batch?).map_err(|error| failed(error.into()))?;
    }
    writer.close().map_err(|error| failed(error.into()))?;
    Ok(())
}
