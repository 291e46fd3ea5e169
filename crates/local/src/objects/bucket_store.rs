//! A directory as an object store.
//!
//! Reads and listings are those of [`LocalFileSystem`], with the answers of S3 for names that cannot be objects.
//! Writes are our own, since its writes and copies may be lost with the power, and its copies share their bytes
//! with the original.

use std::{
    error::Error as _,
    fmt,
    fs::{File, Metadata},
    io,
    io::Write,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use dormouse_core::ports::Ids;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    local::LocalFileSystem, path::Path,
};

use super::{
    staging::{Existing, Staged, invalid_path, is_staged_name, read_error, remove, write_error},
    upload::Upload,
};

/// How many deletes of a stream run at once.
const DELETES: usize = 10;

/// One bucket. Attributes such as content types are not kept.
#[derive(Clone, Debug)]
pub(super) struct BucketStore {
    root: PathBuf,
    inner: LocalFileSystem,
    ids: Arc<dyn Ids>,
}

impl BucketStore {
    pub(super) fn open(root: PathBuf, ids: Arc<dyn Ids>) -> dormouse_core::Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(&root)?;
        Ok(Self { root, inner, ids })
    }

    /// The file of an object to read.
    pub(super) fn readable(&self, location: &Path) -> Result<PathBuf> {
        let name = location.filename().filter(|name| !is_staged_name(name));
        match name {
            Some(_) => self.inner.path_to_filesystem(location),
            None => Err(read_error(location, io::ErrorKind::NotFound.into())),
        }
    }

    /// Begins a write of an object.
    pub(super) fn stage(&self, location: &Path) -> Result<Staged> {
        if location.filename().is_none_or(is_staged_name) {
            let reason = "a name may not be empty or end in '#' and digits";
            return Err(invalid_path(location.as_ref(), io::Error::other(reason)));
        }
        let target = self.inner.path_to_filesystem(location)?;
        Staged::create(&self.root, target, self.ids.random()).map_err(|error| write_error(location, error))
    }
}

impl fmt::Display for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.root.display())
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Like [`LocalFileSystem`]'s: the inode, the time of the last change in microseconds, and the size.
pub(super) fn e_tag(metadata: &Metadata) -> String {
    let changed = metadata.modified().ok();
    let changed = changed.and_then(|changed| changed.duration_since(UNIX_EPOCH).ok());
    let micros = changed.unwrap_or_default().as_micros();
    format!("{:x}-{micros:x}-{:x}", metadata.ino(), metadata.len())
}

pub(super) fn put_result(metadata: &Metadata) -> PutResult {
    PutResult {
        e_tag: Some(e_tag(metadata)),
        version: None,
    }
}

/// Whether a read failed since a part of the path is a file, or its end is a directory: then S3 has no such object.
fn is_absence(error: &Error) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                NotFound | NotADirectory | IsADirectory | InvalidFilename
            );
        }
        source = error.source();
    }
    false
}

fn as_absent(location: &Path, error: Error) -> Error {
    if is_absence(&error) {
        Error::NotFound {
            path: location.to_string(),
            source: error.into(),
        }
    } else {
        error
    }
}

#[async_trait]
impl ObjectStore for BucketStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let existing = match options.mode {
            PutMode::Overwrite => Existing::Replace,
            PutMode::Create => Existing::Refuse,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "a put on the condition of a version".to_owned(),
                    implementer: self.to_string(),
                });
            }
        };
        let (store, location) = (self.clone(), location.clone());
        blocking(move || {
            let staged = store.stage(&location)?;
            let mut file = staged.file();
            let metadata = payload
                .iter()
                .try_for_each(|chunk| file.write_all(chunk))
                .and_then(|()| staged.publish(existing))
                .map_err(|error| write_error(&location, error))?;
            Ok(put_result(&metadata))
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (store, location) = (self.clone(), location.clone());
        blocking(move || {
            let staged = store.stage(&location)?;
            let upload =
                Upload::new(location.clone(), staged).map_err(|error| write_error(&location, error))?;
            Ok(Box::new(upload) as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.readable(location)?;
        let got = self.inner.get_opts(location, options).await;
        got.map_err(|error| as_absent(location, error))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.readable(location)?;
        let got = self.inner.get_ranges(location, ranges).await;
        got.map_err(|error| as_absent(location, error))
    }

    /// Deleting an absent object is no error, as in S3.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                blocking(move || {
                    let location = location?;
                    if let Ok(path) = store.readable(&location) {
                        remove(&store.root, &path).map_err(|error| write_error(&location, error))?;
                    }
                    Ok(location)
                })
            })
            .buffered(DELETES)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        without_absences(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        without_absences(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.inner.list_with_delimiter(prefix).await {
            Err(error) if is_absence(&error) => Ok(ListResult {
                common_prefixes: Vec::new(),
                objects: Vec::new(),
            }),
            listed => listed,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let existing = match options.mode {
            CopyMode::Overwrite => Existing::Replace,
            CopyMode::Create => Existing::Refuse,
        };
        let (store, from, to) = (self.clone(), from.clone(), to.clone());
        blocking(move || {
            let source = File::open(store.readable(&from)?).map_err(|error| read_error(&from, error))?;
            copy_file(&from, &source, store.stage(&to)?, existing)
                .map_err(|error| write_error(&to, error))?;
            Ok(())
        })
        .await
    }
}

fn copy_file(from: &Path, mut source: &File, staged: Staged, existing: Existing) -> io::Result<()> {
    if source.metadata()?.is_dir() {
        return Err(io::Error::other(format!("{from} is a directory")));
    }
    io::copy(&mut source, &mut staged.file())?;
    staged.publish(existing)?;
    Ok(())
}

/// A listing below a name that cannot be a prefix finds nothing.
fn without_absences(
    listing: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    listing
        .filter(|entry| {
            let skipped = entry.as_ref().err().is_some_and(is_absence);
            futures::future::ready(!skipped)
        })
        .boxed()
}
