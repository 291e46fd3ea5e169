//! Links are good for what they were signed for, and only that.

use std::{process::Command, time::Duration};

use dormouse_aws::{BucketPart, signer::S3Signer};
use dormouse_core::{
    ErrorKind,
    config::InstanceSettings,
    ports::{Bucket, Buckets, Clock, LinkMethod, SystemClock, UrlSigner},
};
use object_store::{ObjectStoreExt, path::Path};

use crate::emulators::Emulators;

const HOUR: Duration = Duration::from_secs(3600);

/// The status of a request by curl, and the body.
fn curl(arguments: &[&str]) -> (String, String) {
    let done = Command::new("curl")
        .args(["--silent", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_reads_its_object_until_it_expires() {
    let emulators = Emulators::start().await;
    let settings = InstanceSettings::default();
    let (location, buckets) = emulators.instance(&settings).await;
    let bucket = Bucket::Named(
        location
            .bucket(BucketPart::Export, &settings)
            .await
            .expect("a name"),
    );
    let store = buckets.open(&bucket).expect("a bucket");
    let path = Path::from("85866a2a/nightly/part 1 é.parquet");
    store.put(&path, "0123456789".into()).await.expect("a put");
    let signer = S3Signer::new(&location.clients);
    let link = signer
        .sign(LinkMethod::Get, &bucket, &path, HOUR)
        .await
        .expect("a link");
    assert!(
        link.contains("X-Amz-SignedHeaders=host&") || link.ends_with("X-Amz-SignedHeaders=host"),
        "{link}"
    );
    assert_eq!(curl(&[&link]), ("200".to_owned(), "0123456789".to_owned()));
    assert_eq!(
        curl(&["--range", "2-4", &link]),
        ("206".to_owned(), "234".to_owned())
    );
    assert_eq!(curl(&["--header", "X-Any: other", &link]).0, "200");
    let other = link.replace("nightly", "another");
    assert_eq!(curl(&[&other]).0, "403");
    assert_eq!(curl(&["--request", "PUT", "--data", "x", &link]).0, "403");
    let short = signer
        .sign(LinkMethod::Get, &bucket, &path, Duration::from_secs(1))
        .await
        .expect("a link");
    SystemClock.sleep(Duration::from_millis(2500)).await;
    assert_eq!(curl(&[&short]).0, "403");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_write_writes_its_object() {
    let emulators = Emulators::start().await;
    let settings = InstanceSettings::default();
    let (location, buckets) = emulators.instance(&settings).await;
    let bucket = Bucket::Named(
        location
            .bucket(BucketPart::Export, &settings)
            .await
            .expect("a name"),
    );
    let path = Path::from("new");
    let signer = S3Signer::new(&location.clients);
    let link = signer
        .sign(LinkMethod::Put, &bucket, &path, HOUR)
        .await
        .expect("a link");
    assert_eq!(
        curl(&[
            "--request",
            "PUT",
            "--header",
            "Content-Type:",
            "--data",
            "written",
            &link
        ])
        .0,
        "200"
    );
    let store = buckets.open(&bucket).expect("a bucket");
    let body = store
        .get(&path)
        .await
        .expect("an object")
        .bytes()
        .await
        .expect("a body");
    assert_eq!(body, "written");
}

#[tokio::test]
async fn a_link_for_ever_is_refused() {
    let emulators = Emulators::start().await;
    let location = emulators.location();
    let signer = S3Signer::new(&location.clients);
    let bucket = Bucket::Named(dormouse_core::ids::BucketName::new("b").expect("a name"));
    for life in [Duration::ZERO, 200 * HOUR] {
        let signed = signer
            .sign(LinkMethod::Get, &bucket, &Path::from("a"), life)
            .await;
        assert_eq!(signed.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
