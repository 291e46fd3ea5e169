//! An object store whose writes go wrong, or that does not answer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};

/// What becomes of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Puts {
    /// It is done.
    Done,
    /// It is refused as if the object were there, and perhaps is done.
    Refused { written: bool },
    /// A bit of the body is another.
    Flipped,
}

#[derive(Debug)]
pub(crate) struct FaultyObjects {
    pub(crate) inner: Arc<InMemory>,
    puts: Puts,
    /// Whether reads are not answered.
    pub(crate) silent: AtomicBool,
}

impl FaultyObjects {
    pub(crate) fn new(puts: Puts) -> Self {
        Self {
            inner: Arc::default(),
            puts,
            silent: AtomicBool::new(false),
        }
    }
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        match self.puts {
            Puts::Done => self.inner.put_opts(location, payload, options).await,
            Puts::Refused { written } => {
                if written {
                    self.inner.put_opts(location, payload, options).await?;
                }
                Err(object_store::Error::AlreadyExists {
                    path: location.to_string(),
                    source: "a conflict".into(),
                })
            }
            Puts::Flipped => {
                let mut bytes = Bytes::from(payload).to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                self.inner.put_opts(location, bytes.into(), options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.silent.load(Relaxed) {
            return Err(object_store::Error::Generic {
                store: "faulty",
                source: "no answer".into(),
            });
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
