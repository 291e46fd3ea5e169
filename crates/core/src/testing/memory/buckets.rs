use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use crc_fast::{CrcAlgorithm, Digest};
use futures::TryStreamExt;
use object_store::{CopyOptions, ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use parking_lot::Mutex;

use crate::{
    error::Result,
    file::Checksum,
    ports::{AbandonedUploads, Bucket, Buckets, CopyReceipt, ServerSideCopy},
};

/// Buckets in memory, made when they are first opened; the machine's files are one more of them.
#[derive(Debug, Default)]
pub struct MemoryBuckets {
    stores: Mutex<BTreeMap<String, Arc<InMemory>>>,
}

impl MemoryBuckets {
    /// No buckets yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn store(&self, bucket: &Bucket) -> Arc<InMemory> {
        let mut stores = self.stores.lock();
        stores.entry(bucket.to_string()).or_default().clone()
    }
}

impl Buckets for MemoryBuckets {
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>> {
        Ok(self.store(bucket))
    }
}

#[async_trait]
impl AbandonedUploads for MemoryBuckets {
    /// Does nothing: an upload here takes space only as long as its writer lives.
    async fn abort_older_than(&self, _bucket: &Bucket, _age: Duration) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl ServerSideCopy for MemoryBuckets {
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt> {
        let source = self.store(from.0);
        let target = self.store(to.0);
        if from.0 == to.0 {
            source.copy_opts(from.1, to.1, CopyOptions::default()).await?;
        } else {
            let bytes = source.get(from.1).await?.bytes().await?;
            target.put(to.1, bytes.into()).await?;
        }
        let mut copy = target.get(to.1).await?.into_stream();
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut bytes = 0;
        while let Some(chunk) = copy.try_next().await? {
            digest.update(&chunk);
            bytes += chunk.len() as u64;
        }
        Ok(CopyReceipt {
            bytes,
            checksum: Checksum(digest.finalize()),
        })
    }
}
