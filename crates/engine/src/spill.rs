//! Sorted runs on local disk, for rows beyond the memory budget.
//!
//! A spill file is a sequence of Arrow IPC streams, one a run, each in key order. Files live in a temporary
//! directory of the call's own, `dormouse-spill-<id>`, which goes when the call ends, however it ends. While the
//! call lives it holds the lock of `dormouse-spill-<id>.lock`, made before the directory: whoever finds that file
//! without a holder finds what a killed process left, and removes both.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Take, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::RecordBatch,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use dormouse_core::{Error, Result};
use tempfile::TempDir;

use crate::{
    cancel::Cancel,
    merge::{Merge, SortedSource},
    table::TableSchema,
};

/// How many sources one merge reads at the most: each takes memory for what it reads ahead.
pub(crate) const MERGE_WIDTH: usize = 64;

const BUFFER_BYTES: usize = 256 << 10;

/// A directory of spill files, made when the first one is.
#[derive(Debug)]
pub(crate) struct SpillDirectory {
    path: PathBuf,
    made: Mutex<Option<Made>>,
    next: AtomicU64,
}

/// Dropped in this order: the lock is the last to go.
#[derive(Debug)]
struct Made {
    _directory: TempDir,
    _lock: SpillLock,
}

const PREFIX: &str = "dormouse-spill-";

/// Says that the owner of a spill directory lives.
#[derive(Debug)]
struct SpillLock {
    path: PathBuf,
    _file: File,
}

impl SpillLock {
    fn take(directory: &Path) -> std::io::Result<Self> {
        let path = lock_path(directory);
        loop {
            let file = File::create_new(&path)?;
            file.lock()?;
            // Who found it before it was locked took it for abandoned and removed it.
            if fs::exists(&path)? {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for SpillLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(directory: &Path) -> PathBuf {
    directory.with_added_extension("lock")
}

/// Removes what killed processes left in `parent`. Failures are left to the next time.
pub(crate) fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_lock = path.extension().is_some_and(|extension| extension == "lock")
            && entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_lock {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let directory = path.with_extension("");
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %directory.display(), %error, "abandoned spill directory not removed");
                }
                _ => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }
}

/// A sorted run in a spill file.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    file: Arc<PathBuf>,
    start: u64,
    bytes: u64,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("cannot spill rows to disk").with_source(error)
}

impl SpillDirectory {
    /// A directory in `parent`, named by `unique`.
    pub(crate) fn new(parent: &Path, unique: impl Display) -> Self {
        Self {
            path: parent.join(format!("{PREFIX}{unique}")),
            made: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Makes the directory unless it is there.
    fn make(&self) -> Result<()> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            let lock = SpillLock::take(&self.path)
                .map_err(|error| failed(error).context(format!("cannot make {}", self.path.display())))?;
            let (parent, name) = (self.path.parent(), self.path.file_name());
            let directory = tempfile::Builder::new()
                .prefix(name.unwrap_or_default())
                .rand_bytes(0)
                .tempdir_in(parent.unwrap_or(&self.path))
                .map_err(|error| failed(error).context(format!("cannot make {}", self.path.display())))?;
            *made = Some(Made {
                _directory: directory,
                _lock: lock,
            });
        }
        Ok(())
    }

    /// The directory itself, which is there.
    pub(crate) fn path(&self) -> Result<&Path> {
        self.make()?;
        Ok(&self.path)
    }

    /// A new spill file.
    pub(crate) fn create(&self, table: &TableSchema) -> Result<SpillWriter> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.make()?;
        let path = self.path.join(format!("{number}.arrows"));
        let file = File::create_new(&path).map_err(failed)?;
        Ok(SpillWriter {
            table: table.clone(),
            path: Arc::new(path),
            file: CountingWriter {
                inner: BufWriter::with_capacity(BUFFER_BYTES, file),
                bytes: 0,
            },
        })
    }
}

impl SpillDirectory {
    /// Merges sorted rows into a run in a file of its own.
    pub(crate) fn write<S: SortedSource>(
        &self,
        table: &TableSchema,
        mut rows: Merge<S>,
        cancel: &Cancel,
    ) -> Result<Run> {
        let mut file = self.create(table)?;
        let run = file.write_run(|| {
            cancel.check()?;
            rows.next()
        })?;
        file.finish()?;
        Ok(run)
    }

    /// Merges runs, in their order, until there are no more than [`MERGE_WIDTH`].
    pub(crate) fn narrow(
        &self,
        table: &TableSchema,
        mut runs: Vec<Run>,
        cancel: &Cancel,
    ) -> Result<Vec<Run>> {
        while runs.len() > MERGE_WIDTH {
            runs = runs
                .chunks(MERGE_WIDTH)
                .map(|some| {
                    let sources: Vec<RunReader> = some.iter().map(Run::open).collect::<Result<_>>()?;
                    self.write(table, Merge::new(table.clone(), sources, 0)?, cancel)
                })
                .collect::<Result<_>>()?;
        }
        Ok(runs)
    }
}

/// A spill file that is being written.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    table: TableSchema,
    path: Arc<PathBuf>,
    file: CountingWriter,
}

#[derive(Debug)]
struct CountingWriter {
    inner: BufWriter<File>,
    bytes: u64,
}

impl Write for CountingWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl SpillWriter {
    /// Appends a run of batches in key order.
    pub(crate) fn write_run(&mut self, mut next: impl FnMut() -> Result<Option<RecordBatch>>) -> Result<Run> {
        let start = self.file.bytes;
        let mut stream = StreamWriter::try_new(&mut self.file, &self.table.arrow).map_err(failed)?;
        while let Some(batch) = next()? {
            stream.write(&batch).map_err(failed)?;
        }
        stream.finish().map_err(failed)?;
        drop(stream);
        Ok(Run {
            file: self.path.clone(),
            start,
            bytes: self.file.bytes - start,
        })
    }

    /// Hands the last bytes to the operating system; runs can be read from then on.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(failed)
    }
}

/// Reads a run.
pub(crate) struct RunReader {
    stream: StreamReader<BufReader<Take<File>>>,
}

impl Run {
    pub(crate) fn open(&self) -> Result<RunReader> {
        let mut file = File::open(self.file.as_ref()).map_err(failed)?;
        file.seek(SeekFrom::Start(self.start)).map_err(failed)?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, file.take(self.bytes));
        Ok(RunReader {
            stream: StreamReader::try_new(reader, None).map_err(failed)?,
        })
    }
}

impl SortedSource for RunReader {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.stream.next().transpose().map_err(failed)
    }

    fn unsorted(&self) -> Error {
        Error::unavailable("a spill file on local disk is damaged: its rows are not in order")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_stays() {
        let parent = tempfile::tempdir().unwrap();
        let living = SpillDirectory::new(parent.path(), "living");
        living.make().unwrap();
        let dead = parent.path().join("dormouse-spill-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("0.arrows"), "rows").unwrap();
        fs::write(lock_path(&dead), "").unwrap();

        remove_abandoned(parent.path());
        assert!(!dead.exists() && !lock_path(&dead).exists());
        assert!(living.path.exists() && lock_path(&living.path).exists());

        drop(living);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_begins_while_others_clean_up_keeps_its_lock() {
        let parent = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let cleaning = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    remove_abandoned(parent.path());
                }
            });
            let unlocked = (0..3000).find(|number| {
                let directory = SpillDirectory::new(parent.path(), number);
                directory.make().unwrap();
                !lock_path(&directory.path).exists() || !directory.path.exists()
            });
            done.store(true, Ordering::Relaxed);
            cleaning.join().unwrap();
            assert_eq!(unlocked, None);
        });
    }
}
