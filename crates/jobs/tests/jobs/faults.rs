//! Ports that give way before and after each call, so that a dropped future can stop there, and that fail on order.

use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    collections::Collection,
    ports::{
        Bucket, Buckets, Clock, CopyReceipt, Delivery, Item, ItemKey, ItemStore, Message, Order, Queue,
        QueueDepth, QueueName, QueueSettings, Range, Receipt, ServerSideCopy, StoredMessage, Write,
    },
    testing::memory::MemoryBuckets,
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};

/// Polls the future `polls` times and drops it, unless it is done before.
pub(crate) async fn polled<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polls <= 1 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

type Rule = Box<dyn Fn(&str) -> Option<Error> + Send + Sync>;

/// What fails: a rule sees every call as `<port> <method> <what>`, and calls that it names fail.
#[derive(Default)]
pub(crate) struct Faults {
    rule: Mutex<Option<Rule>>,
    lost_answers: Mutex<Option<Rule>>,
    calls: Mutex<Vec<String>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

impl Faults {
    /// From now on, calls for which `rule` has an error fail with it, before they have an effect.
    pub(crate) fn set(&self, rule: impl Fn(&str) -> Option<Error> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on, calls that contain `text` fail as unavailable.
    pub(crate) fn unavailable(&self, text: &'static str) {
        self.set(move |call| {
            call.contains(text)
                .then(|| Error::unavailable(format!("{text} is out of order")))
        });
    }

    /// From now on, calls for which `rule` has an error fail with it, after they had their effect.
    pub(crate) fn lose_answers(&self, rule: impl Fn(&str) -> Option<Error> + Send + Sync + 'static) {
        *self.lost_answers.lock().unwrap() = Some(Box::new(rule));
    }

    pub(crate) fn clear(&self) {
        *self.rule.lock().unwrap() = None;
        *self.lost_answers.lock().unwrap() = None;
    }

    /// How many calls so far contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| call.contains(text))
            .count()
    }

    async fn around<T>(&self, call: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::task::yield_now().await;
        let failure = self.rule.lock().unwrap().as_ref().and_then(|rule| rule(&call));
        self.calls.lock().unwrap().push(call.clone());
        if let Some(error) = failure {
            return Err(error);
        }
        let answer = work.await;
        tokio::task::yield_now().await;
        let lost = self
            .lost_answers
            .lock()
            .unwrap()
            .as_ref()
            .and_then(|rule| rule(&call));
        lost.map_or(answer, Err)
    }
}

#[derive(Debug)]
pub(crate) struct FaultyItems {
    pub(crate) inner: Arc<dyn ItemStore>,
    pub(crate) faults: Arc<Faults>,
}

fn kinds(writes: &[Write]) -> String {
    let kinds: Vec<_> = writes
        .iter()
        .map(|write| write.key().collection.as_str())
        .collect();
    kinds.join(",")
}

#[async_trait]
impl ItemStore for FaultyItems {
    async fn get(&self, key: &ItemKey) -> Result<Option<Item>> {
        let call = format!("items get {}", key.collection);
        self.faults.around(call, self.inner.get(key)).await
    }

    async fn query(
        &self,
        collection: Collection,
        partition: &str,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Item>> {
        let query = self.inner.query(collection, partition, range, limit, order);
        self.faults
            .around(format!("items query {collection} {partition}"), query)
            .await
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<()> {
        let call = format!("items write {}", kinds(&writes));
        self.faults.around(call, self.inner.transact(writes)).await
    }
}

#[derive(Debug)]
pub(crate) struct FaultyQueue {
    pub(crate) inner: Arc<dyn Queue>,
    pub(crate) faults: Arc<Faults>,
}

impl FaultyQueue {
    fn call(&self, method: &str) -> String {
        format!("queue {method} {}", self.inner.name())
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    fn name(&self) -> QueueName {
        self.inner.name()
    }

    fn settings(&self) -> QueueSettings {
        self.inner.settings()
    }

    async fn send(&self, messages: Vec<Message>) -> Result<Vec<String>> {
        self.faults
            .around(self.call("send"), self.inner.send(messages))
            .await
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.faults.around(self.call("receive"), async { Ok(()) }).await?;
        self.inner.receive(max, wait).await
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        let method = if time.is_zero() { "release" } else { "extend" };
        self.faults
            .around(self.call(method), self.inner.extend(receipt, time))
            .await
    }

    async fn give_back(&self, receipt: &Receipt) -> Result<()> {
        self.faults
            .around(self.call("give_back"), self.inner.give_back(receipt))
            .await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<()> {
        self.faults
            .around(self.call("ack"), self.inner.ack(receipt))
            .await
    }

    async fn dead_letter(&self, receipt: &Receipt) -> Result<()> {
        self.faults
            .around(self.call("dead_letter"), self.inner.dead_letter(receipt))
            .await
    }

    async fn depth(&self) -> Result<QueueDepth> {
        self.inner.depth().await
    }

    async fn peek(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.inner.peek(limit).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredMessage>> {
        self.inner.dead_letters(limit).await
    }

    async fn redrive(&self, message_ids: Option<&[String]>) -> Result<u64> {
        self.inner.redrive(message_ids).await
    }
}

/// Buckets whose objects have their times from the clock.
#[derive(Debug)]
pub(crate) struct FaultyBuckets {
    pub(crate) inner: Arc<MemoryBuckets>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) written: Arc<Mutex<BTreeMap<(String, Path), i64>>>,
}

impl Buckets for FaultyBuckets {
    fn open(&self, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>> {
        Ok(Arc::new(FaultyObjects {
            inner: self.inner.open(bucket)?,
            bucket: bucket.to_string(),
            faults: self.faults.clone(),
            clock: self.clock.clone(),
            written: self.written.clone(),
        }))
    }
}

#[async_trait]
impl ServerSideCopy for FaultyBuckets {
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt> {
        let now = self.clock.now().as_millis();
        self.written
            .lock()
            .unwrap()
            .insert((to.0.to_string(), to.1.clone()), now);
        self.faults
            .around(format!("copy {}", to.1), self.inner.copy(from, to))
            .await
    }
}

#[derive(Clone, Debug)]
struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    bucket: String,
    faults: Arc<Faults>,
    clock: Arc<dyn Clock>,
    written: Arc<Mutex<BTreeMap<(String, Path), i64>>>,
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bucket)
    }
}

impl FaultyObjects {
    fn timed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.written.lock().unwrap();
        if let Some(millis) = written.get(&(self.bucket.clone(), meta.location.clone())) {
            meta.last_modified = std::time::UNIX_EPOCH
                .checked_add(Duration::from_millis(*millis as u64))
                .unwrap()
                .into();
        }
        meta
    }

    async fn around<T>(
        &self,
        method: &str,
        path: &Path,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let mut answer = None;
        let store = async {
            answer = Some(work.await);
            Ok(())
        };
        let failed = self
            .faults
            .around(format!("objects {method} {path}"), store)
            .await;
        match (answer, failed) {
            (Some(answer), _) => answer,
            (None, failed) => Err(object_store::Error::Generic {
                store: "test",
                source: failed
                    .err()
                    .map_or("nothing was done".into(), |error| Box::new(error)),
            }),
        }
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
        let put = async {
            let result = self.inner.put_opts(location, payload, options).await?;
            let now = self.clock.now().as_millis();
            self.written
                .lock()
                .unwrap()
                .insert((self.bucket.clone(), location.clone()), now);
            Ok(result)
        };
        self.around("put", location, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let method = if options.head { "head" } else { "get" };
        let mut result = self
            .around(method, location, self.inner.get_opts(location, options))
            .await?;
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
                    use object_store::ObjectStoreExt as _;
                    // Directories say so when nothing is there, and S3 does not.
                    let deleted = async {
                        store.inner.head(&location).await?;
                        store.inner.delete(&location).await
                    };
                    store.around("delete", &location, deleted).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let store = self.clone();
        let listed = self.inner.list(prefix);
        listed
            .and_then(move |meta| {
                let store = store.clone();
                async move {
                    tokio::task::yield_now().await;
                    Ok(store.timed(meta))
                }
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.around("copy", to, self.inner.copy_opts(from, to, options))
            .await
    }
}
