//! What every [`Buckets`] keeps beyond the object store's own contract.
//!
//! The factory answers an adapter and the name of an empty bucket that it has.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};

use super::expect;
use crate::{
    ids::BucketName,
    ports::{Bucket, Buckets, Ids, SystemIds},
};

/// Runs every check.
pub async fn all(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    opening_a_bucket_twice_shows_the_same_objects(make).await;
    an_object_comes_back_whole_and_in_ranges(make).await;
    a_put_replaces_the_whole_object(make).await;
    create_refuses_an_existing_object(make).await;
    only_one_of_many_creators_wins(make).await;
    an_upload_appears_whole_when_it_completes(make).await;
    an_aborted_upload_leaves_nothing(make).await;
    an_absent_object_is_not_found(make).await;
    listing_finds_what_lies_below_a_prefix(make).await;
    deleting_leaves_the_neighbours(make).await;
}

/// The store of the factory's bucket, and a prefix in it that no other check uses.
async fn open(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) -> (Arc<dyn ObjectStore>, Path) {
    let (buckets, bucket) = make().await;
    let store = expect(buckets.open(&Bucket::Named(bucket)), "opening a bucket");
    (store, Path::from(SystemIds.uuid().to_string()))
}

async fn put(store: &dyn ObjectStore, path: &Path, bytes: &[u8]) {
    let payload = PutPayload::from(bytes.to_vec());
    expect(store.put(path, payload).await.map_err(Into::into), "a put");
}

async fn read(store: &dyn ObjectStore, path: &Path) -> Option<Bytes> {
    match store.get(path).await {
        Ok(found) => Some(expect(
            found.bytes().await.map_err(Into::into),
            "reading an object",
        )),
        Err(Error::NotFound { .. }) => None,
        Err(error) => panic!("getting {path}: {error}"),
    }
}

async fn list(store: &dyn ObjectStore, prefix: &Path) -> Vec<ObjectMeta> {
    let listed = store.list(Some(prefix)).try_collect::<Vec<_>>().await;
    let mut listed = expect(listed.map_err(Into::into), "listing");
    listed.sort_by(|a, b| a.location.cmp(&b.location));
    listed
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place % 251) as u8).collect()
}

/// What is written through one handle is read through another.
pub async fn opening_a_bucket_twice_shows_the_same_objects(
    make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName),
) {
    let (buckets, name) = make().await;
    let bucket = Bucket::Named(name);
    let path = Path::from(format!("{}/object", SystemIds.uuid()));
    let one = expect(buckets.open(&bucket), "opening a bucket");
    put(&*one, &path, b"shared").await;
    let other = expect(buckets.open(&bucket), "opening a bucket again");
    assert_eq!(
        read(&*other, &path).await.as_deref(),
        Some(&b"shared"[..]),
        "a write through one handle is not seen through another"
    );
}

/// Whole reads, ranges, suffixes and metadata agree with what was written.
pub async fn an_object_comes_back_whole_and_in_ranges(
    make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName),
) {
    let (store, prefix) = open(make).await;
    for (name, bytes) in [("empty", 0), ("one", 1), ("large", 3_000_000)] {
        let content = numbered(bytes);
        let path = prefix.clone().join(name);
        put(&*store, &path, &content).await;
        assert!(
            read(&*store, &path).await.as_deref() == Some(&content),
            "{name}: other bytes came back"
        );
        let meta = expect(store.head(&path).await.map_err(Into::into), "a head");
        assert_eq!(meta.size, bytes as u64, "{name}: the size in the metadata");
    }
    let path = prefix.join("large");
    let content = numbered(3_000_000);
    let range = expect(
        store.get_range(&path, 1000..2000).await.map_err(Into::into),
        "a range",
    );
    assert!(
        range == content[1000..2000],
        "a range of an object has other bytes"
    );
    let ranges = [0..10, 2_999_990..3_000_000, 5..15];
    let found = expect(
        store.get_ranges(&path, &ranges).await.map_err(Into::into),
        "several ranges",
    );
    for (range, bytes) in ranges.iter().zip(&found) {
        assert!(
            *bytes == content[range.start as usize..range.end as usize],
            "range {range:?} has other bytes"
        );
    }
    let suffix = GetOptions::new().with_range(Some(object_store::GetRange::Suffix(8)));
    let tail = expect(
        store.get_opts(&path, suffix).await.map_err(Into::into),
        "a suffix",
    );
    let tail = expect(tail.bytes().await.map_err(Into::into), "reading a suffix");
    assert!(tail == content[2_999_992..], "a suffix has other bytes");
}

/// A shorter object over a longer one leaves nothing of it.
pub async fn a_put_replaces_the_whole_object(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let path = prefix.join("object");
    put(&*store, &path, b"a longer object").await;
    put(&*store, &path, b"short").await;
    assert_eq!(
        read(&*store, &path).await.as_deref(),
        Some(&b"short"[..]),
        "the old object shows"
    );
}

/// `PutMode::Create` answers `AlreadyExists` and leaves the object that is there.
pub async fn create_refuses_an_existing_object(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let path = prefix.join("object");
    let create = || PutOptions::from(PutMode::Create);
    let first = store
        .put_opts(&path, PutPayload::from_static(b"first"), create())
        .await;
    expect(first.map_err(Into::into), "creating an absent object");
    let second = store
        .put_opts(&path, PutPayload::from_static(b"second"), create())
        .await;
    assert!(
        matches!(second, Err(Error::AlreadyExists { .. })),
        "creating an existing object answered {second:?}"
    );
    assert_eq!(
        read(&*store, &path).await.as_deref(),
        Some(&b"first"[..]),
        "a refused create changed the object"
    );
}

/// Of creators at once, one succeeds, and its object is the one that is there.
pub async fn only_one_of_many_creators_wins(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let path = prefix.join("object");
    let creators = (0..8).map(|creator| {
        let content = format!("creator {creator}");
        let put = store.put_opts(&path, content.clone().into(), PutMode::Create.into());
        async move { put.await.map(|_| content) }
    });
    let outcomes = futures::future::join_all(creators).await;
    let mut winners = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
    let winner = winners
        .next()
        .unwrap_or_else(|| panic!("no creator won: {outcomes:?}"));
    assert_eq!(winners.next(), None, "two creators won");
    assert_eq!(
        read(&*store, &path).await.as_deref(),
        Some(winner.as_bytes()),
        "another creator's object is there"
    );
}

/// Parts that are uploaded side by side become one object at completion, over what was there before.
pub async fn an_upload_appears_whole_when_it_completes(
    make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName),
) {
    const PART: usize = 5 * 1024 * 1024;
    let (store, prefix) = open(make).await;
    let path = prefix.clone().join("object");
    put(&*store, &path, b"before").await;
    let content = numbered(2 * PART + 17);
    let mut upload = expect(
        store.put_multipart(&path).await.map_err(Into::into),
        "beginning an upload",
    );
    let parts: Vec<_> = content
        .chunks(PART)
        .map(|part| upload.put_part(PutPayload::from(part.to_vec())))
        .collect();
    let parts = futures::future::try_join_all(parts.into_iter().rev()).await;
    expect(parts.map_err(Into::into), "uploading parts side by side");
    assert_eq!(
        read(&*store, &path).await.as_deref(),
        Some(&b"before"[..]),
        "an upload shows before it completes"
    );
    let listed = list(&*store, &prefix).await;
    assert_eq!(
        listed.len(),
        1,
        "an upload is listed before it completes: {listed:?}"
    );
    expect(
        upload.complete().await.map_err(Into::into),
        "completing an upload",
    );
    assert!(
        read(&*store, &path).await.as_deref() == Some(&content),
        "an upload has other bytes"
    );
}

/// After an abort neither the object nor anything else is there.
pub async fn an_aborted_upload_leaves_nothing(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let path = prefix.clone().join("object");
    let mut upload = expect(
        store.put_multipart(&path).await.map_err(Into::into),
        "beginning an upload",
    );
    let part = upload.put_part(PutPayload::from_static(b"never")).await;
    expect(part.map_err(Into::into), "uploading a part");
    expect(upload.abort().await.map_err(Into::into), "aborting an upload");
    assert_eq!(read(&*store, &path).await, None, "an aborted upload is there");
    let listed = list(&*store, &prefix).await;
    assert!(listed.is_empty(), "an aborted upload is listed: {listed:?}");
}

/// Reads of names that are no object answer `NotFound`: absent ones, prefixes of objects, and names below one.
pub async fn an_absent_object_is_not_found(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let object = prefix.clone().join("directory").join("object");
    put(&*store, &object, b"here").await;
    for absent in [
        prefix.clone().join("absent"),
        prefix.clone().join("absent").join("object"),
        prefix.clone().join("directory"),
        object.clone().join("below"),
        object.clone().join("below").join("further"),
    ] {
        let got = store.get(&absent).await;
        assert!(
            matches!(got, Err(Error::NotFound { .. })),
            "getting {absent}: {got:?}"
        );
        let head = store.head(&absent).await;
        assert!(
            matches!(head, Err(Error::NotFound { .. })),
            "head of {absent}: {head:?}"
        );
        let range = store.get_range(&absent, 0..1).await;
        assert!(
            matches!(range, Err(Error::NotFound { .. })),
            "a range of {absent}: {range:?}"
        );
        let listed = list(&*store, &absent).await;
        let below = usize::from(absent == prefix.clone().join("directory"));
        assert_eq!(listed.len(), below, "listing {absent}: {listed:?}");
    }
}

/// Listing goes by whole path parts, to any depth, and tells sizes.
pub async fn listing_finds_what_lies_below_a_prefix(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let names = [
        "a/1.parquet",
        "a/b/2.parquet",
        "a/b/c/3.parquet",
        "ab/4.parquet",
        "5 caf\u{e9} %.parquet",
    ];
    for (place, name) in names.iter().enumerate() {
        let path = Path::from(format!("{prefix}/{name}"));
        put(&*store, &path, &numbered(place)).await;
        assert_eq!(
            read(&*store, &path).await.map(|bytes| bytes.len()),
            Some(place),
            "reading {path}"
        );
    }
    for (below, expected) in [
        ("", &names[..]),
        ("/a", &names[..3]),
        ("/a/b", &names[1..3]),
        ("/nothing", &[]),
    ] {
        let listed = list(&*store, &Path::from(format!("{prefix}{below}"))).await;
        let mut expected: Vec<_> = expected
            .iter()
            .map(|name| Path::from(format!("{prefix}/{name}")))
            .collect();
        expected.sort();
        let found: Vec<_> = listed.iter().map(|meta| meta.location.clone()).collect();
        assert_eq!(found, expected, "listing below \"{below}\"");
    }
    let sizes: u64 = list(&*store, &prefix).await.iter().map(|meta| meta.size).sum();
    assert_eq!(sizes, 1 + 2 + 3 + 4, "the sizes in a listing");
    let level = store.list_with_delimiter(Some(&prefix)).await;
    let level = expect(level.map_err(Into::into), "listing one level");
    assert_eq!(level.objects.len(), 1, "objects at one level: {level:?}");
    assert_eq!(
        level.common_prefixes,
        [prefix.clone().join("a"), prefix.join("ab")],
        "prefixes at one level"
    );
}

/// A delete removes one object; deleting an absent one, or a name above or below an object, changes nothing.
pub async fn deleting_leaves_the_neighbours(make: &impl AsyncFn() -> (Arc<dyn Buckets>, BucketName)) {
    let (store, prefix) = open(make).await;
    let one = prefix.clone().join("d").join("1");
    let other = prefix.clone().join("d").join("2");
    put(&*store, &one, b"1").await;
    put(&*store, &other, b"2").await;
    expect(store.delete(&one).await.map_err(Into::into), "a delete");
    for absent in [&one, &prefix.clone().join("d"), &other.clone().join("below")] {
        let again = store.delete(absent).await;
        expect(again.map_err(Into::into), "deleting what is no object");
    }
    assert_eq!(read(&*store, &one).await, None, "a deleted object is there");
    assert_eq!(
        read(&*store, &other).await.as_deref(),
        Some(&b"2"[..]),
        "a neighbour is gone"
    );
    expect(store.delete(&other).await.map_err(Into::into), "a delete");
    put(&*store, &one, b"anew").await;
    assert_eq!(
        read(&*store, &one).await.as_deref(),
        Some(&b"anew"[..]),
        "an object in the place of a deleted one"
    );
}
