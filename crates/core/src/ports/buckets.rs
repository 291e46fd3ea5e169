//! Opening buckets of objects.

use std::{fmt, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};

use crate::{
    error::{Error, Result},
    ids::BucketName,
};

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

/// Writes an object under a name that nobody else uses.
///
/// The answer that an object is there already is not believed: stores also give it when the request was sent twice by
/// their own client, and for conflicts that left nothing behind.
///
/// # Errors
/// `AlreadyExists` when another object is there; `Unavailable` when none is, or nobody knows.
pub async fn create_object(store: &dyn ObjectStore, path: &Path, body: Bytes) -> Result<()> {
    let create = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    let refused = match store.put_opts(path, body.clone().into(), create).await {
        Ok(_) => return Ok(()),
        Err(error @ object_store::Error::AlreadyExists { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let stored = match store.get(path).await {
        Ok(stored) => stored.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => {
            let text = format!("object {path} was refused as if it were there");
            return Err(Error::unavailable(text).with_source(refused));
        }
        Err(error) => return Err(error.into()),
    };
    if stored == body {
        Ok(())
    } else {
        Err(refused.into())
    }
}

/// Uploads that were begun and neither completed nor aborted: invisible, but they take space.
#[async_trait]
pub trait AbandonedUploads: Debug + Send + Sync {
    /// Aborts the uploads of the bucket that began more than `age` ago. Returns how many.
    async fn abort_older_than(&self, bucket: &Bucket, age: Duration) -> Result<u64>;
}
