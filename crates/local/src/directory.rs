//! The data directory of an embedded instance.
//!
//! ```text
//! <directory>/dormouse.sqlite3      items and messages
//! <directory>/dormouse.lock         whose turn it is to write, between processes
//! <directory>/buckets/<bucket>/     objects by their keys
//! <directory>/spill/                files of sorts that outgrow their memory; of no use after a restart
//! ```

mod file_system;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use dormouse_core::{
    Error, Result,
    ids::BucketName,
    ports::{
        AbandonedUploads, Buckets, Clock, Ids, ItemStore, Queue, QueueName, QueueSettings, ServerSideCopy,
    },
};

use self::file_system::check_file_system;
use crate::{
    copy::DirectoryCopy, database::Database, item_store::SqliteItemStore, objects::DirectoryBuckets,
    queue::SqliteQueue,
};

/// The buckets that every data directory has: of table data and of exports.
pub const BUCKETS: [&str; 2] = ["data", "export"];

/// An open data directory: the adapters of all storage ports on one machine.
///
/// Any number of these, in any number of processes, may be open on one directory.
#[derive(Debug)]
pub struct LocalDirectory {
    path: PathBuf,
    database: Arc<Database>,
    buckets: Arc<DirectoryBuckets>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl LocalDirectory {
    /// Opens the directory, without access to other files of the machine. Creates it when it is absent.
    ///
    /// # Errors
    /// As [`LocalDirectory::open_with_files`].
    pub fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Arc<Self>> {
        Self::open_with_files(path, &[], clock, ids)
    }

    /// Opens the directory and allows reads of `file://` paths below the directories `allowed`.
    ///
    /// # Errors
    /// `Invalid` when the directory cannot be written, is on a network or read-only file system, or was written
    /// by a newer version; and when one of `allowed` is not a directory. `Unavailable` when the disk is full or
    /// other processes keep the database busy. `Corrupt` when the database is damaged.
    pub fn open_with_files(
        path: impl AsRef<Path>,
        allowed: &[PathBuf],
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let unusable = |error: io::Error| {
            Error::invalid(format!("cannot use {} as a data directory", path.display())).with_source(error)
        };
        make_durably(path).map_err(unusable)?;
        fs::create_dir_all(path.join("spill")).map_err(unusable)?;
        fs::create_dir_all(path.join("buckets")).map_err(unusable)?;
        let path = fs::canonicalize(path).map_err(unusable)?;
        check_file_system(&path)?;
        let database = Database::open(&path)?;
        let buckets = DirectoryBuckets::new(path.join("buckets"), allowed, clock.clone(), ids.clone())?;
        for bucket in BUCKETS {
            buckets.create_bucket(&BucketName::new(bucket)?)?;
        }
        sync_directory(&path).map_err(unusable)?;
        Ok(Arc::new(Self {
            path,
            database,
            buckets: Arc::new(buckets),
            clock,
            ids,
        }))
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where sorts put what does not fit their memory.
    pub fn spill(&self) -> PathBuf {
        self.path.join("spill")
    }

    /// The items.
    pub fn item_store(&self) -> Arc<dyn ItemStore> {
        Arc::new(SqliteItemStore::new(self.database.clone(), self.clock.clone()))
    }

    /// A queue. The settings are the caller's, not the queue's: all callers should use the same.
    pub fn queue(&self, name: QueueName, settings: QueueSettings) -> Arc<dyn Queue> {
        Arc::new(SqliteQueue::new(
            name,
            settings,
            self.database.clone(),
            self.clock.clone(),
            self.ids.clone(),
        ))
    }

    /// Makes a bucket, unless it is there.
    ///
    /// # Errors
    /// `Unavailable` when the directory cannot be made.
    pub fn create_bucket(&self, name: &BucketName) -> Result<()> {
        self.buckets.create_bucket(name)
    }

    /// The buckets.
    pub fn buckets(&self) -> Arc<dyn Buckets> {
        self.buckets.clone()
    }

    /// Copies between the buckets.
    pub fn copy(&self) -> Arc<dyn ServerSideCopy> {
        Arc::new(DirectoryCopy::new(self.buckets.clone()))
    }

    /// Uploads to the buckets that nobody completed.
    pub fn uploads(&self) -> Arc<dyn AbandonedUploads> {
        self.buckets.clone()
    }
}

/// Makes a directory and those above it that are absent.
fn make_durably(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let made: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    fs::create_dir_all(&path)?;
    made.iter()
        .filter_map(|directory| directory.parent())
        .try_for_each(sync_directory)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
