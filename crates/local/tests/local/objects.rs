//! Buckets as directories, and the operator's files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use dormouse_core::{
    Error, ErrorKind,
    ids::BucketName,
    ports::{Bucket, Buckets, Clock, SystemClock, SystemIds},
};
use dormouse_local::{DirectoryBuckets, LocalDirectory};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, integration, path::Path};
use tempfile::TempDir;

use crate::open;

fn data() -> Bucket {
    Bucket::Named(BucketName::new("data").expect("a bucket name"))
}

fn fixture() -> (TempDir, Arc<LocalDirectory>, Arc<dyn ObjectStore>) {
    let directory = TempDir::new().expect("a temporary directory");
    let local = open(directory.path());
    let store = local.buckets().open(&data()).expect("a bucket");
    (directory, local, store)
}

/// The names of all files and directories below `directory`, sorted.
fn everything_below(directory: &FilePath) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(everything_below(&path));
        }
    }
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_behaves_as_an_object_store() {
    let (_directory, _local, store) = fixture();
    integration::put_get_delete_list(&store).await;
    integration::list_with_offset_exclusivity(&store).await;
    integration::get_opts(&store).await;
    integration::list_uses_directories_correctly(&store).await;
    integration::list_with_delimiter(&store).await;
    integration::rename_and_copy(&store).await;
    integration::copy_if_not_exists(&store).await;
    integration::copy_rename_nonexistent_object(&store).await;
    integration::stream_get(&store).await;
    integration::put_opts(&store, false).await;
    integration::multipart_race_condition(&store, true).await;
    integration::multipart_out_of_order(&store).await;
}

#[tokio::test]
async fn a_put_and_an_upload_tell_the_version_that_reads_tell() {
    let (_directory, _local, store) = fixture();
    let path = Path::from("a/object");
    let put = store.put(&path, "text".into()).await.unwrap();
    assert_eq!(put.e_tag, store.head(&path).await.unwrap().e_tag);
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part("other".into()).await.unwrap();
    let completed = upload.complete().await.unwrap();
    assert_eq!(completed.e_tag, store.head(&path).await.unwrap().e_tag);
    assert_ne!(completed.e_tag, put.e_tag);
}

#[tokio::test]
async fn nothing_is_left_of_deleted_objects_and_refused_writes() {
    let (directory, _local, store) = fixture();
    let bucket = directory.path().join("buckets/data");
    let path = Path::from("t/data/partition_root/object");
    store.put(&path, "text".into()).await.unwrap();
    let create = object_store::PutMode::Create.into();
    store.put_opts(&path, "again".into(), create).await.unwrap_err();
    let mut upload = store.put_multipart(&Path::from("t/other")).await.unwrap();
    upload.put_part("text".into()).await.unwrap();
    drop(upload);
    store.copy(&path, &Path::from("t/copy")).await.unwrap();
    store.delete(&Path::from("t/copy")).await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(everything_below(&bucket), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_with_a_part_that_never_ran_does_not_complete() {
    let (_directory, _local, store) = fixture();
    let path = Path::from("object");
    let mut upload = store.put_multipart(&path).await.unwrap();
    drop(upload.put_part("lost".into()));
    upload.put_part("kept".into()).await.unwrap();
    upload.complete().await.unwrap_err();
    assert!(store.head(&path).await.is_err());
}

#[tokio::test]
async fn names_that_a_directory_cannot_hold_are_invalid() {
    let (_directory, _local, store) = fixture();
    store.put(&Path::from("object"), "text".into()).await.unwrap();
    store
        .put(&Path::from("prefix/object"), "text".into())
        .await
        .unwrap();
    for bad in [
        "object/below",
        "object/below/further",
        "prefix",
        "name#1",
        &"x".repeat(300),
    ] {
        let path = Path::parse(bad).unwrap();
        let error: Error = store.put(&path, "text".into()).await.unwrap_err().into();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}: {}", error.report());
        if bad != "object" {
            let error: Error = store.get(&path).await.unwrap_err().into();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{bad}: {}", error.report());
        }
    }
}

#[tokio::test]
async fn copies_share_no_file_with_their_source() {
    let (directory, local, store) = fixture();
    let (from, to) = (Path::from("t/object"), Path::from("e/copy"));
    store.put(&from, "text".into()).await.unwrap();
    let export = Bucket::Named(BucketName::new("export").unwrap());
    local.copy().copy((&data(), &from), (&export, &to)).await.unwrap();
    store.copy(&from, &to).await.unwrap();
    let buckets = directory.path().join("buckets");
    let inode = |path: &str| {
        let metadata = fs::metadata(buckets.join(path)).unwrap();
        assert_eq!(metadata.nlink(), 1, "{path} has another name");
        metadata.ino()
    };
    let inodes = [
        inode("data/t/object"),
        inode("export/e/copy"),
        inode("data/e/copy"),
    ];
    assert!(inodes[0] != inodes[1] && inodes[0] != inodes[2]);
}

#[tokio::test]
async fn old_uploads_are_removed_and_young_ones_complete() {
    let (directory, local, store) = fixture();
    let abandoned = directory.path().join("buckets/data/t/killed.parquet#17");
    store.put(&Path::from("t/object"), "text".into()).await.unwrap();
    fs::write(&abandoned, "a process was killed here").unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(local.uploads().abort_older_than(&data(), hour).await.unwrap(), 0);
    let long_ago =
        std::time::UNIX_EPOCH + Duration::from_millis(SystemClock.now().as_millis() as u64) - 2 * hour;
    fs::File::options()
        .write(true)
        .open(&abandoned)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let mut upload = store.put_multipart(&Path::from("t/young")).await.unwrap();
    upload.put_part("text".into()).await.unwrap();
    assert_eq!(local.uploads().abort_older_than(&data(), hour).await.unwrap(), 1);
    assert!(!abandoned.exists());
    upload.complete().await.unwrap();
    assert_eq!(
        local
            .uploads()
            .abort_older_than(&Bucket::Files, hour)
            .await
            .unwrap(),
        0
    );
}

/// A directory with `allowed/in.txt`, `outside/secret.txt`, and links in `allowed` that lead to both.
fn files() -> (TempDir, DirectoryBuckets) {
    let directory = TempDir::new().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    for (file, text) in [
        ("allowed/in.txt", "in"),
        ("allowed/deep/er/in.txt", "deeper"),
        ("outside/secret.txt", "secret"),
        ("allowed-not/secret.txt", "secret"),
    ] {
        fs::create_dir_all(at(file).parent().expect("a parent")).expect("a directory");
        fs::write(at(file), text).expect("a file");
    }
    for (target, link) in [
        ("outside/secret.txt", "allowed/link.txt"),
        ("outside", "allowed/link"),
        ("allowed", "allowed/deep/loop"),
        ("allowed/in.txt", "allowed/inner.txt"),
        ("nowhere", "allowed/broken"),
    ] {
        symlink(at(target), at(link)).expect("a link");
    }
    fs::create_dir(at("buckets")).expect("a directory");
    let allowed = [at("allowed")];
    let buckets = DirectoryBuckets::new(
        at("buckets"),
        &allowed,
        Arc::new(SystemClock),
        Arc::new(SystemIds),
    );
    (directory, buckets.expect("buckets"))
}

fn path_of(directory: &TempDir, name: &str) -> Path {
    let path: PathBuf = directory.path().join(name);
    Path::parse(path.display().to_string()).expect("a path")
}

#[tokio::test]
async fn files_below_allowed_directories_are_read_and_listed() {
    let (directory, buckets) = files();
    let store = buckets.open(&Bucket::Files).unwrap();
    for (name, text) in [
        ("in.txt", "in"),
        ("deep/er/in.txt", "deeper"),
        ("inner.txt", "in"),
    ] {
        let path = path_of(&directory, &format!("allowed/{name}"));
        let got = store.get(&path).await.unwrap();
        assert_eq!(got.meta.location, path);
        let (meta, bytes) = (got.meta.clone(), got.bytes().await.unwrap());
        assert_eq!(bytes, text);
        assert_eq!(store.get_range(&path, 1..2).await.unwrap(), text[1..2]);
        assert_eq!(store.head(&path).await.unwrap(), meta);
    }
    let allowed = path_of(&directory, "allowed");
    let listed: Vec<_> = store.list(Some(&allowed)).try_collect().await.unwrap();
    let names: Vec<_> = listed.iter().map(|meta| meta.location.clone()).collect();
    let expected = ["deep/er/in.txt", "in.txt", "inner.txt"];
    assert_eq!(
        names,
        expected.map(|name| path_of(&directory, &format!("allowed/{name}"))),
        "links that lead outside or round in circles are not followed"
    );
    assert_eq!(listed[1], store.head(&names[1]).await.unwrap());
    let level = store.list_with_delimiter(Some(&allowed)).await.unwrap();
    assert_eq!(level.common_prefixes, [path_of(&directory, "allowed/deep")]);
    assert_eq!(level.objects.len(), 2);
    let absent = store.get(&path_of(&directory, "allowed/absent")).await;
    assert_eq!(Error::from(absent.unwrap_err()).kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn no_path_escapes_the_allowed_directories() {
    let (directory, buckets) = files();
    let store = buckets.open(&Bucket::Files).unwrap();
    let outside = [
        path_of(&directory, "outside/secret.txt"),
        path_of(&directory, "outside/absent"),
        path_of(&directory, "allowed-not/secret.txt"),
        path_of(&directory, "allowed/link.txt"),
        path_of(&directory, "allowed/link/secret.txt"),
        path_of(&directory, "allowed/deep/loop/link/secret.txt"),
        Path::from("etc/passwd"),
        Path::default(),
    ];
    for path in &outside {
        let errors = [
            store.get(path).await.map(drop),
            store.head(path).await.map(drop),
            store.get_range(path, 0..1).await.map(drop),
            store
                .list(Some(path))
                .try_collect::<Vec<_>>()
                .await
                .map(|listed| assert!(listed.is_empty())),
            store.list_with_delimiter(Some(path)).await.map(drop),
        ];
        for error in errors {
            let error = Error::from(error.expect_err("an escape"));
            let report = error.report();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{path}: {report}");
            let allowed = directory.path().join("allowed").display().to_string();
            assert!(
                report.contains(path.as_ref()) && report.contains(&allowed),
                "{report}"
            );
        }
    }
    let parent = format!("{}/../outside/secret.txt", path_of(&directory, "allowed"));
    assert!(Path::parse(&parent).is_err());
    let escaped = store.get(&Path::from(parent)).await.unwrap_err();
    assert!(matches!(
        Error::from(escaped).kind(),
        ErrorKind::Invalid | ErrorKind::NotFound
    ));
    assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
}

#[tokio::test]
async fn files_of_the_machine_are_never_written() {
    let (directory, buckets) = files();
    let store = buckets.open(&Bucket::Files).unwrap();
    let path = path_of(&directory, "allowed/in.txt");
    let before = everything_below(directory.path());
    let errors = [
        store.put(&path, PutPayload::from_static(b"new")).await.map(drop),
        store.put_multipart(&path).await.map(drop),
        store.delete(&path).await,
        store.copy(&path, &path_of(&directory, "allowed/copy")).await,
        store.rename(&path, &path_of(&directory, "allowed/moved")).await,
    ];
    for error in errors {
        assert_eq!(
            Error::from(error.expect_err("a write")).kind(),
            ErrorKind::Invalid
        );
    }
    assert_eq!(everything_below(directory.path()), before);
    assert_eq!(
        fs::read_to_string(directory.path().join("allowed/in.txt")).unwrap(),
        "in"
    );
}

#[test]
fn files_are_refused_when_no_directory_is_allowed() {
    let directory = TempDir::new().unwrap();
    let error = open(directory.path()).buckets().open(&Bucket::Files).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let relative = [PathBuf::from("relative")];
    let clock = Arc::new(SystemClock);
    let error = LocalDirectory::open_with_files(directory.path(), &relative, clock, Arc::new(SystemIds));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}
