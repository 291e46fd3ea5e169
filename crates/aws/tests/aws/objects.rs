//! Objects of a store that fails.

use std::{sync::Arc, time::Duration};

use dormouse_aws::{BucketPart, objects::S3Buckets};
use dormouse_core::{
    Error, ErrorKind,
    config::InstanceSettings,
    ids::BucketName,
    ports::{AbandonedUploads, Bucket, Buckets, Clock, SystemClock, create_object},
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::{
    emulators::{Emulators, clock},
    proxy::{Fault, Proxy},
};

async fn bucket(emulators: &Emulators) -> (Bucket, Arc<S3Buckets>) {
    let settings = InstanceSettings::default();
    let (location, buckets) = emulators.instance(&settings).await;
    let name = location
        .bucket(BucketPart::TableData, &settings)
        .await
        .expect("a name");
    (Bucket::Named(name), buckets)
}

fn slow_down() -> Fault {
    Fault::Answer(
        503,
        "<Error><Code>SlowDown</Code><Message>told</Message></Error>".to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_made_again_and_broken_bodies_read_on() {
    let emulators = Emulators::start().await;
    let (bucket, _) = bucket(&emulators).await;
    let proxy = Proxy::start(&emulators.url()).await;
    let clients = emulators.clients_at(&proxy.url(), &emulators.dynamodb_url());
    let store = S3Buckets::new(&clients, clock()).open(&bucket).expect("a bucket");
    let content: Vec<u8> = (0..200_000_u32).map(|place| (place % 251) as u8).collect();
    let path = Path::from("object");
    proxy.next("PUT /", slow_down());
    store.put(&path, content.clone().into()).await.expect("a put");
    proxy.next("GET /", slow_down());
    proxy.next("GET /", Fault::LoseReply);
    proxy.next("GET /", Fault::Truncate);
    let read = store
        .get(&path)
        .await
        .expect("an object")
        .bytes()
        .await
        .expect("a body");
    assert!(read == content, "other bytes came back");
    assert_eq!(proxy.left(), 0);
    let sent = proxy.seen("PUT /");
    assert!(
        sent.iter()
            .all(|request| request.to_lowercase().contains("x-amz-checksum-sha256:"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_creation_was_told_to_nobody_is_created_once() {
    let emulators = Emulators::start().await;
    let (bucket, _) = bucket(&emulators).await;
    let proxy = Proxy::start(&emulators.url()).await;
    let clients = emulators.clients_at(&proxy.url(), &emulators.dynamodb_url());
    let store = S3Buckets::new(&clients, clock()).open(&bucket).expect("a bucket");
    let path = Path::from("plan");
    proxy.next("PUT /", Fault::LoseReply);
    create_object(&*store, &path, "mine".into())
        .await
        .expect("its own object is no stranger's");
    let error = create_object(&*store, &path, "other".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_not_found() {
    let emulators = Emulators::start().await;
    let buckets = S3Buckets::new(&emulators.clients(), clock());
    let bucket = Bucket::Named(BucketName::new("no-such-bucket").expect("a name"));
    let store = buckets.open(&bucket).expect("nobody is asked");
    let got = store.get(&Path::from("a")).await.map(|_| ());
    assert_eq!(Error::from(got.unwrap_err()).kind(), ErrorKind::NotFound);
    let listed = store.list(None).try_collect::<Vec<_>>().await;
    assert_eq!(Error::from(listed.unwrap_err()).kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_were_left_behind_are_aborted_at_their_age() {
    let emulators = Emulators::start().await;
    let (bucket, buckets) = bucket(&emulators).await;
    let store = buckets.open(&bucket).expect("a bucket");
    for name in ["a", "b"] {
        let mut upload = store.put_multipart(&Path::from(name)).await.expect("an upload");
        upload.put_part("part".into()).await.expect("a part");
        std::mem::forget(upload);
    }
    assert_eq!(
        buckets
            .abort_older_than(&bucket, Duration::from_secs(3600))
            .await
            .unwrap(),
        0
    );
    SystemClock.sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        buckets.abort_older_than(&bucket, Duration::ZERO).await.unwrap(),
        2
    );
    assert_eq!(
        buckets.abort_older_than(&bucket, Duration::ZERO).await.unwrap(),
        0
    );
}
