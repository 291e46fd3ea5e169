//! Copies inside the object store.

use std::fmt::Debug;

use async_trait::async_trait;
use object_store::path::Path;

use super::Bucket;
use crate::{error::Result, file::Checksum};

/// What is known of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyReceipt {
    /// The size of the copy.
    pub bytes: u64,
    /// CRC-64/NVME of the copy, computed by the store from its bytes.
    pub checksum: Checksum,
}

/// Copies whole objects; their bytes never pass through this process' memory as rows.
#[async_trait]
pub trait ServerSideCopy: Debug + Send + Sync {
    /// Copies one object over whatever is at `to`. Readers of `to` see the old or the new object, whole.
    ///
    /// # Errors
    /// `NotFound` when there is no object at `from`.
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt>;
}
