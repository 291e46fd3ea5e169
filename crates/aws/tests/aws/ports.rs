//! DynamoDB, SQS and S3 keep the contracts of the ports.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dormouse_aws::{BucketPart, copy::S3Copy, item_store::DynamoItemStore, queue::SqsQueue};
use dormouse_core::{
    config::InstanceSettings,
    ports::{Bucket, Buckets, ItemStore, Queue, QueueName, QueueSettings, SystemIds},
    testing::suites::{self, queue::Leeway},
};

use crate::emulators::{Emulators, clock, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_item_store_conforms() {
    let emulators = Emulators::start().await;
    let (location, _) = emulators.instance(&InstanceSettings::default()).await;
    suites::item_store::all(&async || -> Arc<dyn ItemStore> {
        let prefix = location.names.table_prefix();
        let ids = Arc::new(SystemIds);
        Arc::new(DynamoItemStore::new(&location.clients, &prefix, clock(), ids)) as Arc<dyn ItemStore>
    })
    .await;
}

/// What SQS is like where the port leaves an adapter free, or the adapter's documentation says that it differs.
const SQS: Leeway = Leeway {
    precision: Duration::from_secs(1),
    counts_what_is_given_back: true,
    older_receipts_acknowledge: false,
    shows_what_waits: false,
    delays_in_groups: false,
    prompt: Duration::from_millis(400),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_conforms() {
    let emulators = Emulators::start().await;
    let made = AtomicU64::new(0);
    let make = async |name: QueueName, wanted: QueueSettings| -> Arc<dyn Queue> {
        // A queue of its own for each check: an instance of its own, in effect.
        let number = made.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "queue.visibility.timeout.seconds={}\nqueue.max.attempts={}",
            wanted.visibility.as_secs_f64(),
            wanted.max_attempts
        );
        let settings = settings(&text);
        let names = dormouse_aws::Names::new(&format!("q{number}")).expect("names");
        let clients = emulators.clients();
        dormouse_aws::setup::make_queue(&clients, &names, name, &settings)
            .await
            .unwrap_or_else(|error| panic!("{}", error.report()));
        let bodies = bucket_store(&emulators).await;
        let queue = SqsQueue::open(
            &clients,
            name,
            &names.queue(name),
            bodies,
            clock(),
            Arc::new(SystemIds),
        )
        .await;
        let queue = queue.unwrap_or_else(|error| panic!("{}", error.report()));
        Arc::new(queue) as Arc<dyn Queue>
    };
    suites::queue::all_with(&make, &SQS).await;
}

/// Any bucket for long bodies.
async fn bucket_store(emulators: &Emulators) -> Arc<dyn object_store::ObjectStore> {
    let buckets = dormouse_aws::objects::S3Buckets::new(&emulators.clients(), clock());
    let location = emulators.location();
    let settings = InstanceSettings::default();
    let name = location
        .bucket(BucketPart::TableData, &settings)
        .await
        .expect("a name");
    dormouse_aws::setup::make_bucket(&location.clients, BucketPart::TableData, &name, &settings)
        .await
        .expect("a bucket");
    buckets.open(&Bucket::Named(name)).expect("a bucket")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_buckets_conform() {
    let emulators = Emulators::start().await;
    let (location, buckets) = emulators.instance(&InstanceSettings::default()).await;
    let name = location
        .bucket(BucketPart::TableData, &InstanceSettings::default())
        .await
        .expect("a name");
    suites::buckets::all(&async || (buckets.clone() as Arc<dyn Buckets>, name.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_conform() {
    let emulators = Emulators::start().await;
    let (location, buckets) = emulators.instance(&InstanceSettings::default()).await;
    let settings = InstanceSettings::default();
    let from = location
        .bucket(BucketPart::TableData, &settings)
        .await
        .expect("a name");
    let to = location
        .bucket(BucketPart::Export, &settings)
        .await
        .expect("a name");
    let whole = || S3Copy::new(&location.clients, buckets.clone());
    for copier in [whole(), whole().with_parts(1_000_000, 700_000)] {
        let copier = Arc::new(copier);
        suites::copy::all(&async || suites::copy::Stores {
            buckets: buckets.clone(),
            copier: copier.clone(),
            from: from.clone(),
            to: to.clone(),
        })
        .await;
    }
}
