//! SQLite and directories keep the contracts of the ports.

use dormouse_core::{
    collections::Collection,
    ids::BucketName,
    ports::{Clock, Condition, Item, ItemKey, Message, QueueName, QueueSettings, SystemClock},
    testing::suites,
    time::Timestamp,
};
use parking_lot::Mutex;
use std::time::Duration;
use tempfile::TempDir;

use crate::open;

/// Fresh data directories, kept until the test ends.
#[derive(Default)]
struct Directories(Mutex<Vec<TempDir>>);

impl Directories {
    fn open(&self) -> std::sync::Arc<dormouse_local::LocalDirectory> {
        let directory = TempDir::new().expect("a temporary directory");
        let opened = open(directory.path());
        self.0.lock().push(directory);
        opened
    }
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).expect("a bucket name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_item_store_conforms() {
    let directories = Directories::default();
    suites::item_store::all(&async || directories.open().item_store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms() {
    let directories = Directories::default();
    suites::queue::all(&async |name, settings| directories.open().queue(name, settings)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_buckets_conform() {
    let directories = Directories::default();
    suites::buckets::all(&async || (directories.open().buckets(), bucket("data"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_conform() {
    let directories = Directories::default();
    suites::copy::all(&async || {
        let directory = directories.open();
        suites::copy::Stores {
            buckets: directory.buckets(),
            copier: directory.copy(),
            from: bucket("data"),
            to: bucket("export"),
        }
    })
    .await;
}

#[tokio::test]
async fn queues_of_one_directory_are_apart() {
    let directory = Directories::default();
    let directory = directory.open();
    let ingest = directory.queue(QueueName::Ingest, QueueSettings::default());
    let export = directory.queue(QueueName::Export, QueueSettings::default());
    ingest.send(vec![Message::new("for ingest")]).await.unwrap();
    assert!(export.receive(10, Duration::ZERO).await.unwrap().is_empty());
    let delivery = &ingest.receive(10, Duration::ZERO).await.unwrap()[0];
    export.ack(&delivery.receipt).await.unwrap();
    assert_eq!(ingest.depth().await.unwrap().hidden, 1);
    assert_eq!(export.depth().await.unwrap().hidden, 0);
}

#[tokio::test]
async fn a_receive_that_waits_returns_when_waits_are_ended() {
    let directories = Directories::default();
    let queue = directories
        .open()
        .queue(QueueName::Ingest, QueueSettings::default());
    let before = SystemClock.now();
    let ending = async {
        SystemClock.sleep(Duration::from_millis(50)).await;
        queue.end_waits();
    };
    let (received, ()) = tokio::join!(queue.receive(1, Duration::from_secs(60)), ending);
    assert!(received.unwrap().is_empty());
    let took = SystemClock.now().since(before);
    assert!(took < Duration::from_secs(30), "it took {took:?}");
}

#[tokio::test]
async fn items_that_expired_long_ago_are_purged_by_later_writes() {
    let directories = Directories::default();
    let directory = directories.open();
    let store = directory.item_store();
    let long_ago = Timestamp::from_millis(1000);
    for number in 0..50_u64 {
        let item = Item::new(ItemKey::new(Collection::Transactions, "t", number)).expiring(long_ago);
        store.put(item, Condition::None).await.unwrap();
    }
    let database = rusqlite::Connection::open(directory.path().join("dormouse.sqlite3")).unwrap();
    let left: i64 = database
        .query_row("SELECT count(*) FROM items", [], |row| row.get(0))
        .unwrap();
    assert!(left < 3, "{left} expired items are left");
}

#[tokio::test]
async fn receiving_stays_fast_behind_a_hundred_thousand_messages() {
    let directories = Directories::default();
    let directory = directories.open();
    let queue = directory.queue(QueueName::Commit, QueueSettings::default());
    for group in [None, Some("one group".to_owned())] {
        for batch in 0..20 {
            let messages = (0..5000).map(|n| Message {
                group: group.clone(),
                ..Message::new(format!("{batch}/{n}"))
            });
            queue.send(messages.collect()).await.unwrap();
        }
    }
    for _ in 0..20 {
        let before = SystemClock.now();
        let deliveries = queue.receive(10, Duration::ZERO).await.unwrap();
        assert!(!deliveries.is_empty());
        for delivery in &deliveries {
            queue.ack(&delivery.receipt).await.unwrap();
        }
        let took = SystemClock.now().since(before);
        assert!(
            took < Duration::from_millis(500),
            "ten messages took {took:?} behind 200000"
        );
    }
}
