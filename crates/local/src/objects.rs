//! Buckets as directories.
//!
//! * A bucket is a directory and an object is a file; its key is its path. [`BucketStore`] keeps the promise
//!   that an acknowledged write is on disk.
//! * [`Bucket::Files`] is the machine's own file system, for reading only, below directories that the operator
//!   allowed ([`Files`]).
//!
//! An object's name cannot end in `#` and digits: such files are writes that have not ended.

mod bucket_store;
mod files;
mod staging;
mod upload;

use std::{
    fs, io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    ids::BucketName,
    ports::{AbandonedUploads, Bucket, Buckets, Clock, Ids},
    time::Timestamp,
};
use object_store::{ObjectStore, path::Path};

pub(crate) use self::staging::{Existing, Staged, read_error, write_error};
use self::{bucket_store::BucketStore, files::Files, staging::is_staged_name};
use crate::directory::sync_directory;

/// Every file of the machine that this process may read, by absolute path; for reading only.
///
/// # Errors
/// `Invalid` when the machine has no root directory.
pub fn own_files() -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(Files::new(&[PathBuf::from("/")])?))
}

/// The buckets of a data directory, and the files that the operator allowed.
#[derive(Debug)]
pub struct DirectoryBuckets {
    root: PathBuf,
    files: Files,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl DirectoryBuckets {
    /// The buckets that are directories in `root`. `allowed` are the directories below which files of the machine
    /// may be read.
    ///
    /// # Errors
    /// `Invalid` when one of `allowed` is not the absolute path of a directory.
    pub fn new(
        root: impl Into<PathBuf>,
        allowed: &[PathBuf],
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self> {
        Ok(Self {
            root: root.into(),
            files: Files::new(allowed)?,
            clock,
            ids,
        })
    }

    /// Makes a bucket, unless it is there.
    ///
    /// # Errors
    /// `Unavailable` when the directory cannot be made.
    pub fn create_bucket(&self, name: &BucketName) -> Result<()> {
        let path = self.root.join(name.as_str());
        let failed = |error: io::Error| {
            Error::unavailable(format!("cannot make the directory {}", path.display())).with_source(error)
        };
        fs::create_dir_all(&path).map_err(failed)?;
        // Synced even when another process made it: that one may not have got there yet.
        sync_directory(&self.root).map_err(failed)
    }

    fn store(&self, name: &BucketName) -> Result<BucketStore> {
        let path = self.root.join(name.as_str());
        if !path.is_dir() {
            return Err(Error::not_found(format!(
                "no bucket \"{name}\" in {}",
                self.root.display()
            )));
        }
        BucketStore::open(path, self.ids.clone())
    }

    /// The file to read for the object at `path`.
    pub(crate) fn source_file(&self, bucket: &Bucket, path: &Path) -> Result<PathBuf> {
        Ok(match bucket {
            Bucket::Named(name) => self.store(name)?.readable(path)?,
            Bucket::Files => self.files.resolve(path)?,
        })
    }

    /// Begins a write of the object at `path`.
    pub(crate) fn stage(&self, bucket: &Bucket, path: &Path) -> Result<Staged> {
        match bucket {
            Bucket::Named(name) => Ok(self.store(name)?.stage(path)?),
            Bucket::Files => Err(files::read_only(path).into()),
        }
    }
}

impl Buckets for DirectoryBuckets {
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>> {
        match bucket {
            Bucket::Named(name) => Ok(Arc::new(self.store(name)?)),
            Bucket::Files => {
                self.files.check_any_allowed()?;
                Ok(Arc::new(self.files.clone()))
            }
        }
    }
}

#[async_trait]
impl AbandonedUploads for DirectoryBuckets {
    /// Removes files of writes that have not ended and were not touched for `age`.
    async fn abort_older_than(&self, bucket: &Bucket, age: Duration) -> Result<u64> {
        let Bucket::Named(name) = bucket else {
            return Ok(0);
        };
        self.store(name)?;
        let (root, before) = (self.root.join(name.as_str()), self.clock.now().minus(age));
        tokio::task::spawn_blocking(move || remove_staged(&root, before))
            .await
            .map_err(|failed| Error::internal("sweeping uploads panicked").with_source(failed))?
            .map_err(|error| write_error(name.as_str(), error).into())
    }
}

/// Removes files of unfinished writes below `directory` that were last touched before `before`.
fn remove_staged(directory: &FilePath, before: Timestamp) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += match remove_staged(&entry.path(), before) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                removed => removed?,
            };
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_staged_name) {
            let is_old = |metadata: fs::Metadata| {
                let touched = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
                let touched = touched.unwrap_or_default().as_millis();
                io::Result::Ok(touched < u128::try_from(before.as_millis()).unwrap_or(0))
            };
            match entry.metadata().and_then(is_old) {
                Ok(true) => removed += u64::from(fs::remove_file(entry.path()).is_ok()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}
