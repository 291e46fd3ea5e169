//! What every [`ServerSideCopy`] keeps.
//!
//! The factory answers the buckets, a copier over them, and the names of two empty buckets.

use std::sync::Arc;

use object_store::{ObjectStoreExt, PutPayload, path::Path};

use super::{expect, expect_kind};
use crate::{
    error::ErrorKind,
    file::Checksum,
    ids::BucketName,
    ports::{Bucket, Buckets, CopyReceipt, Ids, ServerSideCopy, SystemIds},
};

/// What the copier's factory makes.
pub struct Stores {
    /// The buckets.
    pub buckets: Arc<dyn Buckets>,
    /// A copier over them.
    pub copier: Arc<dyn ServerSideCopy>,
    /// One bucket.
    pub from: BucketName,
    /// Another bucket.
    pub to: BucketName,
}

/// Runs every check.
pub async fn all(make: &impl AsyncFn() -> Stores) {
    a_copy_has_the_bytes_size_and_checksum_of_its_source(make).await;
    a_copy_replaces_what_is_at_its_target(make).await;
    a_copy_is_apart_from_its_source(make).await;
    copying_nothing_is_not_found(make).await;
}

async fn put(buckets: &dyn Buckets, bucket: &Bucket, path: &Path, bytes: &[u8]) {
    let store = expect(buckets.open(bucket), "opening a bucket");
    let put = store.put(path, PutPayload::from(bytes.to_vec())).await;
    expect(put.map_err(Into::into), "a put");
}

async fn read(buckets: &dyn Buckets, bucket: &Bucket, path: &Path) -> Vec<u8> {
    let store = expect(buckets.open(bucket), "opening a bucket");
    let got = expect(store.get(path).await.map_err(Into::into), "getting an object");
    expect(got.bytes().await.map_err(Into::into), "reading an object").to_vec()
}

fn fresh_path() -> Path {
    Path::from(format!("{}/object.parquet", SystemIds.uuid()))
}

/// Within a bucket and between two, for empty, small and larger objects; the check sum of `123456789` is the one
/// that the definition of CRC-64/NVME gives.
pub async fn a_copy_has_the_bytes_size_and_checksum_of_its_source(make: &impl AsyncFn() -> Stores) {
    let stores = make().await;
    let (from, to) = (Bucket::Named(stores.from), Bucket::Named(stores.to));
    let large: Vec<u8> = (0..3_000_000_u32)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let known = [
        (&b""[..], Some(Checksum(0))),
        (&b"123456789"[..], Some(Checksum(0xae8b_1486_0a79_9888))),
        (&large[..], None),
    ];
    for (content, checksum) in known {
        for target_bucket in [&from, &to] {
            let (source, target) = (fresh_path(), fresh_path());
            put(&*stores.buckets, &from, &source, content).await;
            let copied = stores
                .copier
                .copy((&from, &source), (target_bucket, &target))
                .await;
            let CopyReceipt {
                bytes,
                checksum: found,
            } = expect(copied, "a copy");
            assert_eq!(bytes, content.len() as u64, "the size of a copy");
            if let Some(checksum) = checksum {
                assert_eq!(
                    found,
                    checksum,
                    "CRC-64/NVME of a copy of {} bytes",
                    content.len()
                );
            }
            assert!(
                read(&*stores.buckets, target_bucket, &target).await == content,
                "a copy has other bytes"
            );
        }
    }
}

/// The target is the source's copy, whatever was there.
pub async fn a_copy_replaces_what_is_at_its_target(make: &impl AsyncFn() -> Stores) {
    let stores = make().await;
    let (from, to) = (Bucket::Named(stores.from), Bucket::Named(stores.to));
    let (source, target) = (fresh_path(), fresh_path());
    put(&*stores.buckets, &from, &source, b"new").await;
    put(&*stores.buckets, &to, &target, b"something older and longer").await;
    for _ in 0..2 {
        let copied = stores.copier.copy((&from, &source), (&to, &target)).await;
        expect(copied, "a copy over an object");
        assert_eq!(
            read(&*stores.buckets, &to, &target).await,
            b"new",
            "the old object shows"
        );
    }
}

/// Whatever happens to one later does not happen to the other.
pub async fn a_copy_is_apart_from_its_source(make: &impl AsyncFn() -> Stores) {
    let stores = make().await;
    let (from, to) = (Bucket::Named(stores.from), Bucket::Named(stores.to));
    let (source, target) = (fresh_path(), fresh_path());
    put(&*stores.buckets, &from, &source, b"original").await;
    expect(
        stores.copier.copy((&from, &source), (&to, &target)).await,
        "a copy",
    );
    put(&*stores.buckets, &to, &target, b"changed").await;
    assert_eq!(
        read(&*stores.buckets, &from, &source).await,
        b"original",
        "changing a copy changed its source"
    );
    expect(
        stores.copier.copy((&from, &source), (&to, &target)).await,
        "a copy",
    );
    let store = expect(stores.buckets.open(&from), "opening a bucket");
    expect(store.delete(&source).await.map_err(Into::into), "a delete");
    assert_eq!(
        read(&*stores.buckets, &to, &target).await,
        b"original",
        "deleting the source changed its copy"
    );
}

/// An absent source answers `NotFound` and leaves the target as it was.
pub async fn copying_nothing_is_not_found(make: &impl AsyncFn() -> Stores) {
    let stores = make().await;
    let (from, to) = (Bucket::Named(stores.from), Bucket::Named(stores.to));
    let target = fresh_path();
    put(&*stores.buckets, &to, &target, b"kept").await;
    expect_kind(
        stores.copier.copy((&from, &fresh_path()), (&to, &target)).await,
        ErrorKind::NotFound,
        "copying an absent object",
    );
    assert_eq!(
        read(&*stores.buckets, &to, &target).await,
        b"kept",
        "a copy that failed changed its target"
    );
}
