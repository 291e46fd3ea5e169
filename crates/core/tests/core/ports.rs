//! The adapters in memory keep the contracts of the ports.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    ErrorKind,
    ids::BucketName,
    ports::{
        Buckets, Clock, Ids, ItemStore, Message, Queue, QueueName, QueueSettings, SystemClock, SystemIds,
        create_object,
    },
    testing::{
        memory::{MemoryBuckets, MemoryItemStore, MemoryQueue},
        seeded::{PausedClock, SeededIds},
        suites,
    },
    time::Timestamp,
};
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_item_store_in_memory_conforms() {
    suites::item_store::all(&async || {
        Arc::new(MemoryItemStore::new(Arc::new(SystemClock))) as Arc<dyn ItemStore>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_in_memory_conforms() {
    suites::queue::all(&async |name, settings| {
        Arc::new(MemoryQueue::new(
            name,
            settings,
            Arc::new(SystemClock),
            Arc::new(SystemIds),
        )) as Arc<dyn Queue>
    })
    .await;
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).expect("a bucket name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_buckets_in_memory_conform() {
    suites::buckets::all(&async || (Arc::new(MemoryBuckets::new()) as Arc<dyn Buckets>, bucket("data")))
        .await;
    suites::copy::all(&async || {
        let buckets = Arc::new(MemoryBuckets::new());
        suites::copy::Stores {
            buckets: buckets.clone(),
            copier: buckets,
            from: bucket("data"),
            to: bucket("export"),
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_in_memory_follows_paused_time() {
    let start = Timestamp::from_millis(1_000_000);
    let clock = Arc::new(PausedClock::new(start));
    let settings = QueueSettings {
        visibility: Duration::from_secs(3600),
        max_attempts: 5,
    };
    let ids = Arc::new(SeededIds::new(7));
    let queue = MemoryQueue::new(QueueName::Ingest, settings, clock.clone(), ids);
    queue.send(vec![Message::new("once")]).await.unwrap();
    let long = Duration::from_secs(100_000);
    assert_eq!(queue.receive(1, long).await.unwrap()[0].attempt, 1);
    assert_eq!(queue.receive(1, long).await.unwrap()[0].attempt, 2);
    assert_eq!(clock.now(), start.plus(Duration::from_secs(3600)));
    clock.jump(3_600_000);
    assert_eq!(queue.receive(1, Duration::ZERO).await.unwrap()[0].attempt, 3);
}

#[test]
fn a_seed_gives_the_same_ids_again() {
    let (one, other) = (SeededIds::new(1), SeededIds::new(1));
    let draw = |ids: &SeededIds| {
        (
            ids.uuid(),
            ids.random(),
            ids.jitter(Duration::from_secs(9)),
            ids.uuid(),
        )
    };
    let drawn = draw(&one);
    assert_eq!(drawn, draw(&other));
    assert_ne!(drawn.0, drawn.3);
    assert_ne!(drawn.0, SeededIds::new(2).uuid());
    assert_eq!(drawn.0.get_version_num(), 4);
}

/// A store that refuses to create any object as if it were there, and perhaps has written it.
#[derive(Debug)]
struct Refusing {
    inner: InMemory,
    writes: bool,
}

impl fmt::Display for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refusing")
    }
}

#[async_trait]
impl ObjectStore for Refusing {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        if self.writes {
            self.inner.put_opts(location, payload, options).await?;
        }
        Err(object_store::Error::AlreadyExists {
            path: location.to_string(),
            source: "a conflict".into(),
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
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

#[tokio::test]
async fn an_object_that_is_said_to_exist_is_looked_at() {
    let path = Path::from("a");
    let store = |writes| Refusing {
        inner: InMemory::new(),
        writes,
    };
    let written = store(true);
    create_object(&written, &path, "body".into()).await.unwrap();

    let absent = create_object(&store(false), &path, "body".into())
        .await
        .unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Unavailable);

    let taken = store(false);
    taken.inner.put(&path, "other".into()).await.unwrap();
    let other = create_object(&taken, &path, "body".into()).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
}
