//! The machine's own files, for reading, below the directories that the operator allowed.
//!
//! A path is first compared as text, so that nothing outside is even looked at, and then with all its links
//! resolved, so that no link leads outside.

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    local::LocalFileSystem,
    path::{Path, PathPart},
};

use super::{
    bucket_store::{blocking, e_tag},
    staging::{failure, invalid_path, is_staged_name, read_error},
};

/// An object store of absolute paths without the slash at the start.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// As the operator wrote them.
    allowed: Vec<PathBuf>,
    /// With links resolved.
    resolved: Vec<PathBuf>,
    inner: LocalFileSystem,
}

/// The error of every write.
pub(super) fn read_only(location: &Path) -> Error {
    let reason = "files of the machine can only be read; write to a bucket";
    invalid_path(&format!("/{location}"), io::Error::other(reason))
}

impl Files {
    pub(super) fn new(allowed: &[PathBuf]) -> dormouse_core::Result<Self> {
        let resolve = |path: &PathBuf| {
            let resolved = fs::canonicalize(path);
            match resolved {
                Ok(resolved) if resolved.is_dir() && path.is_absolute() => Ok(resolved),
                _ => Err(dormouse_core::Error::invalid(format!(
                    "{} cannot be allowed for file:// paths: it is not the absolute path of a directory",
                    path.display()
                ))),
            }
        };
        Ok(Self {
            resolved: allowed
                .iter()
                .map(resolve)
                .collect::<dormouse_core::Result<_>>()?,
            allowed: allowed.to_vec(),
            inner: LocalFileSystem::new(),
        })
    }

    pub(super) fn check_any_allowed(&self) -> dormouse_core::Result<()> {
        match self.allowed.is_empty() {
            true => Err(dormouse_core::Error::invalid(
                "file:// paths are refused: no directory is allowed for them",
            )),
            false => Ok(()),
        }
    }

    fn refusal(&self, location: &Path) -> Error {
        let allowed: Vec<_> = self
            .allowed
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let allowed = if allowed.is_empty() {
            "none".to_owned()
        } else {
            allowed.join(", ")
        };
        let reason = format!("not below a directory that is allowed for file:// paths: {allowed}");
        invalid_path(&format!("/{location}"), io::Error::other(reason))
    }

    fn is_allowed(&self, resolved: &FilePath) -> bool {
        self.resolved.iter().any(|allowed| resolved.starts_with(allowed))
    }

    /// The file or directory at `location` with all links resolved.
    pub(super) fn resolve(&self, location: &Path) -> Result<PathBuf> {
        let path = FilePath::new("/").join(location.as_ref());
        let is_below = |allowed: &PathBuf| path.starts_with(allowed);
        if !self.allowed.iter().chain(&self.resolved).any(is_below)
            || location.parts().any(|part| matches!(part.as_ref(), "." | ".."))
        {
            return Err(self.refusal(location));
        }
        let resolved = fs::canonicalize(&path).map_err(|error| read_error(location, error))?;
        match self.is_allowed(&resolved) {
            true => Ok(resolved),
            false => Err(self.refusal(location)),
        }
    }

    /// The resolved file as a path of the inner store.
    fn inner_path(&self, location: &Path) -> Result<Path> {
        let resolved = self.resolve(location)?;
        if !resolved.is_file() || location.filename().is_none_or(is_staged_name) {
            return Err(read_error(location, io::ErrorKind::NotFound.into()));
        }
        Ok(Path::from_absolute_path(resolved)?)
    }

    /// The files below the directory `prefix`, and with `is_deep` those of its directories; else the directories.
    fn walk(&self, prefix: Option<&Path>, is_deep: bool) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut listed = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
        };
        match self.resolve(&prefix) {
            Ok(directory) if directory.is_dir() => {
                let walked = self.walk_directory(&prefix, directory, is_deep, &mut Vec::new(), &mut listed);
                walked.map_err(failure)?;
            }
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(listed)
    }

    /// `above` are the directories on the way, so that a link to one of them ends the walk.
    fn walk_directory(
        &self,
        prefix: &Path,
        directory: PathBuf,
        is_deep: bool,
        above: &mut Vec<PathBuf>,
        listed: &mut ListResult,
    ) -> io::Result<()> {
        if above.contains(&directory) {
            return Ok(());
        }
        let mut entries: Vec<_> = fs::read_dir(&directory)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        above.push(directory);
        for entry in entries {
            let name = entry.file_name();
            let part = name.to_str().filter(|name| !is_staged_name(name));
            let Some(part) = part.and_then(|name| PathPart::parse(name).ok()) else {
                continue;
            };
            // Links that lead nowhere or outside are no files of ours.
            let resolved = match fs::canonicalize(entry.path()) {
                Ok(resolved) if self.is_allowed(&resolved) => resolved,
                _ => continue,
            };
            let Ok(metadata) = fs::metadata(&resolved) else {
                continue;
            };
            let location = prefix.clone().join(part);
            if metadata.is_dir() && is_deep {
                self.walk_directory(&location, resolved, is_deep, above, listed)?;
            } else if metadata.is_dir() {
                listed.common_prefixes.push(location);
            } else if metadata.is_file() {
                listed.objects.push(ObjectMeta {
                    location,
                    last_modified: metadata.modified()?.into(),
                    size: metadata.len(),
                    e_tag: Some(e_tag(&metadata)),
                    version: None,
                });
            }
        }
        above.pop();
        Ok(())
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files below {:?}", self.allowed)
    }
}

#[async_trait]
impl ObjectStore for Files {
    async fn put_opts(&self, location: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only(location))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only(location))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (files, wanted) = (self.clone(), location.clone());
        let inner = blocking(move || files.inner_path(&wanted)).await?;
        let mut got = self.inner.get_opts(&inner, options).await?;
        got.meta.location = location.clone();
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (files, wanted) = (self.clone(), location.clone());
        let inner = blocking(move || files.inner_path(&wanted)).await?;
        self.inner.get_ranges(&inner, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|location| Err(read_only(&location?))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (files, prefix) = (self.clone(), prefix.cloned());
        let walked = blocking(move || files.walk(prefix.as_ref(), true));
        futures::stream::once(walked)
            .flat_map(|listed| {
                let entries = match listed {
                    Ok(listed) => listed.objects.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                futures::stream::iter(entries)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (files, prefix) = (self.clone(), prefix.cloned());
        blocking(move || files.walk(prefix.as_ref(), false)).await
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only(to))
    }
}
