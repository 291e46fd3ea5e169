//! Opening buckets of objects.

use std::{fmt, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::ObjectStore;

use crate::{error::Result, ids::BucketName};

/// Where objects are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// A bucket of the object store.
    Named(BucketName),
    /// The machine's own files, by absolute path; only below directories that the operator allowed.
    Files,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "s3://{name}"),
            Self::Files => f.write_str("file://"),
        }
    }
}

/// Opens buckets as object stores.
///
/// A write is durable once it is acknowledged: it survives the loss of power.
pub trait Buckets: Debug + Send + Sync {
    /// The store whose paths are the keys of this bucket.
    ///
    /// # Errors
    /// `NotFound` when there is no such bucket, `Invalid` when it may not be read.
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>>;
}

/// Uploads that were begun and neither completed nor aborted: invisible, but they take space.
#[async_trait]
pub trait AbandonedUploads: Debug + Send + Sync {
    /// Aborts the uploads of the bucket that began more than `age` ago. Returns how many.
    async fn abort_older_than(&self, bucket: &Bucket, age: Duration) -> Result<u64>;
}
