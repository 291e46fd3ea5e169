//! The adapters in memory keep the contracts of the ports.

use std::{sync::Arc, time::Duration};

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
use object_store::{ObjectStoreExt, path::Path};

use crate::faulty_objects::{FaultyObjects, Puts};

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

#[tokio::test]
async fn an_object_that_is_said_to_exist_is_looked_at() {
    let path = Path::from("a");
    let store = |written| FaultyObjects::new(Puts::Refused { written });
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
