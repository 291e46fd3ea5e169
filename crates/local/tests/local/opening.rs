//! Opening a data directory.

use std::{fs, path::Path, sync::Arc};

use dormouse_core::{
    ErrorKind,
    collections::Collection,
    ids::BucketName,
    ports::{Bucket, Condition, Item, ItemKey, SystemClock, SystemIds},
};
use dormouse_local::LocalDirectory;
use tempfile::TempDir;

use crate::open;

fn refusal(path: &Path) -> dormouse_core::Error {
    LocalDirectory::open(path, Arc::new(SystemClock), Arc::new(SystemIds)).expect_err("a refusal")
}

#[tokio::test]
async fn what_was_written_is_there_when_the_directory_is_opened_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("new/directory");
    let item = Item::new(ItemKey::new(Collection::Heads, "t", ())).with("n", 1_i64);
    open(&path)
        .item_store()
        .put(item.clone(), Condition::NotExists)
        .await
        .unwrap();
    let again = open(&path);
    assert_eq!(again.item_store().get(&item.key).await.unwrap(), Some(item));
    assert!(again.spill().is_dir());
    for bucket in ["data", "export"] {
        assert!(path.join("buckets").join(bucket).is_dir());
    }
}

#[test]
fn a_bucket_exists_only_when_it_was_made() {
    let directory = TempDir::new().unwrap();
    let local = open(directory.path());
    let name = BucketName::new("landing").unwrap();
    let bucket = Bucket::Named(name.clone());
    let error = local.buckets().open(&bucket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("landing"), "{error}");
    local.create_bucket(&name).unwrap();
    local.create_bucket(&name).unwrap();
    local.buckets().open(&bucket).unwrap();
}

#[test]
fn a_newer_schema_version_is_refused() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()));
    let database = rusqlite::Connection::open(directory.path().join("dormouse.sqlite3")).unwrap();
    database.pragma_update(None, "user_version", 4711).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let message = error.to_string();
    assert!(message.contains("4711") && message.contains("newer"), "{message}");
}

#[test]
fn a_damaged_database_is_corrupt() {
    let directory = TempDir::new().unwrap();
    fs::write(
        directory.path().join("dormouse.sqlite3"),
        "not a database ".repeat(1000),
    )
    .unwrap();
    assert_eq!(refusal(directory.path()).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let error = refusal(&path);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}
