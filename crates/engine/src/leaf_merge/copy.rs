//! Copies row groups from file to file without decoding them.
//!
//! What is copied is proved by the checksum of its whole file: the checksum of each range of bytes is taken as it
//! passes, the ranges between them are read for it at the end, and all are put together. Column chunks and row groups
//! that follow each other in the file make one range.

use std::{
    io::{self, Read},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use dormouse_core::{Error, Result, file::Checksum};
use parquet::{
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
    schema::types::SchemaDescriptor,
};

use crate::{
    cancel::Cancel,
    input::{Input, row_count},
    object_reader::RemoteObject,
    parquet_file::ParquetFile,
};

/// So many bytes are fetched at a time.
const WINDOW_BYTES: u64 = 8 << 20;

/// The bytes of a file that have been copied.
#[derive(Debug, Default)]
pub(crate) struct CopiedBytes {
    passed: Arc<Mutex<PassedBytes>>,
    rows: AtomicU64,
}

/// Ranges of bytes that have passed, each with its checksum so far.
#[derive(Debug, Default)]
struct PassedBytes(Vec<(Range<u64>, Digest)>);

impl PassedBytes {
    /// Takes down bytes that begin at `start`.
    fn add(&mut self, start: u64, bytes: &[u8]) {
        let continued = self.0.iter().position(|(range, _)| range.end == start);
        let at = continued.unwrap_or_else(|| {
            self.0.push((start..start, Digest::new(CrcAlgorithm::Crc64Nvme)));
            self.0.len() - 1
        });
        let (range, crc) = &mut self.0[at];
        range.end += bytes.len() as u64;
        crc.update(bytes);
    }

    /// The ranges in order, with their checksums.
    fn in_order(&self) -> Vec<(Range<u64>, u64)> {
        let passed = self.0.iter();
        let mut passed: Vec<_> = passed
            .map(|(range, crc)| (range.clone(), crc.finalize()))
            .collect();
        passed.sort_by_key(|(range, _)| range.start);
        passed
    }
}

/// Whether the encoded row group could stand in a file of these columns: it is complete with its page index.
pub(crate) fn is_copyable(input: &Input, row_group: usize, columns: &SchemaDescriptor) -> bool {
    let footer = input.footer();
    let has_index = footer.column_index().is_some_and(|index| index.len() > row_group)
        && footer.offset_index().is_some_and(|index| index.len() > row_group);
    let group = footer.row_group(row_group);
    let has_filters = group
        .columns()
        .iter()
        .any(|column| column.bloom_filter_offset().is_some());
    has_index && !has_filters && footer.file_metadata().schema_descr() == columns
}

impl CopiedBytes {
    /// How many rows have been copied.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Appends a row group of `input` to `file`; answers its rows.
    pub(crate) fn copy(&self, input: &Input, row_group: usize, file: &mut ParquetFile) -> Result<u64> {
        let footer = input.footer();
        let group = footer.row_group(row_group);
        let rows = row_count(group);
        let chunks = group
            .columns()
            .iter()
            .enumerate()
            .map(|(column, chunk)| ColumnCloseResult {
                bytes_written: chunk.compressed_size().unsigned_abs(),
                rows_written: rows,
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: footer
                    .column_index()
                    .and_then(|index| index.get(row_group)?.get(column).cloned()),
                offset_index: footer
                    .offset_index()
                    .and_then(|index| index.get(row_group)?.get(column).cloned()),
            })
            .collect();
        let source = RowGroupSource {
            object: input.object().clone(),
            ends: group
                .columns()
                .iter()
                .map(|chunk| {
                    let (start, length) = chunk.byte_range();
                    start..start + length
                })
                .collect(),
            passed: self.passed.clone(),
            failure: Arc::default(),
        };
        file.append_encoded(&source, chunks)
            .map_err(|error| take(&source.failure).unwrap_or(error))?;
        self.rows.fetch_add(rows, Ordering::Relaxed);
        Ok(rows)
    }

    /// The checksum of the whole object, of which the bytes that were not copied are read now.
    pub(crate) fn checksum(&self, object: &RemoteObject, cancel: &Cancel) -> Result<Checksum> {
        let passed = lock(&self.passed).in_order();
        let mut crc = 0;
        let mut at = 0;
        for (range, checksum) in passed {
            if range.start < at {
                return Err(Error::internal("bytes of a file were copied twice"));
            }
            crc = combine(crc, object.checksum(at..range.start, cancel)?.0, range.start - at);
            crc = combine(crc, checksum, range.end - range.start);
            at = range.end;
        }
        let rest = object.checksum(at..object.bytes, cancel)?.0;
        Ok(Checksum(combine(crc, rest, object.bytes - at)))
    }
}

/// The checksum of two ranges of bytes, the second of which has `bytes`, one after the other.
fn combine(first: u64, second: u64, bytes: u64) -> u64 {
    if bytes == 0 {
        return first;
    }
    checksum_combine(CrcAlgorithm::Crc64Nvme, first, second, bytes)
}

/// The bytes of a row group's column chunks, each read once from its beginning.
struct RowGroupSource {
    object: Arc<RemoteObject>,
    ends: Vec<Range<u64>>,
    passed: Arc<Mutex<PassedBytes>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Length for RowGroupSource {
    fn len(&self) -> u64 {
        self.object.bytes
    }
}

impl ChunkReader for RowGroupSource {
    type T = ColumnChunkBytes;

    fn get_read(&self, start: u64) -> Result<ColumnChunkBytes, ParquetError> {
        let chunk = self.ends.iter().find(|chunk| chunk.start == start);
        let chunk =
            chunk.ok_or_else(|| ParquetError::General(format!("no column chunk begins at {start}")))?;
        Ok(ColumnChunkBytes {
            object: self.object.clone(),
            at: start,
            end: chunk.end,
            window: Bytes::new(),
            passed: self.passed.clone(),
            failure: self.failure.clone(),
        })
    }

    fn get_bytes(&self, start: u64, _: usize) -> Result<Bytes, ParquetError> {
        Err(ParquetError::General(format!(
            "no single page is read at {start}"
        )))
    }
}

/// One column chunk, fetched window by window.
struct ColumnChunkBytes {
    object: Arc<RemoteObject>,
    at: u64,
    end: u64,
    window: Bytes,
    passed: Arc<Mutex<PassedBytes>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Read for ColumnChunkBytes {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.window.is_empty() && self.at < self.end {
            let until = self.end.min(self.at + WINDOW_BYTES);
            self.window = self.object.fetch(self.at..until).map_err(|error| {
                let report = error.report();
                *lock(&self.failure) = Some(error);
                io::Error::other(report)
            })?;
            lock(&self.passed).add(self.at, &self.window);
            self.at = until;
        }
        let count = out.len().min(self.window.len());
        self.window.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

fn take(failure: &Mutex<Option<Error>>) -> Option<Error> {
    lock(failure).take()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_follow_each_other_make_one_range_with_one_checksum() {
        let mut passed = PassedBytes::default();
        passed.add(9, b"row group");
        passed.add(40, b"elsewhere");
        passed.add(18, b" and the next");
        let crc = crc_fast::crc64_nvme;
        assert_eq!(
            passed.in_order(),
            [
                (9..31, crc(b"row group and the next")),
                (40..49, crc(b"elsewhere"))
            ]
        );
    }
}
