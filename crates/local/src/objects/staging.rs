//! Writes that become visible whole, and are on disk before anybody is told.
//!
//! Bytes go to `<name>#<digits>` beside the target. The file is synced before it takes the target's name, so no
//! crash leaves a torn object under a name, and every directory from there up to the bucket is synced after, so
//! no crash forgets the name.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

use crate::directory::sync_directory;

/// What to do about an object that is at the target already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Replace,
    Refuse,
}

/// A write that is not visible yet. Dropping it forgets it.
#[derive(Debug)]
pub(crate) struct Staged {
    bucket: PathBuf,
    target: PathBuf,
    path: PathBuf,
    file: File,
    is_published: bool,
}

/// Whether a file of this name is a write that has not ended.
pub(crate) fn is_staged_name(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(_, suffix)| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Staged {
    /// Begins a write of `target`, below the directory `bucket`. `unique` is any number unlike others.
    pub(super) fn create(bucket: &Path, target: PathBuf, mut unique: u64) -> io::Result<Self> {
        let parent = target.parent().unwrap_or(bucket).to_owned();
        loop {
            let mut path = target.clone().into_os_string();
            path.push(format!("#{unique}"));
            let path = PathBuf::from(path);
            match File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Ok(file) => {
                    return Ok(Self {
                        bucket: bucket.to_owned(),
                        target,
                        path,
                        file,
                        is_published: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    unique = unique.wrapping_add(1);
                }
                // A delete may remove the directory again before the file is in it; then it is made again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => make_directories(&parent)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the write visible and durable.
    pub(crate) fn publish(mut self, existing: Existing) -> io::Result<Metadata> {
        self.file.sync_all()?;
        let published = match existing {
            Existing::Replace => self.replace(),
            Existing::Refuse => fs::hard_link(&self.path, &self.target),
        };
        published.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("the write was aborted as abandoned"),
            _ => error,
        })?;
        self.is_published = existing == Existing::Replace;
        sync_up_to(&self.bucket, &self.target)?;
        self.file.metadata()
    }

    fn replace(&self) -> io::Result<()> {
        let renamed = fs::rename(&self.path, &self.target);
        match renamed {
            // A directory that holds nothing is no object's prefix.
            Err(error)
                if error.kind() == io::ErrorKind::IsADirectory && fs::remove_dir(&self.target).is_ok() =>
            {
                fs::rename(&self.path, &self.target)
            }
            renamed => renamed,
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is swept with abandoned uploads.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make_directories(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(io::ErrorKind::NotADirectory, error))
        }
        // Another delete removed a directory above meanwhile; the caller tries again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        made => made,
    }
}

/// Makes the entries of all directories from `path`'s up to `bucket` durable.
fn sync_up_to(bucket: &Path, path: &Path) -> io::Result<()> {
    for directory in path.ancestors().skip(1) {
        match sync_directory(directory) {
            // The object was deleted already, and its directory with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
        if directory == bucket {
            break;
        }
    }
    Ok(())
}

/// Removes the file at `path` and the directories that this leaves empty, below `bucket`, durably. An absent file
/// is no error.
pub(super) fn remove(bucket: &Path, path: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    match fs::remove_file(path) {
        Err(error)
            if matches!(
                error.kind(),
                NotFound | NotADirectory | IsADirectory | InvalidFilename
            ) =>
        {
            return Ok(());
        }
        removed => removed?,
    }
    for directory in path.ancestors().skip(1) {
        if directory == bucket || fs::remove_dir(directory).is_err() {
            return match sync_directory(directory) {
                Err(error) if error.kind() == NotFound => Ok(()),
                synced => synced,
            };
        }
    }
    Ok(())
}

/// What a failed write means to a user of the store.
pub(crate) fn write_error(location: impl AsRef<str>, error: io::Error) -> object_store::Error {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, InvalidFilename, IsADirectory, NotADirectory};
    let path = location.as_ref().to_owned();
    match error.kind() {
        AlreadyExists => object_store::Error::AlreadyExists {
            path,
            source: error.into(),
        },
        NotADirectory | IsADirectory | DirectoryNotEmpty | InvalidFilename => invalid_path(&path, error),
        _ => failure(error),
    }
}

/// What a failed read means: names that cannot be objects are absent.
pub(crate) fn read_error(location: impl AsRef<str>, error: io::Error) -> object_store::Error {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    match error.kind() {
        NotFound | NotADirectory | IsADirectory | InvalidFilename => object_store::Error::NotFound {
            path: location.as_ref().to_owned(),
            source: error.into(),
        },
        _ => failure(error),
    }
}

pub(super) fn invalid_path(path: &str, error: io::Error) -> object_store::Error {
    object_store::Error::InvalidPath {
        source: object_store::path::Error::Canonicalize {
            path: path.into(),
            source: error,
        },
    }
}

pub(super) fn failure(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic {
        store: "directory",
        source: error.into(),
    }
}
