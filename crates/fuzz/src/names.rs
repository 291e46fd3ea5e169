//! Names, paths and locations: nothing may name what it is not meant to.
//!
//! `$ALLOWED` and `$SECRET` in a text stand for a directory that the operator allowed and for one beside it.

use std::{fs, os::unix::fs::symlink, path::Path as FilePath, sync::Arc};

use dormouse_core::{
    ErrorKind, Result,
    ids::{
        BucketName, ExportId, FileName, JobId, MAX_ID_BYTES, PartitionId, PinId, RunId, SubExportId, TableId,
        TableName,
    },
    message::Location,
    ports::{Bucket, Buckets, SystemClock, SystemIds},
};
use dormouse_local::DirectoryBuckets;
use object_store::{ObjectStoreExt, path::Path};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use crate::{source::fingerprint, text};

const SECRET: &[u8] = b"secret";

pub(crate) fn run(data: &[u8]) {
    let Some(text) = text(data) else { return };
    check_id(text, |text| TableName::new(text).map(String::from));
    check_id(text, |text| TableId::new(text).map(String::from));
    check_id(text, |text| PartitionId::new(text).map(String::from));
    check_id(text, |text| JobId::new(text).map(String::from));
    check_id(text, |text| RunId::new(text).map(String::from));
    check_id(text, |text| PinId::new(text).map(String::from));
    check_id(text, |text| ExportId::new(text).map(String::from));
    check_id(text, |text| SubExportId::new(text).map(String::from));
    check_id(text, |text| BucketName::new(text).map(String::from));
    check_file_name(text);
    WORLD.with(|world| world.check_location(text));
}

fn check_id(text: &str, make: impl Fn(&str) -> Result<String>) {
    let right = !text.is_empty()
        && text.len() <= MAX_ID_BYTES
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.starts_with('.');
    match make(text) {
        Ok(made) => {
            assert!(right, "{text:?} is no id");
            assert_eq!(made, text);
        }
        Err(error) => {
            assert!(!right, "{text:?} is an id");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}

/// The first line is a table, the second a partition or a path.
fn check_file_name(text: &str) {
    let mut lines = text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let table = TableId::new(first).or_else(|_| TableId::new("0a1b2c3d"));
    let Ok(table) = table else { return };
    if let Ok(partition) = PartitionId::new(second) {
        let name = FileName::new(&partition, Uuid::from_u128(fingerprint(text.as_bytes()).into()));
        let path = name.object_path(&table);
        assert_eq!(path.as_ref(), format!("{table}/data/{name}"));
        assert_eq!(FileName::from_object_path(&table, &path), Some(name));
    }
    for path in [Path::parse(text), Path::parse(format!("{table}/data/{second}"))]
        .into_iter()
        .flatten()
    {
        if let Some(name) = FileName::from_object_path(&table, &path) {
            assert!(path.as_ref().starts_with(&format!("{table}/data/")));
            let again = name.object_path(&table);
            assert_eq!(
                FileName::from_object_path(&table, &again),
                Some(name),
                "of {path}"
            );
        }
    }
}

thread_local! {
    static WORLD: World = World::new();
}

/// A bucket and an allowed directory, with secrets beside them.
struct World {
    buckets: DirectoryBuckets,
    allowed: String,
    secret: String,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let root = std::env::temp_dir().join("dormouse-fuzz-names");
        let root = Self::build(&root).unwrap_or_else(|error| panic!("no {}: {error}", root.display()));
        let allowed = root.join("allowed");
        Self {
            buckets: DirectoryBuckets::new(
                root.join("buckets"),
                std::slice::from_ref(&allowed),
                Arc::new(SystemClock),
                Arc::new(SystemIds),
            )
            .unwrap_or_else(|error| panic!("{error}")),
            allowed: allowed.display().to_string(),
            secret: root.join("secret").display().to_string(),
            runtime: Builder::new_current_thread()
                .build()
                .unwrap_or_else(|error| panic!("no runtime: {error}")),
        }
    }

    fn build(root: &FilePath) -> std::io::Result<std::path::PathBuf> {
        for directory in [
            "buckets/b/d",
            "buckets/other",
            "allowed/d",
            "allowedsecret",
            "secret",
        ] {
            fs::create_dir_all(root.join(directory))?;
        }
        for file in [
            "buckets/b/d/x.parquet",
            "allowed/x.parquet",
            "allowed/d/x.parquet",
        ] {
            fs::write(root.join(file), b"open")?;
        }
        for file in [
            "x.parquet",
            "buckets/x.parquet",
            "buckets/other/x.parquet",
            "allowedsecret/x.parquet",
            "secret/x.parquet",
        ] {
            fs::write(root.join(file), SECRET)?;
        }
        for (link, to) in [
            ("allowed/link", "../secret"),
            ("allowed/x-link", "../secret/x.parquet"),
        ] {
            match symlink(to, root.join(link)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        root.canonicalize()
    }

    fn check_location(&self, text: &str) {
        let text = text
            .replace("$ALLOWED", &self.allowed)
            .replace("$SECRET", &self.secret);
        let location: Location = match text.parse() {
            Ok(location) => location,
            Err(error) => {
                let error: dormouse_core::Error = error;
                return assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        };
        let again: Option<Location> = location.to_string().parse().ok();
        assert_eq!(again.as_ref(), Some(&location), "{text:?} is {location}");
        for part in location.path.parts() {
            let part = part.as_ref();
            assert!(
                !part.is_empty() && part != "." && part != ".." && !part.contains('/'),
                "{location}"
            );
        }
        let Ok(store) = self.buckets.open(&location.bucket) else {
            return;
        };
        let read = self
            .runtime
            .block_on(async { store.get(&location.path).await?.bytes().await });
        if let Ok(bytes) = read {
            let other = location.bucket == Bucket::Named(bucket("other"));
            assert!(bytes != SECRET || other, "{text:?} reads what is not allowed");
        }
        // Listing below a prefix.
        if location.bucket == Bucket::Files {
            let listed = self
                .runtime
                .block_on(store.list_with_delimiter(Some(&location.path)));
            for object in listed.map(|listed| listed.objects).unwrap_or_default() {
                let path = FilePath::new("/").join(object.location.as_ref());
                let resolved = path.canonicalize().unwrap_or(path);
                assert!(
                    resolved.starts_with(&self.allowed),
                    "{text:?} lists {}",
                    resolved.display()
                );
            }
        }
    }
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap_or_else(|error| panic!("{error}"))
}
