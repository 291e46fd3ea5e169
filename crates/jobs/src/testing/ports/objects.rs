use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Result,
    ports::{Bucket, Buckets, Clock, CopyReceipt, ServerSideCopy},
    testing::memory::MemoryBuckets,
    time::Timestamp,
};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
    path::Path,
};
use parking_lot::Mutex;

use crate::testing::stage::{Act, Call, Control, Fate, Faulty, Stage};

/// When objects were written, by the true time.
#[derive(Debug, Default)]
pub(super) struct Times(Mutex<BTreeMap<(String, Path), Timestamp>>);

/// A process's connection to the object store.
#[derive(Clone, Debug)]
pub(super) struct SimulatedBuckets {
    pub(super) inner: Arc<MemoryBuckets>,
    pub(super) times: Arc<Times>,
    pub(super) stage: Arc<Stage>,
    pub(super) control: Arc<Control>,
}

impl Buckets for SimulatedBuckets {
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>> {
        Ok(Arc::new(SimulatedObjects {
            inner: self.inner.open(bucket)?,
            bucket: bucket.to_string(),
            shared: self.clone(),
        }))
    }
}

#[async_trait]
impl ServerSideCopy for SimulatedBuckets {
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt> {
        let copy = async {
            let receipt = self.inner.copy(from, to).await?;
            self.wrote(&to.0.to_string(), to.1);
            Ok(receipt)
        };
        self.stage
            .around(&self.control, format!("objects copy {}", kind(to.1)), copy)
            .await
    }
}

impl SimulatedBuckets {
    fn wrote(&self, bucket: &str, path: &Path) {
        let now = self.stage.clock.now();
        self.times.0.lock().insert((bucket.to_owned(), path.clone()), now);
    }
}

/// What an object is, by its name.
fn kind(path: &Path) -> &'static str {
    let text = path.as_ref();
    match path.filename().unwrap_or_default() {
        "_plan.json" => "plan",
        "_manifest.json" => "manifest",
        "_SUCCESS" => "mark",
        _ if text.contains("/data/") => "data",
        _ if text.contains("/statestore/transactions") => "log body",
        _ if text.contains("/statestore/snapshots") => "snapshot",
        _ if text.contains("/commits/") => "commit request",
        _ if text.starts_with("job-") => "input",
        _ if text.contains('/') => "part",
        _ => "table",
    }
}

#[derive(Clone, Debug)]
struct SimulatedObjects {
    inner: Arc<dyn ObjectStore>,
    bucket: String,
    shared: SimulatedBuckets,
}

impl fmt::Display for SimulatedObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bucket)
    }
}

impl SimulatedObjects {
    fn timed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let times = self.shared.times.0.lock();
        if let Some(at) = times.get(&(self.bucket.clone(), meta.location.clone())) {
            let at = Duration::from_millis(at.as_millis().unsigned_abs());
            meta.last_modified = (std::time::UNIX_EPOCH + at).into();
        }
        meta
    }

    fn fate(&self, method: &str, path: &Path) -> (Call, Fate) {
        let operation = format!("objects {method} {}", kind(path));
        self.shared.stage.fate(&self.shared.control, operation)
    }

    async fn before(&self, call: &Call, fate: Fate) -> object_store::Result<()> {
        self.shared.stage.before(&self.shared.control, call, fate).await
    }

    async fn after(&self, call: &Call, fate: Fate) -> object_store::Result<()> {
        self.shared.stage.after(&self.shared.control, call, fate).await
    }

    fn wrote(&self, path: &Path) {
        self.shared.wrote(&self.bucket, path);
        self.shared.stage.auditor.wrote(&self.bucket, path);
    }

    /// The whole body as it is to arrive.
    async fn spoiled(&self, result: GetResult, call: &Call, act: Act) -> object_store::Result<GetResult> {
        let (meta, range, attributes) = (
            result.meta.clone(),
            result.range.clone(),
            result.attributes.clone(),
        );
        let mut body = result.bytes().await?.to_vec();
        let broken = object_store::Error::fault(format!("the connection broke in \"{call}\""));
        match act {
            Act::Short => body.truncate(body.len() / 2),
            Act::Flip => {
                let at = body.len() / 2;
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1;
                }
            }
            _ => body.truncate(body.len() / 2),
        }
        let mut chunks = vec![Ok(body.into())];
        if act == Act::Reset {
            chunks.push(Err(broken));
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter(chunks).boxed()),
            meta,
            range,
            attributes,
        })
    }
}

#[async_trait]
impl ObjectStore for SimulatedObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let (call, fate) = self.fate("put", location);
        self.before(&call, fate).await?;
        let mode = options.mode.clone();
        if fate.act == Act::FalseExists {
            return Err(match mode {
                PutMode::Create => object_store::Error::AlreadyExists {
                    path: location.to_string(),
                    source: "a conflict that was none".into(),
                },
                _ => object_store::Error::fault(format!("refused \"{call}\"")),
            });
        }
        let put = self.inner.put_opts(location, payload, options).await;
        if put.is_ok() {
            self.wrote(location);
        }
        self.after(&call, fate).await?;
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let (call, fate) = self.fate("upload", location);
        self.before(&call, fate).await?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        self.after(&call, fate).await?;
        Ok(Box::new(SimulatedUpload {
            inner: upload,
            location: location.clone(),
            store: self.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let head = options.head;
        let (call, fate) = self.fate(if head { "head" } else { "get" }, location);
        self.before(&call, fate).await?;
        let got = self.inner.get_opts(location, options).await;
        self.after(&call, fate).await?;
        let mut result = got?;
        if !head && matches!(fate.act, Act::Short | Act::Flip | Act::Reset) {
            result = self.spoiled(result, &call, fate.act).await?;
        }
        result.meta = self.timed(result.meta);
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let (call, fate) = store.fate("delete", &location);
                    store.before(&call, fate).await?;
                    store.shared.stage.auditor.deleted(&store.bucket, &location);
                    // Directories say so when nothing is there, and S3 does not.
                    let there = store.inner.head(&location).await;
                    store.inner.delete(&location).await?;
                    store.after(&call, fate).await?;
                    there.map(|_| location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned();
        let listed = async move {
            let operation = "objects list".to_owned();
            let (call, fate) = store.shared.stage.fate(&store.shared.control, operation);
            store.before(&call, fate).await?;
            let mut listed: Vec<_> = store.inner.list(prefix.as_ref()).try_collect().await?;
            listed.sort_by(|a, b| a.location.cmp(&b.location));
            if fate.act == Act::Partial {
                listed.reverse();
            }
            store.after(&call, fate).await?;
            let timed: Vec<_> = listed.into_iter().map(|meta| Ok(store.timed(meta))).collect();
            Ok::<_, object_store::Error>(stream::iter(timed))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let (call, fate) = self.fate("list", prefix.unwrap_or(&Path::default()));
        self.before(&call, fate).await?;
        let listed = self.inner.list_with_delimiter(prefix).await;
        self.after(&call, fate).await?;
        listed
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let (call, fate) = self.fate("copy", to);
        self.before(&call, fate).await?;
        self.inner.copy_opts(from, to, options).await?;
        self.wrote(to);
        self.after(&call, fate).await
    }
}

#[derive(Debug)]
struct SimulatedUpload {
    inner: Box<dyn MultipartUpload>,
    location: Path,
    store: SimulatedObjects,
}

#[async_trait]
impl MultipartUpload for SimulatedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (call, fate) = self.store.fate("upload part of", &self.location);
        let part = self.inner.put_part(data);
        let store = self.store.clone();
        Box::pin(async move {
            store.before(&call, fate).await?;
            part.await?;
            store.after(&call, fate).await
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let (call, fate) = self.store.fate("complete", &self.location);
        self.store.before(&call, fate).await?;
        let done = self.inner.complete().await;
        if done.is_ok() {
            self.store.wrote(&self.location);
        }
        self.store.after(&call, fate).await?;
        done
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}
