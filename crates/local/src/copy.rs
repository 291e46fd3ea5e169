//! Copies between buckets.
//!
//! The kernel moves the bytes, and shares them where the file system can share them until one side changes. Never
//! a hard link: whoever edits an export in place must not damage a table.

use std::{
    fs::File,
    io::{self, Read, Seek},
    sync::Arc,
};

use async_trait::async_trait;
use crc_fast::{CrcAlgorithm, Digest};
use dormouse_core::{
    Error, Result,
    file::Checksum,
    ports::{Bucket, CopyReceipt, ServerSideCopy},
};
use object_store::path::Path;

use crate::objects::{DirectoryBuckets, Existing, Staged, read_error, write_error};

#[derive(Debug)]
pub(crate) struct DirectoryCopy {
    buckets: Arc<DirectoryBuckets>,
}

impl DirectoryCopy {
    pub(crate) fn new(buckets: Arc<DirectoryBuckets>) -> Self {
        Self { buckets }
    }
}

#[async_trait]
impl ServerSideCopy for DirectoryCopy {
    async fn copy(&self, from: (&Bucket, &Path), to: (&Bucket, &Path)) -> Result<CopyReceipt> {
        let buckets = self.buckets.clone();
        let (from_bucket, from_path) = (from.0.clone(), from.1.clone());
        let (to_bucket, to_path) = (to.0.clone(), to.1.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let path = buckets.source_file(&from_bucket, &from_path)?;
            let source = open_file(&path).map_err(|error| read_error(&from_path, error))?;
            let staged = buckets.stage(&to_bucket, &to_path)?;
            Ok(copy(&source, staged).map_err(|error| write_error(&to_path, error))?)
        });
        copied
            .await
            .map_err(|failed| Error::internal("a copy panicked").with_source(failed))?
    }
}

fn open_file(path: &std::path::Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    }
}

fn copy(mut source: &File, staged: Staged) -> io::Result<CopyReceipt> {
    let mut target = staged.file();
    io::copy(&mut source, &mut target)?;
    target.rewind()?;
    let (bytes, checksum) = checksum(target)?;
    staged.publish(Existing::Replace)?;
    Ok(CopyReceipt { bytes, checksum })
}

fn checksum(mut file: &File) -> io::Result<(u64, Checksum)> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, Checksum(digest.finalize()))),
            read => {
                digest.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}
