//! The adapters in memory keep the contracts of the ports.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dormouse_core::{
    ErrorKind,
    collections::Collection,
    ids::BucketName,
    ports::{
        Buckets, Clock, Condition, Ids, Item, ItemKey, ItemStore, Message, Progress, Queue, QueueName,
        QueueSettings, Sort, SystemClock, SystemIds, VerifySpec, Write, create_object,
        item_store::{MAX_ITEM_BYTES, MAX_TRANSACTION_WRITES, Value, check_writes},
        queue::check_messages,
    },
    testing::{
        memory::{MemoryBuckets, MemoryItemStore, MemoryQueue},
        seeded::{PausedClock, SeededIds},
        suites,
    },
    time::Timestamp,
};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use crate::{
    faulty_objects::{FaultyObjects, Puts},
    samples::{file, schema},
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

#[tokio::test]
async fn an_object_is_created_and_none_is_written_over() {
    let path = Path::from("a");
    let store = InMemory::new();
    create_object(&store, &path, "body".into()).await.unwrap();
    create_object(&store, &path, "body".into()).await.unwrap();
    let other = create_object(&store, &path, "other".into()).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
    let stored = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(stored, "body");
}

#[tokio::test]
async fn the_systems_clock_goes_on() {
    let before = SystemClock.now();
    assert!(before > Timestamp::from_millis(1_700_000_000_000));
    SystemClock.sleep(Duration::from_millis(20)).await;
    let passed = SystemClock.now().since(before);
    assert!(passed >= Duration::from_millis(15), "{passed:?}");
}

#[test]
fn random_numbers_differ_and_waits_stay_below_their_ceiling() {
    let numbers: BTreeSet<u64> = (0..100).map(|_| SystemIds.random()).collect();
    assert_eq!(numbers.len(), 100);
    let ceiling = Duration::from_millis(1);
    let waits: BTreeSet<Duration> = (0..100).map(|_| SystemIds.jitter(ceiling)).collect();
    assert!(waits.len() > 50, "{} waits", waits.len());
    assert!(waits.iter().all(|wait| *wait < ceiling));
    assert!(waits.last().is_some_and(|wait| *wait > ceiling / 2));
    assert_eq!(SystemIds.jitter(Duration::ZERO), Duration::ZERO);
}

fn item(sort: impl Into<Sort>) -> Item {
    let sort = sort.into();
    let collection = match sort {
        Sort::Number(_) => Collection::Transactions,
        Sort::Text(_) => Collection::JobStatus,
        Sort::None => Collection::Heads,
    };
    Item::new(ItemKey::new(collection, "pp", sort))
}

#[test]
fn an_attribute_is_read_as_what_it_was_written() {
    let item = item("s")
        .with("text", "a")
        .with("number", 7_u64)
        .with("bytes", Value::Bytes("b".into()))
        .with("flag", true);
    assert_eq!(item.text("text").unwrap(), "a");
    assert_eq!(item.number("number").unwrap(), 7);
    assert_eq!(item.bytes("bytes").unwrap(), "b");
    for (error, kind) in [
        (item.text("number").unwrap_err(), "text"),
        (item.number("text").unwrap_err(), "number"),
        (item.bytes("gone").unwrap_err(), "bytes"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().contains(&format!("no {kind} attribute")),
            "{error}"
        );
    }
    let at = Timestamp::from_millis(-5);
    assert_eq!(Value::from(at), Value::Number(-5));
    assert_eq!(Value::from(u64::MAX), Value::Number(i64::MAX));
    assert_eq!(Value::from("a".to_owned()), Value::Text("a".to_owned()));
}

#[test]
fn an_item_is_as_large_as_its_key_and_its_attributes() {
    assert_eq!(item("sss").encoded_bytes(), 5);
    assert_eq!(item(7).encoded_bytes(), 10);
    assert_eq!(item(()).encoded_bytes(), 2);
    let full = item("sss")
        .with("text", "abcde")
        .with("n", 1_u64)
        .with("bytes", Value::Bytes("abc".into()))
        .with("flag", true);
    assert_eq!(full.encoded_bytes(), 5 + (4 + 5) + (1 + 8) + (5 + 3) + (4 + 1));
}

#[test]
fn writes_are_checked_against_the_limits_of_a_transaction() {
    let put = |item| Write::Put {
        item,
        condition: Condition::None,
    };
    let of_bytes = |bytes: usize| put(item("").with("text", "x".repeat(bytes - 6)));
    check_writes(&[of_bytes(MAX_ITEM_BYTES)]).unwrap();
    let told = |writes: &[Write]| {
        let error = check_writes(writes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert!(told(&[of_bytes(MAX_ITEM_BYTES + 1)]).contains("is over the limit"));

    let many: Vec<_> = (0..=MAX_TRANSACTION_WRITES as u64)
        .map(|i| put(item(i)))
        .collect();
    check_writes(&many[1..]).unwrap();
    assert!(told(&many).contains("101 writes is over the limit"));
    let mut misplaced = item(1);
    misplaced.key.collection = Collection::JobStatus;
    assert!(told(&[put(misplaced)]).contains("sort keys of kind Text"));

    let (key, condition) = (item(2).key, Condition::Exists);
    let check = Write::Check {
        key: key.clone(),
        condition: condition.clone(),
    };
    let delete = Write::Delete { key, condition };
    for again in [check, delete] {
        assert_eq!(again.condition(), &Condition::Exists);
        check_writes(&[again.clone(), put(item(1)), put(item(3))]).unwrap();
        assert!(told(&[again, put(item(1)), put(item(2))]).contains("twice"));
    }
}

#[test]
fn a_message_has_a_limit_and_a_queue_a_name() {
    let message = |bytes| Message::new("x".repeat(bytes));
    let mebibyte = 1 << 20;
    check_messages(&[message(mebibyte)]).unwrap();
    let error = check_messages(&[message(1), message(mebibyte + 1)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        QueueName::ALL.map(QueueName::as_str),
        [
            "ingest",
            "export",
            "export-leaf",
            "compaction",
            "splitting",
            "commit",
            "query"
        ]
    );
    for name in QueueName::ALL {
        assert_eq!(name.to_string().parse::<QueueName>().unwrap(), name);
    }
    let error = "letters".parse::<QueueName>().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no queue \"letters\"; the queues are ingest, export"),
        "{error}"
    );
    let settings = QueueSettings::default();
    assert_eq!(
        (settings.visibility, settings.max_attempts),
        (Duration::from_secs(30), 5)
    );
}

#[test]
fn progress_is_the_sum_of_what_was_told() {
    let progress = Progress::default();
    for rows in [3, 4] {
        progress.add_read(rows);
        progress.add_written(rows * 2);
    }
    assert_eq!((progress.read(), progress.written()), (7, 14));
}

#[test]
fn a_file_to_verify_has_the_rows_of_its_parts() {
    let file = file("a", &[(1, 5, 4), (6, 9, 2)]);
    let spec = VerifySpec {
        schema: schema(),
        store: Arc::new(InMemory::new()),
        path: Path::from("a"),
        bytes: file.bytes,
        checksum: file.checksum,
        parts: file.parts.clone(),
    };
    assert_eq!(spec.rows(), (6, file.digest()));
}
