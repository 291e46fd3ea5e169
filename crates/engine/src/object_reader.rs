//! Reads an object from plain threads, in bounded windows.
//!
//! The Parquet decoder asks for pages through [`ChunkReader`]. Each column chunk of a row group has one window of
//! bytes that moves along with the pages that are wanted of it; what is small altogether is fetched at once, with the
//! few bytes between. Failures of the store are kept aside, because the decoder turns every error into one of its own.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest};
use dormouse_core::{Error, ErrorKind, Result, file::Checksum, ports::MergeInput};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use tokio::runtime::Handle;

use crate::{cancel::Cancel, page_header};

/// What is wanted of a row group is fetched at once when it has at most so many bytes.
const WHOLE_ROW_GROUP_BYTES: u64 = 6 << 20;
/// And with one request across gaps of at most so many bytes.
const GAP_BYTES: u64 = 128 << 10;
/// The windows of a row group's columns together hold about so many bytes.
const ROW_GROUP_WINDOW_BYTES: u64 = 32 << 20;

/// Bytes that are only looked at are fetched so many at a time.
const SCAN_BYTES: u64 = 8 << 20;

/// An input may have so many values in a column, however small it is.
const INPUT_VALUES: i64 = 1 << 20;
/// And beyond that so many for each byte of its own.
const INPUT_VALUE_RATIO: i64 = 4096;

/// Whose object it is, which decides what its damage means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody's input: damage is `Invalid`.
    Input,
    /// A file of the table: damage is `Corrupt`.
    Table,
}

/// An object of a known size, pinned to a version where one is given.
#[derive(Clone, Debug)]
pub(crate) struct RemoteObject {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) e_tag: Option<String>,
    pub(crate) runtime: Handle,
}

impl RemoteObject {
    /// A file of a table, as the state describes it.
    pub(crate) fn of_table(input: &MergeInput, runtime: &Handle) -> Self {
        Self {
            name: input.path.to_string(),
            origin: Origin::Table,
            store: input.store.clone(),
            path: input.path.clone(),
            bytes: input.bytes,
            e_tag: None,
            runtime: runtime.clone(),
        }
    }

    /// The error for bytes that are not what they should be.
    pub(crate) fn damaged(&self, reason: impl std::fmt::Display) -> Error {
        match self.origin {
            Origin::Input => Error::invalid(format!("cannot read \"{}\" as Parquet: {reason}", self.name)),
            Origin::Table => Error::corrupt(format!("data file \"{}\" is damaged: {reason}", self.name)),
        }
    }

    /// How many values the object may have in a column.
    pub(crate) fn most_values(&self) -> i64 {
        match self.origin {
            Origin::Input => i64::try_from(self.bytes)
                .unwrap_or(i64::MAX)
                .saturating_mul(INPUT_VALUE_RATIO)
                .max(INPUT_VALUES),
            Origin::Table => i64::MAX,
        }
    }

    /// The error for an object that is not the one that was named.
    fn changed(&self) -> Error {
        match self.origin {
            Origin::Input => Error::invalid(format!(
                "input \"{}\" has changed since the job was accepted",
                self.name
            )),
            Origin::Table => Error::corrupt(format!(
                "data file \"{}\" is not {} bytes long",
                self.name, self.bytes
            )),
        }
    }

    fn failed(&self, error: object_store::Error) -> Error {
        let error = Error::from(error);
        match error.kind() {
            ErrorKind::Conflict => self.changed().with_source(error),
            _ => error.context(format!("cannot read \"{}\"", self.name)),
        }
    }

    async fn get(&self, range: Range<u64>) -> Result<object_store::GetResult> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.e_tag.clone(),
            ..GetOptions::default()
        };
        match self.store.get_opts(&self.path, options).await {
            Ok(answer) if answer.meta.size == self.bytes => Ok(answer),
            Ok(_) => Err(self.changed()),
            Err(error) => {
                let error = self.failed(error);
                // A range that begins beyond the end is refused in each store's own words.
                let is_short = error.kind() == ErrorKind::Unavailable
                    && self
                        .store
                        .head(&self.path)
                        .await
                        .is_ok_and(|meta| meta.size != self.bytes);
                Err(if is_short { self.changed() } else { error })
            }
        }
    }

    /// The bytes of a range inside the object.
    pub(crate) fn fetch(&self, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.runtime.block_on(async {
            let expected = range.end - range.start;
            let mut answer = self.get(range).await?;
            let bytes = match &mut answer.payload {
                // This thread may block, and buffers that it drops are the ones it gets again.
                GetResultPayload::File(file, _) => read_file(file, &answer.range).map_err(|error| {
                    Error::unavailable(format!("cannot read \"{}\"", self.name)).with_source(error)
                })?,
                GetResultPayload::Stream(_) => answer.bytes().await.map_err(|error| self.failed(error))?,
            };
            if bytes.len() as u64 != expected {
                return Err(Error::unavailable(format!(
                    "the store sent {} of {expected} bytes of \"{}\"",
                    bytes.len(),
                    self.name
                )));
            }
            Ok(bytes)
        })
    }

    /// Checks a checksum of the whole object.
    pub(crate) fn prove(&self, found: Checksum, expected: Checksum) -> Result<()> {
        if found != expected {
            return Err(self.damaged(format!("its checksum is {found}, not {expected}")));
        }
        Ok(())
    }

    /// The checksum of a range of bytes, read window by window.
    pub(crate) fn checksum(&self, range: Range<u64>, cancel: &Cancel) -> Result<Checksum> {
        let mut crc = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut at = range.start;
        while at < range.end {
            cancel.check()?;
            let until = range.end.min(at + SCAN_BYTES);
            crc.update(&self.fetch(at..until)?);
            at = until;
        }
        Ok(Checksum(crc.finalize()))
    }
}

/// The bytes of a range of a file, as far as they are there.
fn read_file(file: &mut File, range: &Range<u64>) -> io::Result<Bytes> {
    let length = range.end - range.start;
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.seek(SeekFrom::Start(range.start))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// The bytes of one row group.
#[derive(Clone, Debug)]
pub(crate) struct RowGroupBytes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: Arc<RemoteObject>,
    /// What may be read, in order.
    spans: Vec<Range<u64>>,
    windows: Vec<Mutex<Window>>,
    window_bytes: u64,
    /// Whether pages are asked for by the page index: header and all.
    by_index: bool,
    failure: Mutex<Option<Error>>,
}

#[derive(Clone, Debug, Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn from(&self, at: u64) -> Option<Bytes> {
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        (skip < self.bytes.len()).then(|| self.bytes.slice(skip..))
    }
}

impl RowGroupBytes {
    /// A reader of the ranges that are `wanted` of each column chunk of a row group, all inside the object. `by_index`
    /// says that the decoder knows the page index, and so asks for pages whole.
    pub(crate) fn new(object: Arc<RemoteObject>, wanted: &[Vec<Range<u64>>], by_index: bool) -> Self {
        let columns = wanted.len().max(1) as u64;
        let mut spans: Vec<Range<u64>> = wanted.concat();
        let bytes: u64 = spans.iter().map(|span| span.end - span.start).sum();
        let window_bytes = if bytes <= WHOLE_ROW_GROUP_BYTES {
            spans = across_gaps(spans);
            u64::MAX
        } else {
            (ROW_GROUP_WINDOW_BYTES / columns).clamp(64 << 10, 1 << 20)
        };
        let windows = spans.iter().map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner {
            object,
            spans,
            windows,
            window_bytes,
            by_index,
            failure: Mutex::default(),
        }))
    }

    /// The store's failure behind an error of the decoder, where there was one.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// At least `length` bytes from `start`, or up to the end of the column chunk for a `length` of 0.
    fn window(&self, start: u64, length: u64) -> Result<Bytes, ParquetError> {
        let beyond = || ParquetError::EOF(format!("a page at {start} reaches beyond its column chunk"));
        let end = start.checked_add(length).ok_or_else(beyond)?;
        let spans = &self.0.spans;
        let span = spans
            .iter()
            .position(|span| span.contains(&start) && end <= span.end)
            .ok_or_else(beyond)?;
        let mut window = self.0.windows[span]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = window.from(start)
            && bytes.len() as u64 >= length
        {
            return Ok(bytes);
        }
        let until = end
            .max(start.saturating_add(self.0.window_bytes))
            .min(spans[span].end);
        match self.0.object.fetch(start..until) {
            Ok(bytes) => {
                *window = Window {
                    start,
                    bytes: bytes.clone(),
                };
                Ok(bytes)
            }
            Err(error) => {
                let report = error.report();
                *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(ParquetError::General(report))
            }
        }
    }
}

/// The ranges in order, those joined that only a small gap is between.
fn across_gaps(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

impl Length for RowGroupBytes {
    fn len(&self) -> u64 {
        self.0.object.bytes
    }
}

impl ChunkReader for RowGroupBytes {
    type T = WindowReader;

    fn get_read(&self, start: u64) -> Result<WindowReader, ParquetError> {
        let most_values = self.0.object.most_values();
        if page_header::check(&self.window(start, 0)?, most_values).is_err() {
            // The window may end inside the header.
            let left = self.0.spans.iter().filter(|span| span.contains(&start));
            let left = left.map(|span| span.end - start).max().unwrap_or(0);
            let header = self.window(start, left.min(page_header::HEADER_BYTES))?;
            page_header::check(&header, most_values).map_err(ParquetError::General)?;
        }
        Ok(WindowReader {
            source: self.clone(),
            at: start,
            bytes: Bytes::new(),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let bytes = self.window(start, length as u64)?.slice(..length);
        if self.0.by_index {
            page_header::check(&bytes, self.0.object.most_values()).map_err(ParquetError::General)?;
        }
        Ok(bytes)
    }
}

/// Reads on from a place in a column chunk, window by window.
#[derive(Debug)]
pub(crate) struct WindowReader {
    source: RowGroupBytes,
    at: u64,
    bytes: Bytes,
}

impl Read for WindowReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            self.bytes = self.source.window(self.at, 0).map_err(io::Error::other)?;
        }
        let count = out.len().min(self.bytes.len());
        self.bytes.copy_to_slice(&mut out[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, local::LocalFileSystem, memory::InMemory};

    use super::*;

    fn object(store: Arc<dyn ObjectStore>, bytes: u64) -> RemoteObject {
        RemoteObject {
            name: "o".to_owned(),
            origin: Origin::Table,
            store,
            path: Path::from("o"),
            bytes,
            e_tag: None,
            runtime: Handle::current(),
        }
    }

    /// Runs `work` on a thread that may block.
    async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    #[test]
    fn ranges_are_joined_across_small_gaps_only() {
        let (gap, far) = (GAP_BYTES, 10 * GAP_BYTES);
        let ranges = vec![far..far + 5, 0..10, 10 + gap..20 + gap, far + 3..far + 9];
        assert_eq!(across_gaps(ranges), [0..20 + gap, far..far + 9]);
        assert_eq!(across_gaps(vec![]), []);
    }

    #[tokio::test]
    async fn what_is_wanted_is_read_and_nothing_else() {
        let size = 4 * GAP_BYTES;
        let store = Arc::new(InMemory::new());
        let content: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        store.put(&Path::from("o"), content.into()).await.unwrap();
        let object = Arc::new(object(store, size));
        off(move || {
            let wanted = [vec![5..10, 10..20], vec![size - 9..size - 5, size - 5..size - 1]];
            let pages = RowGroupBytes::new(object, &wanted, false);
            assert_eq!(pages.window(7, 3).unwrap()[..3], [7, 8, 9]);
            assert_eq!(pages.window(5, 0).unwrap().len(), 15);
            assert_eq!(pages.window(size - 2, 1).unwrap().len(), 1);
            for (start, length) in [(4, 1), (19, 2), (20, 0), (size - 1, 1), (u64::MAX, 2)] {
                assert!(pages.window(start, length).is_err(), "{length} bytes at {start}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_range_of_a_file_is_read_from_it_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("o"), b"0123456789").unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
        let (whole, longer) = (object(store.clone(), 10), object(store, 12));
        off(move || {
            assert_eq!(whole.fetch(2..5).unwrap(), "234");
            assert_eq!(whole.fetch(0..10).unwrap(), "0123456789");
            let error = longer.fetch(2..12).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        })
        .await;
    }
}
